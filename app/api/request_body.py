"""Reads a request's body within its limits of time and size, and unpacks gzip."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import IO, TYPE_CHECKING, Any

from flask import Request
from msgspec import Struct
from werkzeug.exceptions import ClientDisconnected
from werkzeug.sansio.utils import get_content_length

from app.core.concurrency_limit import ConcurrencyLimit
from app.core.config import Settings
from app.core.errors import Problem, ProblemType
from app.core.gzip_body import BYTE_ORDER_MARK, UNPACKED, too_large, unpack

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

_CHUNK = 64 * 1024
# Bytes above which an account has a few bodies at once in a process.
LARGE_BODY = 512 * 1024
# Called with the bytes that there are of a body, or will be; may wait, and raises Problem.
CheckSize = Callable[[int], None]
# Where the environ of a request has its body once it was read: as bytes, or as a SentBody when reading or unpacking failed.
_BODY = "signalbox.body"


class LargeBodies:
    """The permit that an account needs for a request with a large body, before more than LARGE_BODY bytes of it are in memory.
    It is released at the end of the block."""

    def __init__(self, limit: ConcurrencyLimit, account_id: int) -> None:
        self._limit = limit
        self._account_id = account_id
        self._held: AbstractContextManager[None] | None = None

    def __enter__(self) -> LargeBodies:
        return self

    def __exit__(self, *exc: Any) -> None:
        if self._held is not None:
            self._held.__exit__(*exc)

    def check(self, size: int) -> None:
        """Wait for the permit if the body has so many bytes. Raises Problem 429 when none is free in time."""
        if size > LARGE_BODY and self._held is None:
            permit = self._limit.acquire(self._account_id)
            permit.__enter__()
            self._held = permit


class SentBody(Struct, frozen=True):
    """The body of a request. `text` is None when nothing was read, `is_complete` false when only a part was. `encoding`: how it
    is packed, where it was not unpacked."""

    text: bytes | None
    is_complete: bool
    encoding: str | None = None


def read_body(
    request: Request,
    *,
    limit: int,
    seconds: float,
    media_types: tuple[str, ...],
    unpacked_limit: int | None = None,
    check: CheckSize = lambda size: None,
) -> bytes:
    """The body of at most `limit` bytes, without a byte order mark, read in at most `seconds` and unpacked to at most
    `unpacked_limit` (default `limit`). `check` is called with its size before and while it grows.

    Raises what `check` raises, and Problem: 408 (late), 413 (too large), 415 (media type or content encoding), 400
    (incomplete, or broken gzip).
    """
    environ = request.environ
    if environ.get("CONTENT_TYPE") not in media_types:
        _check_media_type(request, media_types)
    packed = _check_encoding(environ)
    counted = UNPACKED if unpacked_limit is None else "as it is sent"
    body = _read(environ, _Limits(limit, seconds, counted, check))
    if packed:
        try:
            body = unpack(body, limit if unpacked_limit is None else unpacked_limit, check)
        except Problem:
            environ[_BODY] = SentBody(body, True, "gzip")
            raise
    environ[_BODY] = body = body.removeprefix(BYTE_ORDER_MARK)
    return body


def read_json(request: Request, settings: Settings) -> bytes:
    """The body of one event, or of one resource: `read_body` with the bounds that the settings have for it."""
    return read_body(
        request, limit=settings.max_event_bytes, seconds=settings.body_timeout, media_types=("application/json",)
    )


def read_as_sent(environ: WSGIEnvironment, *, limit: int, seconds: float, check: CheckSize) -> tuple[bytes, str]:
    """The body of at most `limit` bytes as it arrived, and its content encoding, whichever that is (empty: none). Raises what
    `check` raises, and Problem: 408, 413, 400 (incomplete)."""
    raw, encoding = _read(environ, _Limits(limit, seconds, "as it is sent", check)), _encoding_of(environ)
    environ[_BODY] = SentBody(raw, True, encoding or None)
    return raw, encoding


def read_sent_body(environ: WSGIEnvironment, *, limit: int, seconds: float) -> SentBody:
    """The body of a refused request: what was read of it, or else read now, after the response, if it has at most `limit` bytes.
    Raises nothing for a body that does not arrive."""
    found = environ.get(_BODY)
    if isinstance(found, bytes):
        return SentBody(found, True)
    if found is None and "HTTP_EXPECT" not in environ:
        # A sender that expects a word before it sends the body has got a refusal instead.
        try:
            return SentBody(_read(environ, _Limits(limit, seconds)), True, _encoding_of(environ) or None)
        except Problem:
            found = environ.get(_BODY)
    return found if isinstance(found, SentBody) else SentBody(None, False)


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
    encoding = _encoding_of(environ)
    if not encoding:
        return False
    if encoding == "gzip":
        return True
    raise Problem(
        ProblemType.UNSUPPORTED_CONTENT_ENCODING,
        f"Content-Encoding is {encoding[:40]!r}; it must be gzip or absent.",
        headers={"Accept-Encoding": "gzip"},
    )


def _encoding_of(environ: WSGIEnvironment) -> str:
    """The content encoding; empty for none."""
    encoding: str = environ.get("HTTP_CONTENT_ENCODING", "").strip().lower()
    return "" if encoding == "identity" else encoding[:80]


class _Limits(Struct, frozen=True):
    """What bounds the reading of a body. `counted`: what its bytes are, in the message of a 413."""

    bytes: int
    seconds: float
    counted: str = UNPACKED
    check: CheckSize = lambda size: None


def _read(environ: WSGIEnvironment, limits: _Limits) -> bytes:
    stream = environ["wsgi.input"]
    expected = get_content_length(environ.get("CONTENT_LENGTH"), environ.get("HTTP_TRANSFER_ENCODING"))
    if expected is None and not environ.get("wsgi.input_terminated"):
        return b""
    if expected is not None and expected > limits.bytes:
        raise too_large(limits.bytes, limits.counted)
    if expected is not None:
        limits.check(expected)
    parts: list[bytes] = []
    try:
        _read_parts(parts, stream, expected, limits)
    except Problem:
        environ[_BODY] = SentBody(b"".join(parts) or None, False, _encoding_of(environ) or None)
        raise
    return b"".join(parts)


def _read_parts(parts: list[bytes], stream: IO[bytes], expected: int | None, limits: _Limits) -> None:
    deadline = time.monotonic() + limits.seconds
    total = left = limits.bytes + 1 if expected is None else expected
    try:
        while left and (part := stream.read(min(_CHUNK, left))):
            parts.append(part)
            left -= len(part)
            limits.check(total - left)
            # The server may have a deadline of its own; where it has none, one read can take longer than this.
            if time.monotonic() > deadline:
                raise TimeoutError
    except TimeoutError:
        raise Problem(
            ProblemType.REQUEST_TIMEOUT,
            f"The body did not arrive within {limits.seconds:g} seconds.",
            headers={"Connection": "close"},
        ) from None
    except (OSError, ClientDisconnected):
        raise _incomplete(expected) from None
    if expected is None and not left:
        raise too_large(limits.bytes, limits.counted)
    if expected is not None and left:
        raise _incomplete(expected)


def _incomplete(expected: int | None) -> Problem:
    detail = (
        "The body is incomplete." if expected is None else f"The body ended before all of {expected} bytes arrived."
    )
    return Problem(ProblemType.MALFORMED_BODY, detail)
