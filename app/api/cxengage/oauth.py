"""`POST /token`: a client gets its access token for its id and secret (OAuth 2.0 client credentials, RFC 6749, 4.4).

Comes in: Basic authentication or a form, and `grant_type=client_credentials`. Goes out: the token that the client has, with
the seconds that are left of it, or a new one; or an error in the words of RFC 6749, 5.2.
"""

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

_MOST_BYTES = 16 * 1024
_MOST_FIELDS = 20
_FORM = "application/x-www-form-urlencoded"
# A client needs a token once in 30 days.
_PER_CLIENT = 30
_PER_ADDRESS = 300

blueprint = Blueprint("cxengage_tokens", __name__)


class Refused(Exception):
    """No token: `code` is a word of RFC 6749, 5.2; `description` is for people."""

    def __init__(self, code: str, description: str) -> None:
        super().__init__(code)
        self.code = code
        self.description = description


@dataclass(frozen=True, slots=True)
class Claim:
    """Who a client says to be."""

    client_id: str
    secret: str


class TokenLimiter:
    """So many requests a minute of each client, and so many wrong ones of each address; lets all through while Redis does
    not answer. Only who knows a client's secret can use up what the client has, and nobody's wrong requests keep a right one
    out: behind a proxy all may come from one address."""

    def __init__(self, settings: Settings) -> None:
        self._counted = PerMinute(settings)

    def lets_in(self, client_id: str) -> bool:
        """Count one request of a client that has shown its secret."""
        return self._counted.lets_in(_PER_CLIENT, "token of client", client_id)

    def lets_try(self, address: str) -> bool:
        """Count one request without a right secret."""
        return self._counted.lets_in(_PER_ADDRESS, "token for address", address)


def register(app: Flask, settings: Settings) -> None:
    """Serve the route under both prefixes."""
    app.extensions["token_limiter"] = TokenLimiter(settings)
    auth.register(app, [blueprint])


@blueprint.post("/token")
def issue_token() -> Response:
    """The client's access token."""
    try:
        token = _issue()
    except Refused as refused:
        response = _refusal(refused)
    else:
        response = auth.answer({"access_token": token.text, "token_type": "bearer", "expires_in": token.seconds_left})
    response.headers.update({"Cache-Control": "no-store", "Pragma": "no-cache"})
    return response


def _issue() -> oauth_clients.Token:
    context: AppContext = current_app.extensions["context"]
    form = _form(context.settings)
    claim = _claim(form)
    limiter: TokenLimiter = current_app.extensions["token_limiter"]
    token = oauth_clients.issue_token(context, claim.client_id, claim.secret) if claim else None
    if not (limiter.lets_in(claim.client_id) if claim and token else limiter.lets_try(request.remote_addr or "")):
        raise Problem(ProblemType.RATE_LIMIT_EXCEEDED, "Wait a minute.", headers={"Retry-After": "60"})
    if token is None:
        raise Refused("invalid_client", "The client's id or secret is missing or not valid.")
    if "grant_type" not in form:
        raise Refused("invalid_request", "grant_type is missing.")
    if form["grant_type"] != "client_credentials":
        raise Refused("unsupported_grant_type", "grant_type has to be client_credentials.")
    if not set(form.get("scope", "").split()) <= set(models.SCOPES):
        raise Refused("invalid_scope", f"There are the scopes {', '.join(models.SCOPES)}.")
    return token


def _form(settings: Settings) -> Mapping[str, str]:
    """The fields of the body; none where it is no form."""
    if request.mimetype != _FORM:
        return {}
    try:
        body = read_body(request, limit=_MOST_BYTES, seconds=settings.body_timeout, media_types=(_FORM,))
        pairs = parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=_MOST_FIELDS, errors="strict")
    except ValueError:
        raise Refused("invalid_request", "The body is no form.") from None
    form = dict(pairs)
    if len(form) < len(pairs):
        raise Refused("invalid_request", "A field is there twice.")
    return form


def _claim(form: Mapping[str, str]) -> Claim | None:
    """Who the request says to come from: its Authorization header, or its form, but not both."""
    sent = request.authorization
    if sent is not None and sent.type == "basic":
        if "client_secret" in form:
            raise Refused("invalid_request", "The client's secret came twice, in the header and in the form.")
        return Claim(unquote_plus(sent.username or ""), unquote_plus(sent.password or ""))
    if "client_id" in form and "client_secret" in form:
        return Claim(form["client_id"], form["client_secret"])
    return None


def _refusal(refused: Refused) -> Response:
    status = 401 if refused.code == "invalid_client" else 400
    metrics.refusals.labels(str(status)).inc()
    response = auth.answer({"error": refused.code, "error_description": refused.description}, status)
    if status == 401:
        response.headers["WWW-Authenticate"] = 'Basic realm="signalbox"'
    return response
