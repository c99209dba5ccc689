"""Reads a request's body within its limits of time and size, and unpacks gzip."""

from __future__ import annotations

import time
import zlib
from typing import TYPE_CHECKING

from flask import Request
from werkzeug.exceptions import ClientDisconnected
from werkzeug.sansio.utils import get_content_length

from app.core.errors import Problem, ProblemType

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

_CHUNK = 64 * 1024
_PIECE = 16 * 1024
# Each member takes a decompressor of its own, however small it is.
_MAX_MEMBERS = 1_000
UNPACKED = "counted unpacked"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def read_body(
    request: Request, *, limit: int, seconds: float, media_types: tuple[str, ...], unpacked_limit: int | None = None
) -> bytes:
    """The body of at most `limit` bytes, without a byte order mark, read in at most `seconds` and unpacked to at most
    `unpacked_limit` (default `limit`).

    Raises Problem: 408 (late), 413 (too large), 415 (media type or content encoding), 400 (incomplete, or broken gzip).
    """
    # `request` is Flask's proxy: each of its attributes costs about a microsecond.
    environ = request.environ
    if environ.get("CONTENT_TYPE") not in media_types:
        _check_media_type(request, media_types)
    packed = _check_encoding(environ)
    counted = UNPACKED if unpacked_limit is None else "as it is sent"
    expected = get_content_length(environ.get("CONTENT_LENGTH"), environ.get("HTTP_TRANSFER_ENCODING"))
    body = _read(environ, expected, limit, seconds, counted)
    if packed:
        body = _unpack(body, limit if unpacked_limit is None else unpacked_limit)
    return body.removeprefix(_BYTE_ORDER_MARK)


def _check_media_type(request: Request, media_types: tuple[str, ...]) -> None:
    if request.mimetype not in media_types:
        sent = request.mimetype or "missing"
        raise Problem(
            ProblemType.UNSUPPORTED_MEDIA_TYPE,
            f"Content-Type is {sent[:80]!r}; it must be {' or '.join(media_types)}.",
        )
    charset = request.mimetype_params.get("charset", "utf-8").strip("'\" ").lower()
    if charset not in ("utf-8", "utf8"):
        raise Problem(ProblemType.UNSUPPORTED_MEDIA_TYPE, f"The charset is {charset[:40]!r}; it must be utf-8.")


def _check_encoding(environ: WSGIEnvironment) -> bool:
    encoding = environ.get("HTTP_CONTENT_ENCODING", "").strip().lower()
    if encoding in ("", "identity"):
        return False
    if encoding == "gzip":
        return True
    raise Problem(
        ProblemType.UNSUPPORTED_CONTENT_ENCODING,
        f"Content-Encoding is {encoding[:40]!r}; it must be gzip or absent.",
        headers={"Accept-Encoding": "gzip"},
    )


def _read(environ: WSGIEnvironment, expected: int | None, limit: int, seconds: float, counted: str) -> bytes:
    stream = environ["wsgi.input"]
    if expected is None and not environ.get("wsgi.input_terminated"):
        return b""
    if expected is not None and expected > limit:
        raise too_large(limit, counted)
    deadline = time.monotonic() + seconds
    parts, left = [], limit + 1 if expected is None else expected
    try:
        while left and (part := stream.read(min(_CHUNK, left))):
            parts.append(part)
            left -= len(part)
            # The server may have a deadline of its own; where it has none, one read can take longer than this.
            if time.monotonic() > deadline:
                raise TimeoutError
    except TimeoutError:
        raise Problem(
            ProblemType.REQUEST_TIMEOUT,
            f"The body did not arrive within {seconds:g} seconds.",
            headers={"Connection": "close"},
        ) from None
    except (OSError, ClientDisconnected):
        raise _incomplete(expected) from None
    if expected is None and not left:
        raise too_large(limit, counted)
    if expected is not None and left:
        raise _incomplete(expected)
    return b"".join(parts)


def _incomplete(expected: int | None) -> Problem:
    detail = (
        "The body is incomplete." if expected is None else f"The body ended before all of {expected} bytes arrived."
    )
    return Problem(ProblemType.MALFORMED_BODY, detail)


def too_large(limit: int, counted: str = UNPACKED) -> Problem:
    """The 413 of a body beyond `limit` bytes, packed or unpacked."""
    return Problem(ProblemType.BODY_TOO_LARGE, f"The body is larger than {limit} bytes ({counted}).")


def _unpack(body: bytes, limit: int) -> bytes:
    """Gunzip (all members of) `body`, never making more than `limit` bytes."""
    unpacked, position = bytearray(), 0
    for _ in range(_MAX_MEMBERS):
        member = zlib.decompressobj(wbits=31)
        while not member.eof and position < len(body):
            # In pieces: zlib copies what follows a member, and a body may have many members.
            piece = body[position : position + _PIECE]
            try:
                unpacked += member.decompress(piece, limit + 1 - len(unpacked))
            except zlib.error:
                raise Problem(ProblemType.MALFORMED_BODY, "Content-Encoding is gzip, but the body is not.") from None
            if len(unpacked) > limit:
                raise too_large(limit)
            position += len(piece) - len(member.unused_data)
        if body and not member.eof:
            raise Problem(ProblemType.MALFORMED_BODY, "The gzip body is cut off before its end.")
        if position == len(body):
            return bytes(unpacked)
    raise Problem(ProblemType.MALFORMED_BODY, f"The gzip body has more than {_MAX_MEMBERS} members.")
