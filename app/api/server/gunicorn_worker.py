"""gunicorn's gevent worker with two differences: whole requests arrive in time, and errors are problem documents.

Each connection is a greenlet: who waits (for a slow sender, for Postgres, for Redis) holds up nobody else, and the app stays
as synchronous as it is written.

Comes in: connections. Goes out: requests for the WSGI app, plain ones by a short way (`plain_requests`); or, for what is no
request, an `application/problem+json` in place of gunicorn's HTML page, which never repeats what was sent. A request (head
and body) has BODY_TIMEOUT seconds from its first byte, however fast it comes. Then a head is answered 408; a read of the body
raises TimeoutError in the app; a connection on which nothing came is closed. A body that breaks the chunked encoding raises
ConnectionResetError in the app.
"""

from __future__ import annotations

import errno
import json
import os
import time
import uuid
from collections.abc import Callable
from contextlib import nullcontext, suppress
from email.utils import formatdate
from functools import partial
from io import BytesIO
from socket import MSG_PEEK, SHUT_RDWR
from typing import Any

import gevent
from gevent import GreenletExit
from gevent.socket import socket as GreenSocket
from gunicorn import util
from gunicorn.http import errors
from gunicorn.http.body import Body, LengthReader
from gunicorn.http.unreader import SocketUnreader
from gunicorn.workers.ggevent import GeventWorker

from app.api.server.plain_requests import Pieces, PlainRequest, PlainRequests, PlainResponse, may_be_short

PATIENCE = float(os.environ.get("BODY_TIMEOUT", "").strip() or 20.0)
# Seconds for which a client is heard out that has got its last answer.
LINGER = 2.0


class LateHeadError(Exception):
    """The head of a request was begun and not finished in time."""


# The first that fits counts: special before general.
ANSWERS: tuple[tuple[type[Exception], int, str, str], ...] = (
    (LateHeadError, 408, "Request time-out", f"The request did not arrive within {PATIENCE:g} seconds."),
    (errors.InvalidResponseHeader, 500, "Internal error", "This should not have happened; it is logged."),
    (errors.InvalidResponseHeaderName, 500, "Internal error", "This should not have happened; it is logged."),
    (errors.ConfigurationProblem, 500, "Internal error", "The server is set up wrongly; it is logged."),
    (errors.LimitRequestLine, 414, "URI too long", "The first line of the request is too long."),
    (
        errors.LimitRequestHeaders,
        431,
        "Request header fields too large",
        "There are too many headers, or one too long.",
    ),
    (errors.ExpectationFailed, 417, "Expectation failed", "Expect can only be 100-continue."),
    (errors.UnsupportedTransferCoding, 501, "Not implemented", "Transfer-Encoding can only be chunked."),
    (errors.InvalidHTTPVersion, 505, "HTTP version not supported", "The request has to be HTTP/1.0 or HTTP/1.1."),
    (errors.InvalidRequestMethod, 400, "Malformed request", "The method is not one that HTTP knows."),
    (errors.InvalidRequestLine, 400, "Malformed request", "The first line is not `METHOD target HTTP/1.1`."),
    (errors.InvalidHeaderName, 400, "Malformed request", "A header's name has characters that no name can have."),
    (errors.InvalidHeader, 400, "Malformed request", "A header is malformed, repeated or contradicts another one."),
    (errors.ObsoleteFolding, 400, "Malformed request", "A header goes on in a second line, which HTTP has given up."),
    (errors.ForbiddenProxyRequest, 403, "Forbidden", "This address may not speak for others."),
    (errors.ParseException, 400, "Malformed request", "The request is not valid HTTP."),
)


def explain(wrong: BaseException) -> tuple[int, str, str]:
    """Status, title and detail for what gunicorn could not take; anything unknown is our own fault, a 500."""
    for kind, status, title, detail in ANSWERS:
        if isinstance(wrong, kind):
            return status, title, detail
    return 500, "Internal error", "This should not have happened; it is logged."


def problem_bytes(status: int, title: str, detail: str, request_id: str) -> bytes:
    """A whole HTTP answer with a problem document, which ends the connection."""
    body = json.dumps({"type": "about:blank", "title": title, "status": status, "detail": detail})
    head = (
        f"HTTP/1.1 {status} {title}\r\n"
        "Content-Type: application/problem+json\r\n"
        f"Content-Length: {len(body)}\r\n"
        f"X-Request-Id: {request_id}\r\n"
        "Connection: close\r\n\r\n"
    )
    return (head + body).encode("ascii")


class PatientSocket(GreenSocket):
    """A client's connection on which a whole request arrives within `patience` seconds of its first byte, and an answer
    leaves as quickly. The first byte may take `keepalive` seconds, on a new connection no longer than a request.

    Where there is a short way, gunicorn sees only those requests that do not take it: each other one is answered as soon as
    gunicorn would receive it. `short_way` takes what a request begins with and returns what comes behind it, or None."""

    # Of gevent's, which tells no types of them: the socket beneath, and how to wait for it.
    _sock: Any
    _read_event: Any
    _wait: Any

    def __init__(self, client: Any, patience: float, keepalive: float) -> None:
        super().__init__(client.family, client.type, client.proto, fileno=client.detach())
        self.patience = patience
        self.keepalive = keepalive
        self.deadline = time.monotonic() + patience
        self.begun = False
        self.head_is_complete = False
        self.closing = False
        self.hung_up = False
        self.short_way: Callable[[bytes], bytes | None] | None = None
        # Whether gunicorn has got nothing yet of the request that comes next, and what has come of it.
        self._at_the_beginning = True
        self._ahead = b""
        self._held: list[bytes] | None = None

    def expect_request(self, ahead: bytes = b"") -> None:
        """From now on the next request counts. `ahead`: what is there of it."""
        self._at_the_beginning, self._ahead = True, ahead
        self.begun = bool(ahead)
        self.deadline = time.monotonic() + (self.patience if ahead else self.keepalive)
        self.head_is_complete = False

    def recv(self, *arguments: Any) -> bytes:
        """As ever, but never beyond the deadline, and without what takes the short way."""
        while True:
            if self._ahead:
                # Whoever sends many requests at once lets everybody else in between.
                gevent.sleep(0)
            data, self._ahead = self._ahead or self._receive(*arguments), b""
            at_the_beginning, self._at_the_beginning = self._at_the_beginning, False
            # Whoever reads on while this request is answered reads its body: never another request.
            rest = self.short_way(data) if data and at_the_beginning and self.short_way is not None else None
            if rest is None:
                return data
            self.expect_request(rest)

    def _receive(self, *arguments: Any) -> bytes:
        # A request that has not begun is hardly ever there already, and needs no timer: `notify` looks at its deadline.
        to_come = not self.begun and not self.closing
        if not to_come:
            # What keeps coming is read at once: it must neither keep everybody else waiting nor come for ever.
            gevent.sleep(0)
            if (left := self.deadline - time.monotonic()) <= 0:
                raise self._lateness()
        self.settimeout(None if to_come else left)
        try:
            if to_come:
                self._wait(self._read_event)
            data: bytes = super().recv(*arguments)
        except TimeoutError:
            raise self._lateness() from None
        except OSError:
            if self.hung_up:
                return b""
            raise
        if not self.begun and data:
            self.begun = True
            self.deadline = time.monotonic() + self.patience
        return data

    def hold(self) -> None:
        """Keep what is sent from now on until `release`: head and body of an answer leave together."""
        self._held = []

    def release(self) -> None:
        """Send what was kept."""
        held, self._held = self._held, None
        if held:
            self.sendall(b"".join(held))

    def sendall(self, data: Any, flags: int = 0) -> None:
        """As ever; a client that does not take its answer counts as gone."""
        if self._held is not None:
            self._held.append(bytes(data))
            return
        try:
            sent = self._sock.send(data, flags)
        except BlockingIOError:
            sent = 0
        if sent == len(data):
            return
        self.settimeout(self.patience)
        try:
            super().sendall(memoryview(data)[sent:], flags)
        except BaseException as wrong:
            # Whatever was sent now, such as a problem document, would be taken for the rest of this.
            self.hang_up()
            if isinstance(wrong, TimeoutError):
                raise ConnectionResetError(errno.ECONNRESET, "the client does not take its answer") from None
            raise

    def is_silent(self) -> bool:
        """Whether nothing of a request has come, not even what nobody has read yet."""
        if self.begun:
            return False
        try:
            self._sock.recv(1, MSG_PEEK)
        except OSError:
            return True
        return False

    def hang_up(self) -> None:
        """Nothing is read any more; for who waits to read it is as if the client had closed."""
        self.hung_up = True
        with suppress(OSError):
            self.shutdown(SHUT_RDWR)

    def close(self) -> None:
        """Say that nothing more is coming, and hear the client out for a moment: to hang up on one that is still sending
        would take the last answer away from it."""
        if self.closing:
            super().close()
            return
        self.closing = self.head_is_complete = True
        self.short_way, self._ahead = None, b""
        self.deadline = time.monotonic() + LINGER
        util.close_graceful(self, LINGER)

    def _lateness(self) -> Exception:
        if self.head_is_complete:
            return TimeoutError("the body did not arrive in time")
        if self.begun:
            return LateHeadError("the head did not arrive in time")
        return ConnectionResetError(errno.ECONNRESET, "no request came")


class CheckedReader:
    """A request's body; breaking the chunked encoding raises what a broken connection raises, which apps know."""

    def __init__(self, request: Any) -> None:
        self._request = request
        self._reader = request.body.reader

    def read(self, size: int) -> bytes:
        """Up to `size` bytes; empty at the end. After an error nobody knows where the next request would begin."""
        try:
            data: bytes = self._reader.read(size)
            return data
        except errors.ParseException:
            self._request.force_close()
            raise ConnectionResetError(errno.ECONNRESET, "the chunked encoding of the body is broken") from None
        except OSError:
            self._request.force_close()
            raise


def _discard_rest(body: Any) -> bool:
    """Take in what is left of a request's body, within its deadline: to close the connection earlier would take the answer
    away from a sender who reads it after sending all. Whether nothing is left."""
    with suppress(OSError):
        while body.read(64 * 1024):
            pass
        return True
    return False


class Date:
    """The Date of an answer, made once a second; it takes the place of gunicorn's, which is made for each answer."""

    def __init__(self) -> None:
        self._second = 0
        self._text = ""

    def __call__(self, timestamp: float | None = None) -> str:
        second = int(time.time() if timestamp is None else timestamp)
        if second != self._second:
            self._second, self._text = second, formatdate(second, usegmt=True)
        return self._text


class ProblemAnswers:
    """What becomes of a request that gunicorn cannot take, or an app that fails beyond its own handlers."""

    log: Any

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        """Answer with a problem document; log its id with the kind of error, never with what was sent."""
        status, title, detail = explain(exc)
        request_id = uuid.uuid4().hex
        if status >= 500 and not isinstance(exc, errors.UnsupportedTransferCoding | errors.InvalidHTTPVersion):
            self.log.error("Error handling request %s", request_id, exc_info=exc)
        else:
            self.log.info("Refused request %s: %s (%d)", request_id, type(exc).__name__, status)
        with suppress(OSError):
            client.sendall(problem_bytes(status, title, detail, request_id))


class PatientWorker(ProblemAnswers, GeventWorker):
    """Many connections at a time, a greenlet each."""

    alive: bool

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.connections: set[PatientSocket] = set()
        util.http_date = Date()
        # Settings are looked up some twenty times a request, by a way of their own, and do not change any more.
        self.cfg.__dict__.update({name: getattr(self.cfg, name) for name in self.cfg.settings})
        self.plain_requests = PlainRequests(self.cfg)
        self.may_be_short = may_be_short(self.cfg, self.log)

    def handle(self, listener: Any, client: Any, addr: Any) -> None:
        """Serve one connection to its end."""
        connection = PatientSocket(client, PATIENCE, self.cfg.keepalive)
        self.connections.add(connection)
        if self.may_be_short:
            environ = self.plain_requests.environ_of(connection, listener.getsockname(), addr)
            connection.short_way = None if environ is None else partial(self.serve_plain, connection, environ)
        try:
            super().handle(listener, connection, addr)
        finally:
            self.connections.discard(connection)

    def serve_plain(self, connection: PatientSocket, template: dict[str, Any], data: bytes) -> bytes | None:
        """Answer the plain request that `data` begins with; what has come behind it, or None when it is not plain. As in
        gunicorn, StopIteration says that the connection ends."""
        if (read := self.plain_requests.read(data, template)) is None:
            return None
        environ, head = read
        request = PlainRequest(environ["REQUEST_METHOD"])
        connection.head_is_complete = True
        end = head + int(environ.get("CONTENT_LENGTH", 0))
        if end <= len(data):
            environ["wsgi.input"], rest = BytesIO(data[head:end]), data[end:]
        else:
            unreader = SocketUnreader(connection)
            unreader.unread(data[head:])
            environ["wsgi.input"] = request.body = Body(LengthReader(unreader, end - head))
            request.body.reader = CheckedReader(request)
        response = self.answer_plain(request, environ)
        connection.sendall(b"".join(response.sock))
        if request.body is not None:
            if not _discard_rest(request.body):
                request.force_close()
            rest = unreader.take_buffered()
        if response.should_close():
            raise StopIteration
        return rest

    def answer_plain(self, request: PlainRequest, environ: dict[str, Any]) -> PlainResponse:
        """What the app says, in whole; it has not been sent."""
        response = PlainResponse(request, Pieces(), self.cfg)
        self.nr += 1
        if self.nr >= self.max_requests and self.alive:
            self.log.info("Autorestarting worker after current request.")
            self.alive = False
        try:
            parts = self.wsgi(environ, response.start_response)
            # Asked after the app, which may have taken its time: the last answer says that it is the last.
            if not self.alive:
                response.force_close()
            try:
                for part in parts:
                    response.write(part)
                response.close()
            finally:
                if hasattr(parts, "close"):
                    parts.close()
        except (GreenletExit, SystemExit):
            raise StopIteration from None
        return response

    def handle_request(self, listener_name: Any, req: Any, sock: Any, addr: Any) -> Any:
        """Called with a complete head."""
        sock.head_is_complete = True
        if req.body is not None:
            req.body.reader = CheckedReader(req)
        sock.hold()
        try:
            return super().handle_request(listener_name, req, sock, addr)
        finally:
            sock.release()
            if not _discard_rest(req.body):
                req.force_close()
            sock.expect_request(req.unreader.take_buffered())

    def timeout_ctx(self) -> Any:
        """Connections have deadlines of their own."""
        return nullcontext()

    def notify(self) -> None:
        """Called every second. Hang up on connections on which nothing has come for too long; when stopping, on all of them."""
        super().notify()
        now = time.monotonic()
        for connection in list(self.connections):
            if (now > connection.deadline or not self.alive) and connection.is_silent():
                connection.hang_up()
