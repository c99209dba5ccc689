"""Generated sequences of HTTP requests on one connection, valid and ambiguous ones, and an app that records what it sees.

`RECORDER` is the app. Each request names its sequence and its number in the path, so that what the app has seen can be
compared with what was sent. Ambiguous requests carry a further request inside, which must never reach the app.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from hashlib import sha1

from tests.support.ambiguous_requests import (
    ALL,
    AMBIGUOUS_LINES,
    BROKEN_CHUNKS,
    CHUNKS,
    HARMLESS_LINES,
    HIDDEN,
    INVALID_FIRST_LINES,
    SMUGGLED,
)

RECORDER = """
import hashlib
import json

SEEN = {}
STRAY = []

def body_of(environ, kind):
    if kind == "unread":
        return "unread"
    try:
        if kind == "part":
            return "part" if len(environ["wsgi.input"].read(3)) <= 3 else "too much"
        return hashlib.sha1(environ["wsgi.input"].read()).hexdigest()
    except OSError:
        return "broken"

def app(environ, start_response):
    path, answer = environ["PATH_INFO"], b"ok"
    if path == "/seen":
        answer = json.dumps({"seen": SEEN, "stray": STRAY}).encode()
    elif path != "/health":
        try:
            _, kind, sequence, number = path.split("/")
            assert kind in ("read", "part", "unread") and environ["REQUEST_METHOD"] in ("GET", "POST", "PUT", "HEAD")
            SEEN.setdefault(int(sequence), []).append([int(number), body_of(environ, kind)])
        except (ValueError, AssertionError):
            STRAY.append(environ["REQUEST_METHOD"] + " " + path)
    start_response("200 OK", [("Content-Length", str(len(answer))), ("X-App", environ["REQUEST_METHOD"] + path)])
    return [] if environ["REQUEST_METHOD"] == "HEAD" else [answer]
"""


@dataclass
class Sequence:
    """What is sent on one connection, and what the app may see of it."""

    number: int
    sent: bytes = b""
    # By number: what the app has to record of a request, exactly.
    expected: list[tuple[int, str]] = field(default_factory=list)
    # What it may record beyond: of an ambiguous or incomplete request, nothing else follows.
    tolerated: list[tuple[int, str]] = field(default_factory=list)
    # Where each expected request ends.
    ends: list[int] = field(default_factory=list)
    what: str = "valid"

    def add(self, sent: bytes, record: tuple[int, str]) -> None:
        """One more valid request."""
        self.sent += sent
        self.expected.append(record)
        self.ends.append(len(self.sent))

    def renumbered(self, number: int) -> Sequence:
        """The same, just as long, under another number."""
        return replace(self, number=number, sent=self.sent.replace(b"/%06d/" % self.number, b"/%06d/" % number))

    def cut(self, end: int) -> Sequence:
        """What is left when the client stops sending after `end` bytes."""
        whole = sum(1 for one in self.ends if one <= end)
        tolerated = [(whole, record) for record in ("broken", "unread", "part")]
        return replace(self, sent=self.sent[:end], expected=self.expected[:whole], tolerated=tolerated, what="cut")

    def permits(self, seen: list[tuple[int, str]]) -> bool:
        """Whether the app has seen what it should, and nothing else."""
        count = len(self.expected)
        return seen[:count] == self.expected and (
            seen[count:] == [] or seen[count:] in [[one] for one in self.tolerated]
        )


class Generator:
    """Makes sequences from a seed; `usual`: only of such requests as any client sends."""

    def __init__(self, seed: int, *, usual: bool = False) -> None:
        self._rng = random.Random(seed)
        self._number = 0
        self._usual = usual

    def sequence(self) -> Sequence:
        """A few valid requests; then perhaps one that has to be refused, with valid ones behind it."""
        self._number += 1
        made = Sequence(self._number)
        for number in range(self._rng.choice((0, 1, 1, 2, 3))):
            self._add_valid(made, number)
        number = len(made.expected)
        if not self._usual and self._rng.random() < 0.6:
            self._add_refused(made, number)
            made.sent += (
                SMUGGLED + b"GET %s HTTP/1.1\r\nHost: x\r\n" % self._path(number + 1) + b"Connection: close\r\n\r\n"
            )
        else:
            self._add_valid(made, number, close=True)
            # What follows the last request of a connection is not read.
            made.sent += self._rng.choice((b"", SMUGGLED))
        return made

    def _path(self, number: int, kind: str = "read") -> bytes:
        return b"/%s/%06d/%d" % (kind.encode(), self._number, number)

    def _spelt(self, usual: bytes, *others: bytes) -> bytes:
        """One of several spellings of the same."""
        return usual if self._usual else self._rng.choice((usual, usual, *others))

    def _add_valid(self, made: Sequence, number: int, *, close: bool = False) -> None:
        rng, body = self._rng, self._body()
        kind = rng.choice(("read", "read", "read", "unread", "part"))
        method, version = rng.choice((b"POST", b"PUT")), b"HTTP/1.1"
        lines = [b"Host: x\r\n", *self._harmless_lines()]
        framing = rng.choice(("length", "length", "chunks", "none", "http/1.0"))
        if framing == "none":
            method, body, encoded = rng.choice((b"GET", b"HEAD", b"POST")), b"", b""
        elif framing == "chunks":
            lines.append(self._spelt(CHUNKS, b"transfer-encoding:chunked\r\n", b"TRANSFER-ENCODING: \t Chunked \t\r\n"))
            encoded = self._chunked(body)
        else:
            length = self._spelt(b"Content-Length: %d\r\n", b"content-length:%06d\r\n", b"CONTENT-LENGTH:\t%d \r\n")
            lines.append(length % len(body))
            encoded = body
        if framing == "http/1.0":
            version = b"HTTP/1.0"
            lines = [line for line in lines if not line.startswith(b"Connection")]
            lines.append(b"Connection: close\r\n" if close else b"Connection: keep-alive\r\n")
        elif close:
            lines.append(self._spelt(b"Connection: close\r\n", b"connection: Close\r\n", b"Connection: x , close\r\n"))
        rng.shuffle(lines)
        target = (
            self._spelt(b"", b"http://other.test:81") + self._path(number, kind) + self._spelt(b"", b"?", b"?a=/b?c%20")
        )
        first = self._spelt(b"", b"\r\n") + b"%s %s %s\r\n" % (method, target, version)
        record = kind if kind != "read" else sha1(body).hexdigest()
        made.add(first + b"".join(lines) + b"\r\n" + encoded, (number, record))

    def _add_refused(self, made: Sequence, number: int) -> None:
        rng = self._rng
        kind = rng.choice(("read", "read", "unread", "part"))
        path, host = self._path(number, kind), b"Host: x\r\n"
        which = rng.choice(("lines", "lines", "lines", "chunks", "chunks", "first", "http/1.0"))
        if which == "lines":
            name = rng.choice(list(AMBIGUOUS_LINES))
            lines, body = AMBIGUOUS_LINES[name]
            sent = b"POST %s HTTP/1.1\r\n" % path + rng.choice((host + lines, lines + host)) + b"\r\n" + body
        elif which == "chunks":
            name = rng.choice(list(BROKEN_CHUNKS))
            sent = b"POST %s HTTP/1.1\r\n" % path + host + CHUNKS + b"\r\n" + BROKEN_CHUNKS[name]
            made.tolerated = [(number, kind if kind != "read" else "broken"), (number, "broken")]
        elif which == "first":
            line = rng.choice(INVALID_FIRST_LINES)
            name = repr(line[:20] + line[-30:])
            sent = (line % path if b"%s" in line else line) + host + ALL + b"\r\n" + HIDDEN
        else:
            name = "chunks in HTTP/1.0"
            sent = b"POST %s HTTP/1.0\r\n" % path + host + CHUNKS + b"Connection: keep-alive\r\n\r\n" + HIDDEN
        made.what = f"{which}: {name}"
        made.sent += sent

    def _body(self) -> bytes:
        rng = self._rng
        body = rng.choice(
            (b"", b"hello", b"\r\n\r\n", SMUGGLED, b"hello" + SMUGGLED, HIDDEN, bytes(range(256)), b"0\r\n\r\n")
        )
        if rng.random() < 0.05:
            body = (body or b"x") * rng.choice((20, 100, 300))
        return body

    def _harmless_lines(self) -> list[bytes]:
        return self._rng.sample(HARMLESS_LINES, 0 if self._usual else self._rng.choice((0, 0, 1, 3)))

    def _chunked(self, body: bytes) -> bytes:
        rng, encoded = self._rng, b""
        while body:
            size = rng.choice((1, 5, 100, len(body))) if len(encoded) < 3_000 else len(body)
            part, body = body[:size], body[size:]
            line = self._spelt(b"%x", b"%X", b"0%x", b"%x;a=b", b'%x ; a="b;\tc"', b"%x;GET / HTTP/1.1")
            encoded += line % len(part) + b"\r\n" + part + b"\r\n"
        trailers = self._spelt(b"", b"X-Trailer: y\r\n", b"Content-Length: 5\r\nX: \xe4\r\n")
        return encoded + self._spelt(b"0", b"000", b"0;x") + b"\r\n" + trailers + b"\r\n"
