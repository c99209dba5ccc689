"""`POST /api/v1/cvf-events`: a LimeChat custom event becomes a verified `Event` and is accepted.

Comes in: the HTTP request. Goes out: the receipt as JSON, after the commit; or a problem document (docs/receiving.md).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from uuid import UUID

from flask import Blueprint, Response, current_app, request
from marshmallow import ValidationError

from app import words
from app.identifiers import uuid7
from app.journey import Account, Journey
from app.receive import problems
from app.receive.bodies import read_body
from app.receive.exact_json import ExactObject, object_text, read_object
from app.receive.keys import prefix_of, unauthorized, verify_key
from app.receive.limits import Allowance, RateLimiter
from app.receive.plain_events import read_plain
from app.receive.schemas import FIELD_NAMES, PRINTABLE, EventSchema, HeadersSchema, warnings_of
from app.words import Event, Problem, Receipt

# A refusal never rests on a copy of the account that is older than this.
_RECENT_SECONDS = 2.0
_event_schema = EventSchema()
_headers_schema = HeadersSchema()
_HEADER_NAMES = {"account_id": "x-fb-account-id", "idempotency_key": "Idempotency-Key"}

blueprint = Blueprint("cvf_events", __name__)


@dataclass(frozen=True, slots=True)
class Sender:
    """Who says to be sending: the key, the account id and the idempotency key of the headers, not checked yet."""

    token: str
    account_id: str | None
    idempotency_key: str | None


@blueprint.post("/api/v1/cvf-events")
def receive_event() -> Response:
    """Take in one event."""
    journey: Journey = current_app.extensions["journey"]
    sender = read_sender()
    account = authenticate(journey, sender)
    allowance = take_from_plan(account)
    try:
        if allowance is not None and not allowance.allowed:
            raise too_fast(allowance)
        receipt = journey.accept(account, _verified(account, sender), lambda current: check_sender(current, sender))
        journey.note_key_use(prefix_of(sender.token) or "")
        return _success(receipt, allowance)
    except Problem as problem:
        authenticate_anew(journey, account, sender)
        response = problems.problem_response(problem)
        journey.note_key_use(prefix_of(sender.token) or "")
    except words.Unavailable as trouble:
        response = problems.unavailable_response(trouble)
    if allowance is not None:
        response.headers.update(allowance.headers())
    return response


def read_sender() -> Sender:
    """What the headers say; raises Problem 401 without a key."""
    environ = request.environ
    token = environ.get("HTTP_X_LIMECHAT_UAT", "")
    if not token:
        raise unauthorized()
    idempotency_key = environ.get("HTTP_IDEMPOTENCY_KEY", environ.get("HTTP_WEBHOOK_ID"))
    return Sender(token, environ.get("HTTP_X_FB_ACCOUNT_ID"), idempotency_key)


def authenticate(journey: Journey, sender: Sender) -> Account:
    """The account that the sender may send to; raises Problem 401 or 403. A refusal rests on a recent copy."""
    prefix = prefix_of(sender.token)
    account = journey.account_of_key(prefix) if prefix else None
    if account is None:
        raise unauthorized()
    try:
        check_sender(account, sender)
    except Problem:
        account = journey.recent(account, seconds=_RECENT_SECONDS)
        if account is None:
            raise unauthorized() from None
        check_sender(account, sender)
    return account


def authenticate_anew(journey: Journey, account: Account, sender: Sender) -> None:
    """Before a sender is told what is wrong with its event: is it still welcome, by a recent copy of its account?
    While Postgres cannot say, the copy at hand has to do."""
    try:
        current = journey.recent(account, seconds=_RECENT_SECONDS)
    except words.Unavailable:
        return
    if current is None:
        raise unauthorized()
    check_sender(current, sender)


def check_sender(account: Account, sender: Sender) -> None:
    """Raises Problem 401 when the key is not in force, 403 when it may not send to this account now.

    A sender who names no account is told so later, with all else that is wrong in its headers.
    """
    key = verify_key(sender.token, account.copy.keys, current_app.extensions["journey"].clock())
    if key is None:
        raise unauthorized()
    if sender.account_id not in (None, str(account.copy.id)):
        raise Problem(403, "Not your account", "The key does not belong to the account named in x-fb-account-id.")
    if words.EVENTS_WRITE not in key.scopes:
        raise Problem(403, "Key without this right", f"The key lacks the scope {words.EVENTS_WRITE}.")
    check_open(account)


def check_open(account: Account) -> None:
    """Raises Problem 403 when the account takes no events now, whoever sends them."""
    copy, moment = account.copy, current_app.extensions["journey"].clock()
    if copy.disabled_at is not None:
        raise Problem(403, "Account disabled", "The account is disabled and takes no events.")
    if copy.plan_ends_at is not None and copy.plan_ends_at <= moment:
        raise Problem(403, "Plan ended", f"The account's {copy.plan} plan has ended and it takes no events.")


def take_from_plan(account: Account, events: int = 1) -> Allowance | None:
    """Count events against the account's plan; None for a plan without a limit."""
    limiter: RateLimiter = current_app.extensions["rate_limiter"]
    plan = words.PLANS[account.copy.plan]
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


def _verified(account: Account, sender: Sender) -> Event:
    """The event in the request's body; raises Problem."""
    journey: Journey = current_app.extensions["journey"]
    settings = journey.settings
    check_headers(sender)
    body = read_body(
        request, limit=settings.max_event_bytes, seconds=settings.body_timeout, media_types=("application/json",)
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


def _success(receipt: Receipt, allowance: Allowance | None) -> Response:
    body = problems.json_bytes(
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
    headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
    return Response([body], 200, headers if allowance is None else [*headers, *allowance.headers().items()])
