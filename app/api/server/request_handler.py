"""Serves the requests of one connection: gevent's WSGI handler with strict parsing, limits, deadlines and problem documents."""

from __future__ import annotations

import io
import json
import time
import uuid
from contextlib import suppress
from socket import MSG_PEEK, SHUT_RDWR, SHUT_WR
from typing import TYPE_CHECKING, Any

from gevent import GreenletExit
from gunicorn.workers.ggevent import PyWSGIHandler

from app.api.responses import RESPONSE_FIELDS
from app.api.server.request_head import HeaderFields, check_request_line, read_header_fields
from app.api.server.request_streams import ChunkedBody, ClientStream
from app.core.errors import Problem, ProblemType
from app.core.log_config import format_exception

if TYPE_CHECKING:
    from app.api.server.gunicorn_worker import Server

# Seconds for which a client's bytes are still read after its last response: to close at once would take the response away
# from a client that is still sending.
LINGER = 2.0
_PART = 64 * 1024


def problem_bytes(problem: Problem, request_id: str) -> bytes:
    """A whole HTTP response with a problem document; the last one of its connection."""
    kind = problem.type
    body = json.dumps(problem.document())
    head = (
        f"HTTP/1.1 {kind.status} {kind.title}\r\n"
        "Content-Type: application/problem+json\r\n"
        f"Content-Length: {len(body)}\r\n"
        f"X-Request-Id: {request_id}\r\n"
        + "".join(f"{name}: {value}\r\n" for name, value in RESPONSE_FIELDS)
        + "Connection: close\r\n\r\n"
    )
    return (head + body).encode("ascii")


class ResponseWriter:
    """Sends the head of a response together with the first part of its body, in one system call instead of two."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._head: bytes | None = None

    def sendall(self, data: bytes) -> None:
        """Send a part of the response; the first one, its head, waits for the second one or for `flush`."""
        if self._head is None:
            self._head = data
            return
        head, self._head = self._head, b""
        whole = head + data
        # Most responses fit into the buffer of the socket. gevent's `sendall` asks the kernel for its size first.
        sent = self._client.send(whole)
        if sent < len(whole):
            self._client.sendall(memoryview(whole)[sent:])

    def flush(self) -> None:
        """Send the head of a response without a body."""
        if self._head:
            self.sendall(b"")


class RequestHandler(PyWSGIHandler):
    """One client's connection.

    A request (head and body) has `server.body_timeout` seconds from its first byte, and so has a client to take a response.
    """

    server: Server
    headers: HeaderFields
    close_connection: bool

    def __init__(self, client: Any, address: Any, server: Server) -> None:
        super().__init__(client, address, server)
        self.client = client
        self.stream = ClientStream(client)
        self.rfile = io.BufferedReader(self.stream)
        self._idle_timeout = server.body_timeout
        self._chunked_body: io.BufferedReader | None = None

    def handle_one_request(self) -> bool | None:
        """Serve the next request; True when another one may follow on this connection."""
        first_byte = self._wait_for_request()
        if not first_byte:
            return None
        self.stream.deadline = time.monotonic() + self.server.body_timeout
        try:
            limit = self.server.limits.line + 3
            line = first_byte + self.rfile.readline(limit)
            if line == b"\r\n":
                # Some clients send an empty line after a body; RFC 9112 (2.2) asks to ignore one.
                line = self.rfile.readline(limit)
            self.read_request(line.decode("latin-1"))
        except Problem as exc:
            self._refuse(exc)
        except TimeoutError:
            timeout = f"{self.server.body_timeout:g}"
            self._refuse(Problem(ProblemType.REQUEST_TIMEOUT, f"The request did not arrive within {timeout} seconds."))
        except OSError:
            return None
        else:
            self._respond()
            if not self.close_connection:
                return True
        self._linger()
        return None

    def _wait_for_request(self) -> bytes:
        """The first byte of the next request; empty when the connection ends before."""
        # The worker closes idle connections once a second; a timer for each request would cost more.
        self.stream.deadline = None
        self.server.idle[self] = time.monotonic() + self._idle_timeout
        self._idle_timeout = self.server.keepalive
        try:
            return self.rfile.read(1)
        except OSError:
            return b""
        finally:
            del self.server.idle[self]

    def read_request(self, raw_requestline: str) -> bool:
        """Parse the head; raises Problem for what is malformed or too large."""
        path = check_request_line(raw_requestline, self.server.limits)
        try:
            super().read_request(raw_requestline)
        except ValueError:
            raise Problem(ProblemType.MALFORMED_REQUEST, "The request line or the header fields are invalid.") from None
        self.path = path
        if "close" in self.headers.get("connection", "").lower().replace(" ", "").split(","):
            self.close_connection = True
        return True

    def MessageClass(self, *arguments: Any) -> HeaderFields:
        """The header fields, which follow the request line."""
        return read_header_fields(self.rfile, self.server.limits, self.request_version)

    def get_environ(self) -> dict[str, Any]:
        """The WSGI environ; the body ends by itself (`wsgi.input_terminated`)."""
        environ: dict[str, Any] = super().get_environ()
        self._chunked_body = None
        # Where a client asks for an upgrade, gevent would hand out the connection itself.
        environ["wsgi.input"], environ["wsgi.input_terminated"] = self.wsgi_input, True
        if self.headers.chunked:
            self._chunked_body = io.BufferedReader(ChunkedBody(self.rfile, self.stream))
            environ["wsgi.input"] = self._chunked_body
            if "expect" in self.headers:
                self.client.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        return environ

    def _respond(self) -> None:
        """Respond and read the rest of the body; where that fails, the connection is to be closed."""
        self.server.count_request()
        try:
            self.environ = self.get_environ()
            self.application = self.server.application
            self.handle_one_response()
            while self._chunked_body and not self.close_connection and self._chunked_body.read(_PART):
                pass
        except OSError:
            self.close_connection = True
        self.close_connection |= self.stream.failed

    def handle_one_response(self) -> None:
        """Run the app and send its response."""
        self.socket = ResponseWriter(self.client)
        try:
            super().handle_one_response()
        finally:
            self.socket = self.client

    def process_result(self) -> None:
        """Send what the app returned."""
        super().process_result()
        self.socket.flush()

    def start_response(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        """As WSGI has it; tells the client when no other request can follow."""
        self.client.settimeout(self.server.body_timeout)
        if self.close_connection or self.stream.failed or self.server.is_last_response():
            self.close_connection = True
            headers = [field for field in headers if field[0].lower() != "connection"] + [("Connection", "close")]
        return super().start_response(status, headers, exc_info)

    def handle_error(self, kind: Any, exc: Any, traceback: Any) -> None:
        """Respond with a problem document to an error that the app did not handle."""
        self.close_connection = True
        if issubclass(kind, GreenletExit) or (self.headers_sent and isinstance(exc, OSError)):
            return
        request_id = uuid.uuid4().hex
        self.server.log.error(
            "Error handling request %s\n%s", request_id, format_exception(exc), extra={"request_id": request_id}
        )
        if not self.headers_sent:
            problem = Problem(ProblemType.INTERNAL_ERROR, "An unexpected error happened; it is logged.")
            self._send(problem_bytes(problem, request_id))

    def _refuse(self, problem: Problem) -> None:
        """Respond with a problem document to what is no request; the log gets its id and never what was sent."""
        request_id = uuid.uuid4().hex
        self.server.log.info("Refused request %s: %s", request_id, problem.type.name, extra={"request_id": request_id})
        # Imported here: gunicorn loads this module before wsgi.py, which reports a wrong setting in one line.
        from app.api import observation

        observation.count_refusal(problem.type, problem.status)
        self._send(problem_bytes(problem, request_id))

    def _send(self, response: bytes) -> None:
        with suppress(OSError):
            self.client.settimeout(self.server.body_timeout)
            self.client.sendall(response)

    def _linger(self) -> None:
        """Say that nothing more is coming, and read what the client still sends."""
        self.stream.deadline = time.monotonic() + LINGER
        with suppress(OSError):
            self.client.shutdown(SHUT_WR)
            while self.rfile.read1(_PART):
                pass

    def log_request(self) -> None:
        """Write to the access log, where there is one."""
        if self.server.log.access_log_enabled:
            super().log_request()

    def close_if_silent(self) -> bool:
        """Close the connection while it waits for a request, unless one has arrived; whether it is closed."""
        timeout = self.client.gettimeout()
        self.client.settimeout(0)
        try:
            if self.client.recv(1, MSG_PEEK):
                return False
        except OSError:
            pass
        finally:
            self.client.settimeout(timeout)
        with suppress(OSError):
            self.client.shutdown(SHUT_RDWR)
        return True
