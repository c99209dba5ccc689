"""The Flask application of the console, which `create_app` mounts at `/console`.

It is an application of its own, since the receivers have no sessions, forms and pages. Views call `services`,
as the command line does.
"""

from __future__ import annotations

import hashlib
import hmac
from functools import partial
from typing import Any

from flask import Flask, Response, g, redirect, request, url_for
from flask.sessions import SecureCookieSessionInterface
from flask_bootstrap import Bootstrap5
from flask_login import LoginManager, current_user, login_required
from flask_wtf import CSRFProtect
from werkzeug.wrappers import Response as AnyResponse

import app as signalbox
from app.api import observation
from app.api.responses import request_id
from app.api.route_limits import start_limiter_of
from app.console import (
    accounts,
    api_keys,
    clients,
    deliveries,
    errors,
    event_forms,
    failures,
    integrations,
    overview,
    profile,
    reference,
    refusals,
    runs,
    secrets,
    settings,
    sign_in,
    sources,
    subjects,
    targets,
    upcoming,
    workflow_editor,
    workflow_trial,
    workflows,
)
from app.console.access import load_visitor, may, visible_accounts
from app.console.jinja_filters import FILTERS
from app.console.lists import write_time
from app.console.timing import working_time
from app.core.errors import ProblemType
from app.core.exact_json import refuse_unstorable
from app.core.models import EDITOR, OWNER
from app.services.context import AppContext

PREFIX = "/console"
# Fonts, frames, plug-ins and everything else are not used.
_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)
_FIELDS = {
    "Content-Security-Policy": _POLICY,
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
# Bytes of a form; a workflow has at most 256 KiB, and is encoded.
_MAX_FORM = 1024 * 1024
_STATIC_SECONDS = 86_400
# The modules with pages of accounts and users.
_MODULES = (
    accounts,
    profile,
    overview,
    event_forms,
    runs,
    upcoming,
    failures,
    targets,
    subjects,
    workflows,
    refusals,
    api_keys,
    clients,
    settings,
    workflow_editor,
    workflow_trial,
    secrets,
    integrations,
    sources,
    deliveries,
    reference,
)
# The navigation of an account.
_PAGES = (
    ("overview.show", "Overview"),
    ("events.show", "Events"),
    ("runs.show", "Runs"),
    ("failures.show", "Failures"),
    ("targets.show", "Targets"),
    ("subjects.find", "People"),
    ("workflows.show_all", "Workflows"),
    ("refusals.show", "Refused"),
    ("sources.show", "Sources"),
    ("api_keys.show", "API keys"),
    ("settings.show", "Settings"),
)
# Pages without an entry of their own: which one they belong to, by blueprint.
_SECTIONS = {
    "workflow_editor": "workflows",
    "workflow_trial": "workflows",
    "clients": "api_keys",
    "deliveries": "sources",
    "upcoming": "runs",
    "secrets": "settings",
    "integrations": "settings",
}


class _Sessions(SecureCookieSessionInterface):
    """The cookie is sent over https only when the browser came by https: the proxy says so."""

    def get_cookie_secure(self, app: Flask) -> bool:
        return request.is_secure or request.headers.get("X-Forwarded-Proto") == "https"


def create_console(receivers: Flask) -> Flask:
    """The application of the console. Opens no connection before the first request."""
    context: AppContext = receivers.extensions["context"]
    console = Flask("app.console.application", static_folder="static", template_folder="templates")
    console.session_interface = _Sessions()
    console.config.update(
        SESSION_COOKIE_NAME="signalbox_console",
        SESSION_COOKIE_PATH=PREFIX,
        SESSION_COOKIE_HTTPONLY=True,
        SESSION_COOKIE_SAMESITE="Lax",
        MAX_CONTENT_LENGTH=_MAX_FORM,
        MAX_FORM_MEMORY_SIZE=_MAX_FORM,
        SEND_FILE_MAX_AGE_DEFAULT=_STATIC_SECONDS,
        BOOTSTRAP_SERVE_LOCAL=True,
        WTF_CSRF_TIME_LIMIT=None,
    )
    _set_secrets(console, context.settings.encryption_keys)
    console.extensions.update(receivers.extensions)
    console.jinja_env.filters.update(FILTERS, working=working_time, field_time=write_time)
    Bootstrap5(console)
    CSRFProtect(console)
    _set_up_login(console)
    observation.register(console)
    errors.register(console)
    sign_in.register(console)
    for module in _MODULES:
        console.register_blueprint(module.blueprint)
    # Raises SettingsError without a key, which signs the cookies.
    console.before_request(_begin)
    console.before_request(context.secrets.check_key)
    console.before_request(partial(start_limiter_of, receivers))
    console.before_request(_check_texts)
    console.after_request(_finish)
    console.context_processor(_names)
    console.add_url_rule("/", "home", _home)
    return console


def _set_up_login(console: Flask) -> None:
    """Sessions are rows that can be deleted; Flask-Login need not compare addresses, which change on phones."""
    login = LoginManager(console)
    login.user_loader(load_visitor)
    login.login_view = "sign_in"
    login.login_message = None
    login.session_protection = None


def _set_secrets(console: Flask, encryption_keys: tuple[str, ...]) -> None:
    """Sign cookies with keys made of those of ENCRYPTION_KEY, so that they rotate together."""
    made = [hmac.digest(key.encode(), b"cookies of the console", hashlib.sha256).hex() for key in encryption_keys]
    if made:
        console.config.update(SECRET_KEY=made[0], SECRET_KEY_FALLBACKS=made[1:])


def _check_texts() -> None:
    fields = (*request.args.items(multi=True), *request.form.items(multi=True))
    refuse_unstorable((request.path, *(text for field in fields for text in field)))


def _begin() -> None:
    observation.begin(request.environ)


def _finish(response: Response) -> Response:
    response.headers.update(_FIELDS)
    response.headers["X-Request-Id"] = request_id()
    if response.status_code >= 400:
        observation.count_refusal(ProblemType.of_status(response.status_code), response.status_code)
    if request.endpoint not in ("static", "bootstrap.static"):
        response.headers["Cache-Control"] = "no-store"
    return response


def _names() -> dict[str, Any]:
    """What every template can read."""
    return {
        "pages": _PAGES,
        "section": _SECTIONS.get(request.blueprint or "", request.blueprint),
        "owner": "role" in g and may(OWNER),
        "editor": "role" in g and may(EDITOR),
        "signed_in": current_user.is_authenticated,
        "release": signalbox.__version__,
        # A function, because few templates need them.
        "accounts_of_user": visible_accounts,
    }


@login_required  # type: ignore[untyped-decorator]
def _home() -> AnyResponse:
    """The first account of the user, or the list of accounts."""
    found = visible_accounts()
    if len(found) == 1:
        return redirect(url_for("overview.show", account=found[0].slug))
    return redirect(url_for("accounts.show"))
