"""The bytes of a request body: read within the limits, unpacked when they are gzip.

Comes in: the WSGI request. Goes out: at most `limit` bytes. Refused: 408 (did not arrive in time), 413 (too large, packed
or unpacked), 415 (another media type or content encoding), 400 (broken gzip).
"""

from __future__ import annotations

import time
import zlib

from flask import Request
from werkzeug.exceptions import ClientDisconnected

from app.core.errors import Problem, ProblemType

_CHUNK = 64 * 1024
_PIECE = 16 * 1024
# A length of fewer digits is nothing to think about.
_DIGITS = 16
# Each takes a decompressor of its own, however little is in it.
_MOST_MEMBERS = 1_000
UNPACKED = "counted unpacked"


def read_body(
    request: Request, *, limit: int, seconds: float, media_types: tuple[str, ...], unpacked_limit: int | None = None
) -> bytes:
    """The body, unpacked; raises Problem. `unpacked_limit`: where a packed body may hold more than it may have itself."""
    _check_media_type(request, media_types)
    packed = _check_encoding(request)
    body = _read(request, limit, seconds, UNPACKED if unpacked_limit is None else "as it is sent")
    return _unpack(body, limit if unpacked_limit is None else unpacked_limit) if packed else body


def _check_media_type(request: Request, media_types: tuple[str, ...]) -> None:
    if request.environ.get("CONTENT_TYPE") in media_types:
        return
    if request.mimetype not in media_types:
        sent = request.mimetype or "missing"
        raise Problem(
            ProblemType.UNSUPPORTED_MEDIA_TYPE,
            f"Content-Type is {sent[:80]!r}; it has to be {' or '.join(media_types)}.",
        )
    charset = request.mimetype_params.get("charset", "utf-8").strip("'\" ").lower()
    if charset not in ("utf-8", "utf8"):
        raise Problem(ProblemType.UNSUPPORTED_MEDIA_TYPE, f"The charset is {charset[:40]!r}; it has to be utf-8.")


def _check_encoding(request: Request) -> bool:
    encoding = request.environ.get("HTTP_CONTENT_ENCODING", "").strip().lower()
    if encoding in ("", "identity"):
        return False
    if encoding == "gzip":
        return True
    raise Problem(
        ProblemType.UNSUPPORTED_CONTENT_ENCODING,
        f"Content-Encoding is {encoding[:40]!r}; it has to be gzip or absent.",
        headers={"Accept-Encoding": "gzip"},
    )


def _read(request: Request, limit: int, seconds: float, counted: str) -> bytes:
    stream = request.environ["wsgi.input"]
    expected = _length(request)
    if expected is None and not request.environ.get("wsgi.input_terminated"):
        return b""
    if expected is not None and expected > limit:
        raise too_large(limit, counted)
    deadline = time.monotonic() + seconds
    parts, size = [], 0
    most = limit + 1 if expected is None else expected
    try:
        while size < most:
            part = stream.read(min(_CHUNK, most - size))
            if not part:
                break
            parts.append(part)
            size += len(part)
            if time.monotonic() > deadline:
                raise TimeoutError
    except TimeoutError:
        raise Problem(
            ProblemType.REQUEST_TIMEOUT,
            f"The body did not arrive within {seconds:g} seconds.",
            headers={"Connection": "close"},
        ) from None
    except (OSError, ClientDisconnected):
        raise Problem(ProblemType.MALFORMED_BODY, "The connection ended before the body did.") from None
    if size > limit:
        raise too_large(limit, counted)
    if expected is not None and size < expected:
        raise Problem(ProblemType.MALFORMED_BODY, f"The body ended after {size} of {expected} bytes.")
    return b"".join(parts)


def _length(request: Request) -> int | None:
    """How many bytes the body has by its Content-Length; None where that is not told."""
    said: str = request.environ.get("CONTENT_LENGTH", "")
    if said.isascii() and said.isdecimal() and len(said) < _DIGITS and "HTTP_TRANSFER_ENCODING" not in request.environ:
        return int(said)
    return request.content_length


def too_large(limit: int, counted: str = UNPACKED) -> Problem:
    """The 413 of a body beyond `limit` bytes, packed or unpacked."""
    return Problem(ProblemType.BODY_TOO_LARGE, f"The body is larger than {limit} bytes ({counted}).")


def _unpack(body: bytes, limit: int) -> bytes:
    """Gunzip (all members of) `body`, never making more than `limit` bytes."""
    unpacked, place = bytearray(), 0
    for _ in range(_MOST_MEMBERS):
        member = zlib.decompressobj(wbits=31)
        while not member.eof and place < len(body):
            # In pieces: what is left after a member is copied, and a body may have many of them.
            piece = body[place : place + _PIECE]
            try:
                unpacked += member.decompress(piece, limit + 1 - len(unpacked))
            except zlib.error:
                raise Problem(ProblemType.MALFORMED_BODY, "Content-Encoding is gzip, but the body is not.") from None
            if len(unpacked) > limit:
                raise too_large(limit)
            place += len(piece) - len(member.unused_data)
        if body and not member.eof:
            raise Problem(ProblemType.MALFORMED_BODY, "The gzip body is cut off before its end.")
        if place == len(body):
            return bytes(unpacked)
    raise Problem(ProblemType.MALFORMED_BODY, f"The gzip body has more than {_MOST_MEMBERS} members.")
