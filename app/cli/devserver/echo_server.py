"""A server on 127.0.0.1 that prints each call of the example workflow and responds with 200."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from app.cli.terminal_text import cut, visible

MAX_BYTES = 64 * 1024
MAX_COLUMNS = 80
RESPONSE = b'{"received": true}\n'


def start_echo_server(url: str, say: Callable[[str], None]) -> bool:
    """Serve the port of `url` in a thread until the process ends. Returns False when the port cannot be used."""
    port = urlsplit(url).port or 80
    try:
        server = ThreadingHTTPServer(("127.0.0.1", port), _handler_class(say))
    except (OSError, OverflowError):
        return False
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, name="echo server", daemon=True).start()
    return True


def describe_call(method: str, path: str, body: bytes) -> str:
    """A call in one line: method, path, and the event name and subject of a JSON body."""
    with suppress(ValueError, RecursionError):
        document = json.loads(body)
        if isinstance(document, dict):
            fields = [f"{name}={short(document[name])}" for name in ("event", "distinct_id") if name in document]
            return " ".join(["call arrived:", short(method), short(path), *fields])
    return f"call arrived: {short(method)} {short(path)}"


def short(value: object) -> str:
    """`value` as text on one line, cut to 80 columns."""
    return cut(visible(value if isinstance(value, str) else json.dumps(value)), MAX_COLUMNS)


def _handler_class(say: Callable[[str], None]) -> type[BaseHTTPRequestHandler]:
    """A request handler for http.server."""

    class EchoHandler(BaseHTTPRequestHandler):
        timeout = 10

        def respond(self) -> None:
            try:
                body = self.rfile.read(min(int(self.headers.get("Content-Length") or 0), MAX_BYTES))
            except (ValueError, OSError):
                body = b""
            say(describe_call(self.command, self.path, body))
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(RESPONSE)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(RESPONSE)

        do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = respond

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing: `respond` has printed a line."""

    return EchoHandler
