"""An HTTP server on 127.0.0.1 that records calls and sends prepared responses."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Call:
    """A received call."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    client_port: int = 0

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Answer:
    """A response to send."""

    status: int = 200
    body: bytes = b"{}"
    headers: tuple[tuple[str, str], ...] = (("Content-Type", "application/json"),)


class HttpTarget(ThreadingHTTPServer):
    """`calls` are the received calls, `answers` the next responses; the last one is repeated. `answer` replaces them.
    `before_answer` is called outside of the lock, between a call and its response."""

    daemon_threads = True

    def __init__(self, *answers: Answer) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.calls: list[Call] = []
        self.answers = list(answers) or [Answer()]
        self.lock = threading.Lock()
        self.answer: Callable[[Call], Answer] | None = None
        self.before_answer: Callable[[Call], None] = lambda call: None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    def _receive(self) -> None:
        server = self.server
        assert isinstance(server, HttpTarget)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        with server.lock:
            call = Call(self.command, self.path, dict(self.headers), body, self.client_address[1])
            server.calls.append(call)
            answer = server.answers.pop(0) if len(server.answers) > 1 else server.answers[0]
        server.before_answer(call)
        answer = answer if server.answer is None else server.answer(call)
        self.send_response(answer.status)
        for name, value in answer.headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        self.wfile.write(answer.body)

    do_POST = do_GET = do_PUT = do_PATCH = do_DELETE = _receive

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def serving(server: Any) -> Iterator[Any]:
    """Runs a server of `socketserver` during the block."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def an_http_target(*answers: Answer) -> Iterator[HttpTarget]:
    """A target that runs during the block."""
    with serving(HttpTarget(*answers)) as server:
        yield server
