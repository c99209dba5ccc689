"""A destination on 127.0.0.1 that keeps what arrives and answers what it is told to."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Call:
    """One call that arrived."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Answer:
    """What is answered."""

    status: int = 200
    body: bytes = b"{}"
    headers: tuple[tuple[str, str], ...] = (("Content-Type", "application/json"),)


class Destination(ThreadingHTTPServer):
    """`calls` holds what arrived; `answers` what to say next, the last of them for ever."""

    daemon_threads = True

    def __init__(self, *answers: Answer) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.calls: list[Call] = []
        self.answers = list(answers) or [Answer()]
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    def _receive(self) -> None:
        destination = self.server
        assert isinstance(destination, Destination)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        with destination.lock:
            destination.calls.append(Call(self.command, self.path, dict(self.headers), body))
            answer = destination.answers.pop(0) if len(destination.answers) > 1 else destination.answers[0]
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
def a_destination(*answers: Answer) -> Iterator[Destination]:
    """A destination that is up while the block runs."""
    destination = Destination(*answers)
    thread = threading.Thread(target=destination.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield destination
    finally:
        destination.shutdown()
        thread.join()
        destination.server_close()
