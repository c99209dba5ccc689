"""Error responses: problem documents (RFC 9457), or the format of the routes that were called."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog
from flask import Flask, Response, request
from flask_limiter import RateLimitExceeded
from werkzeug.exceptions import HTTPException

from app.api import observation
from app.api.responses import json_bytes, request_id
from app.core.errors import LookupLimit, NotMigrated, Problem, ProblemType, Unavailable
from app.core.log_config import describe_exception

RETRY_AFTER_SECONDS = 5
RETRY_LOOKUP_SECONDS = 2
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class ErrorFormat:
    """How a wire format reports errors. `covers` tells whether a path belongs to the format."""

    covers: Callable[[str], bool]
    response: Callable[[Problem], Response]


def problem_response(problem: Problem) -> Response:
    """A problem document."""
    observation.count_refusal(problem.type, problem.status)
    response = Response(json_bytes(problem.document()), problem.status, content_type="application/problem+json")
    response.headers.update(problem.headers)
    return response


def unavailable(exc: Unavailable) -> Problem:
    """The 503 for a database that is unavailable, which is logged, or for a key that is not looked up now."""
    if isinstance(exc, LookupLimit):
        return Problem(
            ProblemType.SERVICE_UNAVAILABLE,
            "Too many unknown keys arrive. A key that was just created works from the next request on. Retry later.",
            headers={"Retry-After": str(RETRY_LOOKUP_SECONDS)},
        )
    _log.error("database unavailable", error=describe_exception(exc))
    reason = (
        "The database lacks a migration; the operator has to run `signalbox migrate`."
        if isinstance(exc, NotMigrated)
        else "The database is unavailable."
    )
    return Problem(
        ProblemType.SERVICE_UNAVAILABLE,
        f"{reason} Retry later.",
        headers={"Retry-After": str(RETRY_AFTER_SECONDS)},
    )


def _rate_limit_problem(exc: RateLimitExceeded) -> Problem:
    retry_after = {"Retry-After": str(exc.limit.limit.get_expiry())}
    return Problem(ProblemType.RATE_LIMIT_EXCEEDED, str(exc.description), headers=retry_after)


def _explain(exc: HTTPException, allowed: str) -> str:
    """What is wrong with a request that reached no view, and what would be right."""
    if allowed:
        return f"This path takes {allowed}."
    if exc.code == 404:
        return "There is nothing at this path. /openapi.json lists all paths."
    return exc.description or exc.name


def register(app: Flask, formats: Sequence[ErrorFormat] = ()) -> None:
    """Answer every error of `app` in the first of `formats` that covers its path, or with a problem document."""

    def respond(problem: Problem) -> Response:
        responders = (one.response for one in formats if one.covers(request.path))
        return next(responders, problem_response)(problem)

    # Flask would answer these with HTML: a redirect of /a//b to /a/b, and OPTIONS.
    app.url_map.merge_slashes = False
    app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False

    app.register_error_handler(Problem, respond)

    @app.errorhandler(Unavailable)
    def handle_unavailable(exc: Unavailable) -> Response:
        return respond(unavailable(exc))

    @app.errorhandler(RateLimitExceeded)
    def handle_rate_limit(exc: RateLimitExceeded) -> Response:
        return exc.response if isinstance(exc.response, Response) else respond(_rate_limit_problem(exc))

    @app.errorhandler(HTTPException)
    def handle_http_exception(exc: HTTPException) -> Response:
        allowed = ", ".join(sorted(getattr(exc, "valid_methods", None) or ()))
        response = respond(Problem(ProblemType.of_status(exc.code or 500), _explain(exc, allowed)))
        if allowed:
            response.headers["Allow"] = allowed
        return response

    @app.errorhandler(Exception)
    def handle_exception(exc: Exception) -> Response:
        _log.exception("unexpected error", exc_info=exc)
        return respond(Problem(ProblemType.INTERNAL_ERROR, f"Unexpected error; it is logged as {request_id()}."))
