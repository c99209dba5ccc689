"""`POST /api/v1/cvf-events`: accepts one LimeChat custom event (docs/receiving.md)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from flask import Blueprint, Request, Response, current_app, request

from app.api import errors
from app.api.request_body import read_body
from app.api.sender import Sender, check_open, receive
from app.core import models
from app.core.api_keys import prefix_of, unauthorized, verify_key
from app.core.errors import Problem, ProblemType
from app.core.exact_json import read_object
from app.core.ids import uuid7
from app.core.models import Event, Receipt
from app.core.timestamps import utc_text
from app.ingest.account_cache import Account
from app.ingest.limechat.parser import check_headers, event_in
from app.ingest.limechat.plain_events import read_plain
from app.services.context import AppContext

blueprint = Blueprint("cvf_events", __name__)


@dataclass(frozen=True, slots=True)
class Headers:
    """The headers of a request, not validated yet: the key, the account id and the idempotency key."""

    token: str
    account_id: str | None
    idempotency_key: str | None


@blueprint.post("/api/v1/cvf-events")
def receive_event() -> Response:
    """Accept one event."""
    context: AppContext = current_app.extensions["context"]
    headers = read_headers(request.environ)
    event: Event | None = None

    def build_event(account: Account) -> Event:
        nonlocal event
        if event is None:
            event = _read_event(context, request, account, headers)
        return event

    return receive(sender_of(context, headers), build_event, _success, errors.problem_response)


def read_headers(environ: Mapping[str, Any]) -> Headers:
    """The headers of a request; raises Problem 401 without a key."""
    token = environ.get("HTTP_X_LIMECHAT_UAT", "")
    if not token:
        raise unauthorized()
    idempotency_key = environ.get("HTTP_IDEMPOTENCY_KEY", environ.get("HTTP_WEBHOOK_ID"))
    return Headers(token, environ.get("HTTP_X_FB_ACCOUNT_ID"), idempotency_key)


def sender_of(context: AppContext, headers: Headers) -> Sender:
    """The sender whom the headers name."""
    prefix = prefix_of(headers.token)

    def check(account: Account) -> None:
        now, snapshot = context.clock(), account.snapshot
        key = verify_key(headers.token, prefix, snapshot.keys, now)
        if key is None:
            raise unauthorized()
        # A missing account id is reported later, with the other faults of the headers.
        if headers.account_id not in (None, str(snapshot.id)):
            raise Problem(ProblemType.WRONG_ACCOUNT, "The key does not belong to the account named in x-fb-account-id.")
        if models.EVENTS_WRITE not in key.scopes:
            raise Problem(ProblemType.MISSING_SCOPE, f"The key lacks the scope {models.EVENTS_WRITE}.")
        check_open(account, now)

    return Sender(prefix, check, unauthorized)


def _read_event(context: AppContext, asked: Request, account: Account, headers: Headers) -> Event:
    """The event in the body of the request; raises Problem."""
    settings = context.settings
    check_headers(headers.account_id, headers.idempotency_key)
    body = read_body(
        asked, limit=settings.max_event_bytes, seconds=settings.body_timeout, media_types=("application/json",)
    )
    received_at = context.clock()
    event_id, key = uuid7(received_at), headers.idempotency_key
    digest = None if key is None else hashlib.sha256(body).digest()
    plain = read_plain(body, account.snapshot.id, event_id, received_at)
    if plain is not None and plain.idempotency_key is None:
        return plain if key is None else replace(plain, idempotency_key=key, body_digest=digest)
    return event_in(
        read_object(body),
        account_id=account.snapshot.id,
        event_id=event_id,
        received_at=received_at,
        idempotency_key=key,
        body_digest=digest,
    )


def _success(receipt: Receipt) -> Response:
    body = errors.json_bytes(
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
    return Response(body, content_type="application/json")
