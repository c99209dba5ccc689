"""`POST /api/v1/cvf-events`: accepts one LimeChat custom event (docs/receiving.md)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flask import Blueprint, Request, Response
from marshmallow import Schema, ValidationError, missing
from msgspec import Struct

from app.api.current import current_request, extension
from app.api.request_body import read_json
from app.api.responses import json_response
from app.api.sender import Sender, accept_event, read_event, receive, stores_unusable_phone
from app.core import models
from app.core.api_keys import SentKey, unauthorized, verify_key
from app.core.errors import Problem, ProblemType
from app.core.ids import utc_text, uuid7
from app.core.models import Event, Receipt
from app.ingest.accept import BuildEvent
from app.ingest.account_cache import Account, check_open
from app.ingest.limechat.parser import EVENT, parse_event, validation_failed
from app.ingest.limechat.schemas import HeadersSchema
from app.services.context import AppContext

_API_KEY, _ACCOUNT_ID, _IDEMPOTENCY_KEY = "x-limechat-uat", "x-fb-account-id", "Idempotency-Key"
_headers_schema = HeadersSchema()

blueprint = Blueprint("limechat_events", __name__)


class Headers(Struct, frozen=True):
    """The validated headers of a request. `problem` is the 422 for the others; it is raised once the sender is known."""

    api_key: SentKey
    account_id: str | None
    idempotency_key: str | None
    is_webhook_id: bool
    problem: Problem | None

    def check(self) -> None:
        """Raises Problem 422 when a header is invalid."""
        if self.problem is not None:
            raise self.problem


@blueprint.post("/api/v1/cvf-events")
def receive_event() -> Response:
    """Accept one event."""
    context: AppContext = extension("context")
    request = current_request()
    headers = read_headers(request.environ, _headers_schema)
    sender = sender_of(context, headers)
    parse: BuildEvent | None = None

    def build_event(account: Account) -> Event:
        nonlocal parse
        if parse is None:
            parse = _read_event(context, request, account, headers)
        return parse(account)

    return receive(sender, lambda account: _success(accept_event(account, sender, build_event)))


def read_headers(environ: Mapping[str, Any], schema: Schema) -> Headers:
    """The headers of a request; raises Problem 401 without an API key."""
    sent = {
        _API_KEY: environ.get("HTTP_X_LIMECHAT_UAT", missing),
        _ACCOUNT_ID: environ.get("HTTP_X_FB_ACCOUNT_ID", missing),
        _IDEMPOTENCY_KEY: environ.get("HTTP_IDEMPOTENCY_KEY", environ.get("HTTP_WEBHOOK_ID", missing)),
    }
    problem = None
    try:
        valid = schema.load(sent)
    except ValidationError as exc:
        valid, problem = dict(exc.valid_data or {}), validation_failed(exc)
        if "api_key" not in valid:
            raise unauthorized() from None
    is_webhook_id = "HTTP_IDEMPOTENCY_KEY" not in environ
    return Headers(valid["api_key"], valid.get("account_id"), valid.get("idempotency_key"), is_webhook_id, problem)


def sender_of(context: AppContext, headers: Headers) -> Sender:
    """The sender that the headers name."""
    key_text, prefix = headers.api_key

    def check(account: Account) -> None:
        now, snapshot = context.clock(), account.snapshot
        key = verify_key(key_text, prefix, snapshot.keys, now)
        if key is None:
            raise unauthorized()
        # A missing account id is reported later, with the other faults of the headers.
        if headers.account_id not in (None, str(snapshot.id)):
            raise Problem(
                ProblemType.ACCOUNT_MISMATCH, "The key does not belong to the account named in x-fb-account-id."
            )
        if models.EVENTS_WRITE not in key.scopes:
            raise Problem(ProblemType.MISSING_SCOPE, f"The key lacks the scope {models.EVENTS_WRITE}.")
        check_open(account, now)

    return Sender(prefix, check, unauthorized)


def _read_event(context: AppContext, request: Request, sender: Account, headers: Headers) -> BuildEvent:
    """Read the body of the request; what parses its event for an account. Both raise Problem."""
    headers.check()
    body = read_json(request, context.settings)
    exact, received_at = read_event(sender, body), context.clock()
    event_id = uuid7(received_at)
    return lambda account: parse_event(
        exact,
        EVENT,
        account_id=account.snapshot.id,
        event_id=event_id,
        received_at=received_at,
        idempotency_key=headers.idempotency_key,
        is_webhook_id=headers.is_webhook_id,
        body=body,
        stores_unusable_phone=lambda: stores_unusable_phone(account),
    )


def _success(receipt: Receipt) -> Response:
    return json_response(
        {
            "id": str(receipt.id),
            "event": receipt.event,
            "distinct_id": receipt.distinct_id,
            "received_at": utc_text(receipt.received_at),
            "duplicate": receipt.duplicate,
            "contributing": receipt.contributing,
            "runs": [str(run) for run in receipt.runs],
            "warnings": receipt.warnings,
        }
    )
