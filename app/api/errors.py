"""Errors as RFC 9457 problem documents (or in the shape of the wire format that was asked), and the request id that every
answer carries."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import structlog
from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException

from app.core import metrics
from app.core.errors import NotMigrated, Problem, ProblemType, Unavailable

RETRY_AFTER_SECONDS = 5
_SANE_ID = re.compile(r"[0-9A-Za-z][0-9A-Za-z._:/+=-]{0,127}")
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Shape:
    """How a wire format tells its errors: `covers` says of a path whether it belongs to the format."""

    covers: Callable[[str], bool]
    tell: Callable[[Problem], Response]


def request_id(environ: dict[str, Any] | None = None) -> str:
    """The sender's X-Request-Id if it is sane, or a new one; the same for the whole request. `environ`: of which request,
    the current one if not told."""
    environ = request.environ if environ is None else environ
    known: str | None = environ.get("signalbox.request_id")
    if known is None:
        sent = environ.get("HTTP_X_REQUEST_ID", "")
        known = sent if _SANE_ID.fullmatch(sent) else os.urandom(16).hex()
        environ["signalbox.request_id"] = known
    return known


def json_bytes(value: Any) -> bytes:
    """A value as JSON in which nothing can be taken for HTML, whatever its sender put into it."""
    text: bytes = msgspec.json.encode(value)
    return text.replace(b"<", b"\\u003c").replace(b">", b"\\u003e").replace(b"&", b"\\u0026")


def problem_response(problem: Problem) -> Response:
    """The answer that tells a Problem."""
    body: dict[str, Any] = {
        "type": problem.type.urn,
        "title": problem.type.title,
        "status": problem.status,
        "detail": problem.detail,
    }
    if problem.errors is not None:
        body["errors"] = problem.errors
    metrics.refusals.labels(str(problem.status)).inc()
    response = Response(json_bytes(body), problem.status, content_type="application/problem+json")
    response.headers.update(problem.headers)
    return response


def unavailable_response(trouble: Unavailable) -> Response:
    """The 503 while Postgres cannot be asked; logged and counted."""
    return problem_response(unavailable(trouble))


def unavailable(trouble: Unavailable) -> Problem:
    """Log that Postgres cannot be asked; the 503 that tells it."""
    _log.error("Postgres cannot be asked", error=str(trouble)[:300], request_id=request_id())
    reason = (
        "The database lacks a migration; who runs this server has to run `flask migrate`."
        if isinstance(trouble, NotMigrated)
        else "The database cannot be asked right now."
    )
    return Problem(
        ProblemType.SERVICE_UNAVAILABLE,
        f"{reason} Send the request again.",
        headers={"Retry-After": str(RETRY_AFTER_SECONDS)},
    )


def register(app: Flask, shapes: Sequence[Shape] = ()) -> None:
    """Make every error of `app` a problem document, or what the first of `shapes` that covers its path makes of it, and
    give every answer its X-Request-Id."""

    def told(problem: Problem) -> Response:
        fitting = (shape.tell for shape in shapes if shape.covers(request.path))
        return next(fitting, problem_response)(problem)

    # These two are answered by HTML in Flask: a redirect of /a//b to /a/b, and OPTIONS, which nobody here asks for.
    app.url_map.merge_slashes = False
    app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False

    @app.errorhandler(Problem)
    def tell(problem: Problem) -> Response:
        return told(problem)

    @app.errorhandler(Unavailable)
    def tell_unavailable(trouble: Unavailable) -> Response:
        return told(unavailable(trouble))

    @app.errorhandler(HTTPException)
    def tell_http(wrong: HTTPException) -> Response:
        response = told(Problem(ProblemType.of_status(wrong.code or 500), wrong.description or wrong.name))
        allowed = getattr(wrong, "valid_methods", None)
        if allowed:
            response.headers["Allow"] = ", ".join(sorted(allowed))
        return response

    @app.errorhandler(Exception)
    def tell_bug(bug: Exception) -> Response:
        _log.exception("unexpected error", request_id=request_id(), exc_info=bug)
        return told(
            Problem(ProblemType.INTERNAL_ERROR, f"This should not have happened; it is logged as {request_id()}.")
        )

    @app.after_request
    def name_request(response: Response) -> Response:
        response.headers["X-Request-Id"] = request_id()
        return response
