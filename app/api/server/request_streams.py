"""What a client sends, as streams: bytes that arrive before a deadline, and the body in a chunked request."""

from __future__ import annotations

import io
import re
import time
from typing import Any

import gevent
from gevent.socket import socket as GreenSocket

_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,16})[ \t]*(?:;[\t -~]*)?\r\n")
_TRAILER = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t -~\x80-\xff]*\r\n")
# Bytes of one line of a chunk's size or of a trailer, and lines of trailers.
_MAX_LINE = 1024
_MAX_TRAILERS = 64


class ClientStream(io.RawIOBase):
    """The bytes that a client sends; a read raises TimeoutError after `deadline` (by time.monotonic(); None: never).

    `failed` is true after the first error. From then on it is unknown where the next request begins.
    """

    def __init__(self, client: GreenSocket) -> None:
        super().__init__()
        self._client = client
        self.deadline: float | None = None
        self.failed = False
        self._more_is_there = False

    def readable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read what has arrived, or wait for it; 0 at the end."""
        try:
            if self._more_is_there:
                # A client that sends without a pause never makes gevent wait. Neither does sleep(0), which skips the event loop.
                gevent.sleep(1e-6)
            remaining = None if self.deadline is None else self.deadline - time.monotonic()
            if remaining is not None and remaining <= 0:
                raise TimeoutError("the deadline has passed")
            self._client.settimeout(remaining)
            count = self._client.recv_into(buffer)
            self._more_is_there = count == len(buffer)
            return count
        except BaseException:
            self.failed = True
            raise


class ChunkedBody(io.RawIOBase):
    """The body of a request with `Transfer-Encoding: chunked` (RFC 9112, section 7.1).

    gevent's own reader accepts a bare LF in chunk extensions and trailers, where other implementations see the end of the
    line. This one raises ConnectionResetError for everything that breaks the encoding.
    """

    def __init__(self, rfile: io.BufferedReader[Any], stream: ClientStream) -> None:
        super().__init__()
        self._rfile = rfile
        self._stream = stream
        # Of the current chunk, and whether it was the last one.
        self._left = 0
        self._ended = False

    def readable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read a part of the current chunk, or of the next one; 0 at the end of the body."""
        if not self._left and not self._ended:
            self._start_chunk()
        if self._ended:
            return 0
        count = self._rfile.readinto1(memoryview(buffer)[: self._left])
        self._left -= count
        self._check(count > 0 and (self._left > 0 or self._rfile.read(2) == b"\r\n"))
        return count

    def _start_chunk(self) -> None:
        size = _CHUNK_SIZE.fullmatch(self._rfile.readline(_MAX_LINE))
        self._check(size is not None)
        self._left = int(size[1], 16) if size else 0
        if self._left:
            return
        for _ in range(_MAX_TRAILERS):
            line = self._rfile.readline(_MAX_LINE)
            if line == b"\r\n":
                self._ended = True
                return
            self._check(_TRAILER.fullmatch(line) is not None)
        self._check(False)

    def _check(self, valid: bool) -> None:
        if not valid:
            self._stream.failed = True
            raise ConnectionResetError("the chunked encoding of the body is broken")
