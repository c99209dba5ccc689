"""Error pages: what is wrong and what to do next, in HTML."""

from __future__ import annotations

import structlog
from flask import Flask, render_template, request
from flask_limiter import RateLimitExceeded
from flask_wtf.csrf import CSRFError
from werkzeug.exceptions import HTTPException
from werkzeug.wrappers import Response

from app.api.responses import request_id
from app.core.config import SettingsError
from app.core.errors import Problem, Unavailable
from app.core.log_config import describe_exception

_log = structlog.get_logger()
_ADVICE = {
    403: (
        "Not allowed",
        "Your role in this account does not allow this. An owner of the account can change your role.",
    ),
    404: ("Not found", "There is no such page, or you have no role in this account."),
    405: ("Not allowed", "This page does not support the method of the request."),
    413: ("Too large", "The request is too large."),
}


def register(console: Flask) -> None:
    """Add the error pages."""
    console.register_error_handler(CSRFError, _show_stale_form)
    console.register_error_handler(RateLimitExceeded, _show_limit)
    console.register_error_handler(HTTPException, _show_http_error)
    console.register_error_handler(Problem, _show_problem)
    console.register_error_handler(Unavailable, _show_unavailable)
    console.register_error_handler(SettingsError, _show_settings_error)
    console.register_error_handler(Exception, _show_failure)


def _page(status: int, title: str, text: str) -> tuple[str, int]:
    return render_template("error.html", title=title, text=text, request_id=request_id()), status


def _show_stale_form(exc: CSRFError) -> tuple[str, int]:
    return _page(400, "The form has expired", "Go back, reload the page, and send it again.")


def _show_limit(exc: RateLimitExceeded) -> tuple[str, int]:
    return _page(429, "Too many attempts", "Wait a few minutes, then try again.")


def _show_http_error(exc: HTTPException) -> tuple[str, int] | Response:
    if exc.code is None or exc.code < 400:
        return exc.get_response()
    title, text = _ADVICE.get(exc.code, (exc.name, exc.description or ""))
    return _page(exc.code, title, text)


def _show_problem(exc: Problem) -> tuple[str, int]:
    return _page(exc.status, exc.type.title, exc.detail)


def _show_unavailable(exc: Unavailable) -> tuple[str, int]:
    _log.warning("the console cannot read the database", error=str(exc)[:200])
    return _page(503, "Not available now", "The database does not answer. Try again in a few seconds.")


def _show_settings_error(exc: SettingsError) -> tuple[str, int]:
    return _page(503, "Not set up", str(exc))


def _show_failure(exc: Exception) -> tuple[str, int]:
    _log.error("a page of the console failed", endpoint=request.endpoint, error=describe_exception(exc))
    return _page(500, "This page failed", "The failure is in the log, under the request id below.")
