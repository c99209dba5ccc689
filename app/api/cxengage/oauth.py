"""`POST /token`: issues access tokens (OAuth 2.0 client credentials, RFC 6749 section 4.4; errors as in section 5.2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl, unquote_plus

from flask import Blueprint, Flask, Response, current_app, request

from app.api.cxengage import auth
from app.api.rate_limit import PerMinute
from app.api.request_body import read_body
from app.core import metrics, models
from app.core.config import Settings
from app.core.errors import Problem, ProblemType
from app.services import oauth_clients
from app.services.context import AppContext

_MAX_BYTES = 16 * 1024
_MAX_FIELDS = 20
_FORM = "application/x-www-form-urlencoded"
# Requests per minute. A client needs one token in 30 days.
_MAX_PER_CLIENT = 30
_MAX_FAILURES_PER_ADDRESS = 300

blueprint = Blueprint("cxengage_tokens", __name__)


class TokenError(Exception):
    """An error response: `code` as in RFC 6749 section 5.2, `description` for people."""

    def __init__(self, code: str, description: str) -> None:
        super().__init__(code)
        self.code = code
        self.description = description


@dataclass(frozen=True, slots=True)
class Credentials:
    """The id and secret that a client sent."""

    client_id: str
    secret: str


class TokenLimiter:
    """Limits the requests of each client and the failed requests of each address.

    A request without the right secret never counts against a client, and failed requests never block a right secret:
    behind a proxy all requests may come from one address.
    """

    def __init__(self, settings: Settings) -> None:
        self._requests = PerMinute(settings)

    def allows_client(self, client_id: str) -> bool:
        """Count one request with the right secret."""
        return self._requests.lets_in(_MAX_PER_CLIENT, "token of client", client_id)

    def allows_failure(self, address: str) -> bool:
        """Count one request without the right secret."""
        return self._requests.lets_in(_MAX_FAILURES_PER_ADDRESS, "token for address", address)


def register(app: Flask, settings: Settings) -> None:
    """Serve the route under both prefixes."""
    app.extensions["token_limiter"] = TokenLimiter(settings)
    auth.register(app, [blueprint])


@blueprint.post("/token")
def issue_token() -> Response:
    """The client's access token."""
    try:
        token = _issue()
    except TokenError as exc:
        response = _error_response(exc)
    else:
        response = auth.answer({"access_token": token.text, "token_type": "bearer", "expires_in": token.seconds_left})
    response.headers.update({"Cache-Control": "no-store", "Pragma": "no-cache"})
    return response


def _issue() -> oauth_clients.Token:
    context: AppContext = current_app.extensions["context"]
    form = _form(context.settings)
    credentials = _credentials(form)
    limiter: TokenLimiter = current_app.extensions["token_limiter"]
    token = None
    if credentials is not None:
        token = oauth_clients.issue_token(context, credentials.client_id, credentials.secret)
    if credentials is not None and token is not None:
        is_allowed = limiter.allows_client(credentials.client_id)
    else:
        is_allowed = limiter.allows_failure(request.remote_addr or "")
    if not is_allowed:
        raise Problem(
            ProblemType.RATE_LIMIT_EXCEEDED, "Too many token requests. Retry later.", headers={"Retry-After": "60"}
        )
    if token is None:
        raise TokenError("invalid_client", "The client id or secret is missing or invalid.")
    if "grant_type" not in form:
        raise TokenError("invalid_request", "grant_type is missing.")
    if form["grant_type"] != "client_credentials":
        raise TokenError("unsupported_grant_type", "grant_type must be client_credentials.")
    if not set(form.get("scope", "").split()) <= set(models.SCOPES):
        raise TokenError("invalid_scope", f"Valid scopes are {', '.join(models.SCOPES)}.")
    return token


def _form(settings: Settings) -> Mapping[str, str]:
    """The form fields of the body; empty for another media type."""
    if request.mimetype != _FORM:
        return {}
    try:
        body = read_body(request, limit=_MAX_BYTES, seconds=settings.body_timeout, media_types=(_FORM,))
        pairs = parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=_MAX_FIELDS, errors="strict")
    except ValueError:
        raise TokenError("invalid_request", "The body is not a form.") from None
    form = dict(pairs)
    if len(form) < len(pairs):
        raise TokenError("invalid_request", "A field occurs twice.")
    return form


def _credentials(form: Mapping[str, str]) -> Credentials | None:
    """The client's id and secret in the Authorization header or in the form, but not in both."""
    header = request.authorization
    if header is not None and header.type == "basic":
        if "client_secret" in form:
            raise TokenError("invalid_request", "The client secret must be in the header or in the form, not in both.")
        return Credentials(unquote_plus(header.username or ""), unquote_plus(header.password or ""))
    if "client_id" in form and "client_secret" in form:
        return Credentials(form["client_id"], form["client_secret"])
    return None


def _error_response(error: TokenError) -> Response:
    status = 401 if error.code == "invalid_client" else 400
    metrics.refusals.labels(str(status)).inc()
    response = auth.answer({"error": error.code, "error_description": error.description}, status)
    if status == 401:
        response.headers["WWW-Authenticate"] = 'Basic realm="signalbox"'
    return response
