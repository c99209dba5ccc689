"""`POST /api/v1/cvf-events`: a LimeChat custom event becomes a verified `Event` and is accepted.

Comes in: the HTTP request. Goes out: the receipt as JSON, after the commit; or a problem document (docs/receiving.md).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from uuid import UUID

from flask import Blueprint, Request, Response, current_app, request
from marshmallow import ValidationError

from app.api import errors
from app.api.flask_app import Answer
from app.api.rate_limit import Allowance, RateLimiter
from app.api.request_body import read_body
from app.core import models
from app.core.api_keys import prefix_of, unauthorized, verify_key
from app.core.exact_json import ExactObject, object_text, read_object
from app.core.ids import uuid7
from app.core.models import Event, Problem, Receipt
from app.ingest.accept import Account, Journey
from app.ingest.limechat.plain_events import read_plain
from app.ingest.limechat.schemas import FIELD_NAMES, PRINTABLE, EventSchema, HeadersSchema, warnings_of

# A refusal never rests on a copy of the account that is older than this.
_RECENT_SECONDS = 2.0
_event_schema = EventSchema()
_headers_schema = HeadersSchema()
_HEADER_NAMES = {"account_id": "x-fb-account-id", "idempotency_key": "Idempotency-Key"}

blueprint = Blueprint("cvf_events", __name__)


@dataclass(frozen=True, slots=True)
class Sender:
    """Who says to be sending: the key (its `prefix`, empty: it looks like none), the account id and the idempotency key of
    the headers, not checked yet."""

    token: str
    prefix: str
    account_id: str | None
    idempotency_key: str | None


@blueprint.post("/api/v1/cvf-events")
def receive_event() -> Response:
    """Take in one event."""
    # What Flask's proxies stand for is looked up each time that they are used.
    asked, house = request._get_current_object(), current_app.extensions  # type: ignore[attr-defined]
    journey: Journey = house["journey"]
    sender = read_sender(asked.environ)
    account = authenticate(journey, sender)
    allowance = take_from_plan(house["rate_limiter"], account)
    try:
        if allowance is not None and not allowance.allowed:
            raise too_fast(allowance)
        event = _verified(journey, asked, account, sender)
        receipt = journey.accept(account, event, lambda current: check_sender(journey, current, sender))
        journey.note_key_use(sender.prefix)
        return _success(receipt, allowance, errors.request_id(asked.environ))
    except Problem as problem:
        authenticate_anew(journey, account, sender)
        response = errors.problem_response(problem)
        journey.note_key_use(sender.prefix)
    except models.Unavailable as trouble:
        response = errors.unavailable_response(trouble)
    if allowance is not None:
        response.headers.update(allowance.headers())
    return response


def read_sender(environ: Mapping[str, Any]) -> Sender:
    """What the headers of a request say; raises Problem 401 without a key."""
    token = environ.get("HTTP_X_LIMECHAT_UAT", "")
    if not token:
        raise unauthorized()
    idempotency_key = environ.get("HTTP_IDEMPOTENCY_KEY", environ.get("HTTP_WEBHOOK_ID"))
    return Sender(token, prefix_of(token), environ.get("HTTP_X_FB_ACCOUNT_ID"), idempotency_key)


def authenticate(journey: Journey, sender: Sender) -> Account:
    """The account that the sender may send to; raises Problem 401 or 403. A refusal rests on a recent copy."""
    account = journey.account_of_key(sender.prefix) if sender.prefix else None
    if account is None:
        raise unauthorized()
    try:
        check_sender(journey, account, sender)
    except Problem:
        account = journey.recent(account, seconds=_RECENT_SECONDS)
        if account is None:
            raise unauthorized() from None
        check_sender(journey, account, sender)
    return account


def authenticate_anew(journey: Journey, account: Account, sender: Sender) -> None:
    """Before a sender is told what is wrong with its event: is it still welcome, by a recent copy of its account?
    While Postgres cannot say, the copy at hand has to do."""
    try:
        current = journey.recent(account, seconds=_RECENT_SECONDS)
    except models.Unavailable:
        return
    if current is None:
        raise unauthorized()
    check_sender(journey, current, sender)


def check_sender(journey: Journey, account: Account, sender: Sender) -> None:
    """Raises Problem 401 when the key is not in force, 403 when it may not send to this account now.

    A sender who names no account is told so later, with all else that is wrong in its headers.
    """
    moment = journey.clock()
    key = verify_key(sender.token, sender.prefix, account.copy.keys, moment)
    if key is None:
        raise unauthorized()
    if sender.account_id not in (None, str(account.copy.id)):
        raise Problem(403, "Not your account", "The key does not belong to the account named in x-fb-account-id.")
    if models.EVENTS_WRITE not in key.scopes:
        raise Problem(403, "Key without this right", f"The key lacks the scope {models.EVENTS_WRITE}.")
    check_open(account, moment)


def check_open(account: Account, moment: datetime) -> None:
    """Raises Problem 403 when the account takes no events at this moment, whoever sends them."""
    copy = account.copy
    if copy.disabled_at is not None:
        raise Problem(403, "Account disabled", "The account is disabled and takes no events.")
    if copy.plan_ends_at is not None and copy.plan_ends_at <= moment:
        raise Problem(403, "Plan ended", f"The account's {copy.plan} plan has ended and it takes no events.")


def take_from_plan(limiter: RateLimiter, account: Account, events: int = 1) -> Allowance | None:
    """Count events against the account's plan; None for a plan without a limit."""
    plan = models.PLANS[account.copy.plan]
    rate = account.copy.events_per_second or plan.events_per_second
    return None if rate is None else limiter.take(account.copy.id, rate, events)


def too_fast(allowance: Allowance) -> Problem:
    """The 429 of an account above its plan's rate."""
    return Problem(
        429,
        "Above the plan's rate",
        f"The account's rate is {allowance.limit} a second; "
        f"wait {allowance.reset} second{'' if allowance.reset == 1 else 's'} and send again.",
    )


def _verified(journey: Journey, asked: Request, account: Account, sender: Sender) -> Event:
    """The event in the body of the request; raises Problem."""
    settings = journey.settings
    check_headers(sender)
    body = read_body(
        asked, limit=settings.max_event_bytes, seconds=settings.body_timeout, media_types=("application/json",)
    )
    received_at = journey.clock()
    event_id, key = uuid7(received_at), sender.idempotency_key
    digest = None if key is None else hashlib.sha256(body).digest()
    plain = read_plain(body, account.copy.id, event_id, received_at)
    if plain is not None and plain.idempotency_key is None:
        return plain if key is None else replace(plain, idempotency_key=key, body_digest=digest)
    return event_in(
        read_object(body),
        account_id=account.copy.id,
        event_id=event_id,
        received_at=received_at,
        idempotency_key=key,
        body_digest=digest,
    )


def event_in(
    exact: ExactObject,
    *,
    account_id: int,
    event_id: UUID,
    received_at: datetime,
    idempotency_key: str | None,
    body_digest: bytes | None,
) -> Event:
    """The event that an object tells, checked; raises Problem 422 with all that is wrong."""
    fields = load_fields(exact)
    extra = {name: text for name, text in exact.raw.items() if name not in FIELD_NAMES}
    return Event(
        id=event_id,
        account_id=account_id,
        event=fields["event"],
        distinct_id=fields.get("distinct_id") or fields["phone"][1:],
        phone=fields.get("phone"),
        data=fields.get("data", {}),
        data_json=exact.raw.get("data", "{}"),
        extra_json=object_text(extra) if extra else None,
        received_at=received_at,
        idempotency_key=idempotency_key,
        body_digest=body_digest,
        warnings=warnings_of(fields["event"], extra),
    )


def check_headers(sender: Sender) -> None:
    """Raises Problem 422 without an account, or with an idempotency key that cannot be one."""
    if sender.account_id is not None and (
        sender.idempotency_key is None or PRINTABLE.fullmatch(sender.idempotency_key) is not None
    ):
        return
    sent = {"account_id": sender.account_id, "idempotency_key": sender.idempotency_key}
    try:
        _headers_schema.load({name: value for name, value in sent.items() if value is not None})
    except ValidationError as wrong:
        raise invalid(wrong, _HEADER_NAMES) from None


def load_fields(exact: ExactObject) -> dict[str, Any]:
    """The known fields of an event, checked; raises Problem 422 with all that is wrong."""
    try:
        fields: dict[str, Any] = _event_schema.load(exact.value)
    except ValidationError as wrong:
        raise invalid(wrong, {}) from None
    return fields


def invalid(wrong: ValidationError, names: dict[str, str]) -> Problem:
    """The 422 that lists what marshmallow found; `names` maps schema fields to what the sender calls them."""
    messages: dict[str, Any] = wrong.normalized_messages()  # type: ignore[no-untyped-call]
    errors = [
        {"field": names.get(str(name), str(name)), "message": str(message)}
        for name, said in sorted(messages.items())
        for message in (said if isinstance(said, list) else [said])
    ]
    detail = "; ".join(f"{error['field']} {error['message']}" for error in errors)
    return Problem(422, "Fields that are wrong", detail, errors=errors)


def _success(receipt: Receipt, allowance: Allowance | None, request_id: str) -> Response:
    body = errors.json_bytes(
        {
            "id": str(receipt.id),
            "event": receipt.event,
            "distinct_id": receipt.distinct_id,
            "received_at": receipt.received_at.isoformat(timespec="microseconds").replace("+00:00", "Z"),
            "duplicate": receipt.duplicate,
            "contributing": receipt.contributing,
            "runs": [str(run) for run in receipt.runs],
            "warnings": receipt.warnings,
        }
    )
    headers = [
        ("Content-Type", "application/json"),
        ("Content-Length", str(len(body))),
        ("X-Request-Id", request_id),
    ]
    return Answer(body, headers if allowance is None else [*headers, *allowance.headers().items()])
