"""A listener for the example workflow's calls, so that a newcomer sees them arrive.

Comes in: HTTP calls on 127.0.0.1. Goes out: one line for each, and `200` with a small JSON.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

MOST_BYTES = 64 * 1024
MOST_CHARACTERS = 80
ANSWER = b'{"received": true}\n'


def listen(url: str, say: Callable[[str], None]) -> bool:
    """Take the calls that go to `url`, in a thread, until we end; False when its port is taken or not ours to have."""
    port = urlsplit(url).port or 80
    try:
        server = ThreadingHTTPServer(("127.0.0.1", port), _reception(say))
    except (OSError, OverflowError):
        return False
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, name="listener", daemon=True).start()
    return True


def describe_call(method: str, path: str, body: bytes) -> str:
    """One line about a call: method, path, and of a JSON body the event's name and whom it is about."""
    with suppress(ValueError, RecursionError):
        document = json.loads(body)
        if isinstance(document, dict):
            known = [f"{name}={visible(document[name])}" for name in ("event", "distinct_id") if name in document]
            return " ".join(["call arrived:", visible(method), visible(path), *known])
    return f"call arrived: {visible(method)} {visible(path)}"


def visible(value: object) -> str:
    """`value` as text on one line, control characters spelled out, cut after 80 characters."""
    text = value if isinstance(value, str) else json.dumps(value)
    shown = "".join(one if one.isprintable() else repr(one)[1:-1] for one in text[: MOST_CHARACTERS + 1])
    return shown if len(shown) <= MOST_CHARACTERS else shown[:MOST_CHARACTERS] + "…"


def _reception(say: Callable[[str], None]) -> type[BaseHTTPRequestHandler]:
    """The class that answers calls, as http.server wants it."""

    class Reception(BaseHTTPRequestHandler):
        timeout = 10

        def answer(self) -> None:
            try:
                body = self.rfile.read(min(int(self.headers.get("Content-Length") or 0), MOST_BYTES))
            except (ValueError, OSError):
                body = b""
            say(describe_call(self.command, self.path, body))
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(ANSWER)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(ANSWER)

        do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = answer

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing: each call has its line already."""

    return Reception
