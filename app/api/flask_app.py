"""Flask without sessions, coroutines and routes that depend on the host: no route here has any of them.

Each override is of a documented method. Those for sessions, coroutines and hosts save 19 of 139 µs per event inside the process
(docs/decisions/0028-flask-and-marshmallow-as-documented.md). `wsgi_app` adds two header fields to every response.
"""

from __future__ import annotations

import re
from typing import Any

from flask import Flask
from flask.sessions import NullSession, SessionInterface

from app.api import observation
from app.api.responses import RESPONSE_FIELDS

_PLAIN_HOST = re.compile(r"(?:[A-Za-z0-9-]{1,63}\.)*[A-Za-z0-9-]{1,63}(?::[0-9]{1,5})?")


class _NoSession(SessionInterface):
    """One null session for all requests; writing to it raises RuntimeError."""

    _session = NullSession()

    def open_session(self, app: Flask, request: Any) -> NullSession:
        return self._session


class Application(Flask):
    """The WSGI application."""

    session_interface = _NoSession()

    def wsgi_app(self, environ: Any, start_response: Any) -> Any:
        """Flask's own, with two more fields in each response."""
        observation.begin(environ)

        def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            return start_response(status, headers + RESPONSE_FIELDS, exc_info)

        return super().wsgi_app(environ, start)

    def create_url_adapter(self, request: Any) -> Any:
        """The adapter that finds the route. Flask's own examines the Host header; here only unusual ones need that."""
        if request is None or not _PLAIN_HOST.fullmatch(request.environ.get("HTTP_HOST", "")):
            return super().create_url_adapter(request)
        path: str = request.environ["PATH_INFO"]
        if not path.isascii():
            path = path.encode("latin-1").decode(errors="replace")
        return self.url_map.bind("", path_info=path, default_method=request.method)

    def ensure_sync(self, func: Any) -> Any:
        """The function itself: no view or hook is a coroutine."""
        return func
