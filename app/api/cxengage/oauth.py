"""`POST /token`: issues access tokens (OAuth 2.0 client credentials, RFC 6749 section 4.4; errors as in section 5.2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl, unquote_plus

from flask import Blueprint, Response, g, request

from app.api import observation
from app.api.current import extension
from app.api.request_body import read_body
from app.api.responses import json_response
from app.api.route_limits import client_address, limiter, start_limiter
from app.core.config import Settings
from app.core.errors import LookupLimit, Problem, ProblemType, Unavailable
from app.db.api_keys import Client
from app.services import api_keys

_MAX_BYTES = 16 * 1024
_MAX_FIELDS = 20
_FORM = "application/x-www-form-urlencoded"
# Requests per minute. A client needs one token in 30 days.
_MAX_PER_CLIENT = 30
_MAX_FAILURES_PER_ADDRESS = 300
_TOO_MANY = "Too many token requests. Retry later."

blueprint = Blueprint("cxengage_oauth", __name__)


class TokenError(Exception):
    """An error response: `code` as in RFC 6749 section 5.2, `description` for people."""

    def __init__(self, code: str, description: str) -> None:
        super().__init__(code)
        self.code = code
        self.description = description


def _invalid_client() -> TokenError:
    return TokenError("invalid_client", "The client id or secret is missing or invalid.")


@dataclass(frozen=True, slots=True)
class Credentials:
    """The id and secret that a client sent."""

    client_id: str
    secret: str


@blueprint.before_request
def authenticate_client() -> None:
    """Find out who asks before the limits are checked: a right secret counts for its client, any other request for its
    address. So failed requests never block a right secret, even if all come from the address of one proxy."""
    start_limiter()
    g.client, g.client_secret, g.token_error = None, "", None
    try:
        g.form = _form(extension("context").settings)
        credentials = _credentials(g.form)
        if credentials is None:
            return
        context = extension("context")
        g.client = api_keys.authenticate_client(context, credentials.client_id, credentials.secret)
        g.client_secret = credentials.secret
    except LookupLimit:
        # Refused without the limiter, whose counters are in Redis.
        raise
    except (TokenError, Problem, Unavailable) as exc:
        g.token_error = exc


def _is_client() -> bool:
    return g.client is not None


@blueprint.post("/token")
@limiter.limit(
    f"{_MAX_PER_CLIENT}/minute",
    key_func=lambda: f"client:{g.client.id}",
    exempt_when=lambda: not _is_client(),
    error_message=_TOO_MANY,
)
@limiter.limit(
    f"{_MAX_FAILURES_PER_ADDRESS}/minute", key_func=client_address, exempt_when=_is_client, error_message=_TOO_MANY
)
def issue_token() -> Response:
    """The client's access token with the requested scopes, or with all that the client has."""
    try:
        scopes, token = _issue()
    except TokenError as exc:
        response = _error_response(exc)
    else:
        response = json_response(
            {
                "access_token": token.text,
                "token_type": "bearer",
                "expires_in": token.seconds_left,
                "scope": " ".join(scopes),
            }
        )
    response.headers["Pragma"] = "no-cache"
    return response


def _issue() -> tuple[tuple[str, ...], api_keys.Token]:
    """The scopes and the token."""
    if g.token_error is not None:
        raise g.token_error
    client: Client | None = g.client
    if client is None:
        raise _invalid_client()
    if "grant_type" not in g.form:
        raise TokenError("invalid_request", "grant_type is missing.")
    if g.form["grant_type"] != "client_credentials":
        raise TokenError("unsupported_grant_type", "grant_type must be client_credentials.")
    # A field without a value counts as absent (section 3.2).
    wanted = set(filter(None, g.form.get("scope", "").split(" "))) or set(client.scopes)
    if not wanted <= set(client.scopes):
        raise TokenError("invalid_scope", f"The scopes of this client are {', '.join(client.scopes)}.")
    token = api_keys.issue_token(extension("context"), client, g.client_secret, wanted)
    if token is None:
        raise _invalid_client()
    return api_keys.in_order(wanted), token


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
    kind = ProblemType.INVALID_API_KEY if status == 401 else ProblemType.MALFORMED_REQUEST
    observation.count_refusal(kind, status)
    response = json_response({"error": error.code, "error_description": error.description}, status)
    if status == 401:
        response.headers["WWW-Authenticate"] = 'Basic realm="signalbox"'
    return response
