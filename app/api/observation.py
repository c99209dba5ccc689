"""What is counted, timed and logged of a request: durations and refusals by route for /metrics, and the access log."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import structlog
from flask import Flask, Response, has_request_context, request
from werkzeug.routing import Rule

from app.api.current import current_request
from app.api.responses import request_id_of
from app.core import metrics
from app.core.errors import Problem, ProblemType

# Of a request that matches no route.
NO_ROUTE = "none"
_BEGAN, _ACCOUNT = "signalbox.began", "signalbox.account"
_log = structlog.get_logger()
# By route.
_observers: dict[str, Callable[[float], None]] = {}
_limited_accounts = metrics.BoundedLabel()
_has_access_log = False


def register(app: Flask) -> None:
    """Observe every response of `app`."""
    global _has_access_log
    _has_access_log = app.extensions["context"].settings.access_log
    app.after_request(finish)
    if _has_access_log:
        app.after_request(log_access)


def begin(environ: dict[str, Any]) -> None:
    """Note when a request began."""
    environ[_BEGAN] = time.perf_counter()


def finish(response: Response) -> Response:
    """Observe how long the request took."""
    current = current_request()
    environ, rule, now = current.environ, current.url_rule, time.perf_counter()
    route = _label(environ, rule)
    observe = _observers.get(route)
    if observe is None:
        observe = _observers[route] = metrics.request_seconds.labels(route).observe
    observe(now - environ.get(_BEGAN, now))
    return response


def log_access(response: Response) -> Response:
    """Write the line of the access log: the route, since paths contain tokens and tenants, and the account, where it is known."""
    current, now = current_request(), time.perf_counter()
    environ = current.environ
    _log.info(
        "request",
        method=current.method,
        route=_label(environ, current.url_rule),
        status=response.status_code,
        seconds=round(now - environ.get(_BEGAN, now), 4),
        account=environ.get(_ACCOUNT),
    )
    return response


def note_account(account_id: int) -> None:
    """Note whose request it is, for the access log."""
    if _has_access_log:
        request.environ[_ACCOUNT] = account_id


def add_request_id(logger: Any, name: str, entry: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """A processor of structlog: entries that are written during a request have its id."""
    if has_request_context():
        entry.setdefault("request_id", request_id_of(request.environ))
    return entry


def count_refusal(kind: ProblemType, status: int) -> None:
    """Count a refused request by its status, and by its route and type."""
    metrics.refusals.labels(str(status)).inc()
    route = _label(request.environ, request.url_rule) if has_request_context() else NO_ROUTE
    metrics.refused_requests.labels(route, kind.slug).inc()


def count_refused_items(problems: Iterable[Problem]) -> None:
    """Count the refused items of an accepted batch by type."""
    for kind, number in Counter(problem.type for problem in problems).items():
        metrics.refused_items.labels(kind.slug).inc(number)


def count_limited(account_id: int) -> None:
    """Count a request that was answered with a 429, by account."""
    metrics.rate_limited.labels(_limited_accounts.of(account_id)).inc()


def _label(environ: dict[str, Any], rule: Rule | None) -> str:
    """A route, with the path at which its application is mounted: `/console`, otherwise nothing."""
    if rule is None:
        return NO_ROUTE
    mounted: str = environ["SCRIPT_NAME"]
    return mounted + rule.rule
