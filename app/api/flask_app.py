"""Flask without what our routes do not need, and answers that are made in one go.

No route has a session, is a coroutine or depends on the host, and no URL is built from one. A route without a variable is
found by its method and path; for all others, and whenever something is wrong, Flask does what it always does.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import Any

from flask import Flask, Response
from flask.sessions import NullSession, SessionInterface
from werkzeug.datastructures import Headers
from werkzeug.routing import Rule

# Host headers that Werkzeug has found to be in order, so many at most.
_HOSTS_KEPT = 1_000


class Answer(Response):
    """A whole answer with status 200: nothing is checked, completed or changed any more, also not by `after_request`.

    `headers`: all of them, the length of the body and the request's id included; names and values of ASCII characters
    without line ends.
    """

    def __init__(self, body: bytes, headers: list[tuple[str, str]]) -> None:
        # Instead of Werkzeug's, which looks at each header several times.
        self.headers = Headers()
        self._complete = headers
        self._status, self._status_code = "200 OK", 200
        self.response = [body]
        self.direct_passthrough = True
        self._on_close = []

    def __call__(self, environ: Any, start_response: Any) -> Iterable[bytes]:
        """The answer as WSGI wants it."""
        start_response(self._status, self._complete)
        return self.response  # type: ignore[return-value]


class _NoSession(SessionInterface):
    """Flask makes a null session per request, to complain about whoever writes into it; here it is one for all."""

    _none = NullSession()

    def open_session(self, app: Flask, request: Any) -> NullSession:
        return self._none


class Application(Flask):
    """The WSGI application."""

    session_interface = _NoSession()

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._hosts: set[str | None] = set()

    @cached_property
    def _plain_rules(self) -> dict[tuple[str, str], Rule]:
        """The rules whose paths have no variable, by method and path. They are the first that Werkzeug looks at."""
        found: dict[tuple[str, str], Rule] = {}
        for rule in self.url_map.iter_rules():
            if not (rule.arguments or rule.redirect_to or rule.alias or rule.websocket or rule.defaults):
                for method in rule.methods or ():
                    found.setdefault((method, rule.rule), rule)
        return found

    def create_url_adapter(self, request: Any) -> Any:
        """What finds the request's route; None where it is found already."""
        if request is None:
            return super().create_url_adapter(request)
        environ = request.environ
        rule = self._plain_rules.get((environ["REQUEST_METHOD"], environ["PATH_INFO"]))
        host = environ.get("HTTP_HOST")
        if rule is not None and host in self._hosts:
            request.url_rule, request.view_args = rule, {}
            return None
        adapter = super().create_url_adapter(request)
        if len(self._hosts) < _HOSTS_KEPT:
            self._hosts.add(host)
        return adapter

    def preprocess_request(self) -> Any:
        """What is done before the view is called."""
        nothing = not (self.before_request_funcs or self.url_value_preprocessors)
        return None if nothing else super().preprocess_request()

    def finalize_request(self, rv: Any, from_error_handler: bool = False) -> Response:
        """What is done to an answer that is not whole yet."""
        return rv if isinstance(rv, Answer) else super().finalize_request(rv, from_error_handler)

    def ensure_sync(self, func: Any) -> Any:
        """No function here is a coroutine."""
        return func
