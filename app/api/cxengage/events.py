"""CxEngage's REST receiver: `GET /version`, `POST …/event` and `GET …/event/history`.

Comes in: any JSON object that has the tenant's key attribute. Goes out: the same object with the id of the event that it has
become, after the commit. `event_of` is for all that makes events of such objects.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec
from flask import Blueprint, Flask, Response, current_app, request

from app.api import errors
from app.api.cxengage import auth
from app.api.limechat import events
from app.api.request_body import read_body
from app.core import models
from app.core.api_keys import prefix_of
from app.core.exact_json import ExactObject, object_text, read_object
from app.core.ids import numbered, uuid7
from app.core.models import Event, Problem, Receipt
from app.ingest.accept import Account, Journey
from app.ingest.enrichment import Augmenter
from app.ingest.limechat.schemas import LONGEST
from app.services import oauth_clients

VERSION = b"1.0"
NAMELESS = "event"
RECEIVER = "receiver"
_HISTORY = 10
_MOST_CHANGES = 5

blueprint = Blueprint("cxengage_events", __name__)


@dataclass(frozen=True, slots=True)
class Origin:
    """How an event came: `via` says by which way, `idempotency_key` and `body` are of the request, if it was one that may
    be repeated; `warnings` is what there is to be said about it before it was an event."""

    via: str = RECEIVER
    idempotency_key: str | None = None
    body: bytes = b""
    warnings: tuple[str, ...] = ()


def register(app: Flask) -> None:
    """Serve the receiver under both prefixes, and the version, which has none."""
    app.add_url_rule("/version", view_func=show_version, methods=["GET"])
    auth.register(app, [blueprint])


def show_version() -> Response:
    """The version of the receiver, for everybody."""
    return Response(VERSION, content_type="application/json")


@blueprint.post("/tenants/<tenant>/event")
def receive_event(tenant: str) -> Response:
    """Take in one event."""
    token = auth.bearer_token()
    return take_in(token, lambda account: _check_sender(account, token, tenant), _read)


def take_in(
    token: str,
    check: Callable[[Account], None],
    read: Callable[[Account, str], tuple[ExactObject, Origin]],
    note: Callable[[Account, Receipt], None] = lambda account, receipt: None,
) -> Response:
    """Take in what `read` makes of the request, from a sender whom `check` lets in to the token's account; `note` is told
    when it is stored."""
    journey: Journey = current_app.extensions["journey"]
    account = _sender(journey, token, check)
    allowance = events.take_from_plan(current_app.extensions["rate_limiter"], account)
    try:
        if allowance is not None and not allowance.allowed:
            raise events.too_fast(allowance)
        exact, origin = read(account, token)
        event, receipt = accept_object(journey, account, exact, origin, check)
        response = _success(receipt, event, origin)
        note(account, receipt)
        journey.note_key_use(prefix_of(token))
    except Problem as problem:
        _check_anew(journey, account, check)
        response = auth.error_response(problem)
        journey.note_key_use(prefix_of(token))
    except models.Unavailable as trouble:
        response = auth.error_response(errors.unavailable(trouble))
    if allowance is not None:
        response.headers.update(allowance.headers())
    return response


def _sender(journey: Journey, token: str, check: Callable[[Account], None]) -> Account:
    """The account that the token may send to; a refusal rests on a recent copy."""
    account = journey.account_of_key(prefix_of(token))
    if account is None:
        raise auth.unauthorized()
    try:
        check(account)
    except Problem:
        account = journey.recent(account, seconds=auth.RECENT_SECONDS)
        if account is None:
            raise auth.unauthorized() from None
        check(account)
    return account


def _check_sender(account: Account, token: str, tenant: str) -> None:
    auth.check_caller(account, token, tenant, models.EVENTS_WRITE)
    events.check_open(account, current_app.extensions["journey"].clock())


def _check_anew(journey: Journey, account: Account, check: Callable[[Account], None]) -> None:
    """Before a sender is told what is wrong with its event: is it still welcome? While Postgres cannot say, the copy at
    hand has to do."""
    try:
        current = journey.recent(account, seconds=auth.RECENT_SECONDS)
    except models.Unavailable:
        return
    if current is None:
        raise auth.unauthorized()
    check(current)


def _read(account: Account, token: str) -> tuple[ExactObject, Origin]:
    """The object in the request's body, and where it comes from; raises Problem."""
    settings = current_app.extensions["journey"].settings
    idempotency_key = read_idempotency_key(account, token)
    body = read_body(
        request, limit=settings.max_event_bytes, seconds=settings.body_timeout, media_types=("application/json",)
    )
    return read_object(body), Origin(RECEIVER, idempotency_key, body)


def read_idempotency_key(account: Account, token: str) -> str | None:
    """The idempotency key of the request; raises Problem for one that cannot be used."""
    key = request.headers.get("Idempotency-Key", request.headers.get("webhook-id"))
    events.check_headers(events.Sender(token, prefix_of(token), str(account.copy.id), key))
    return key


def accept_object(
    journey: Journey, account: Account, exact: ExactObject, origin: Origin, check: Callable[[Account], None]
) -> tuple[Event, Receipt]:
    """Make an event of a JSON object and store it with all that follows; when this returns it is committed.

    Whatever the account's attributes are called at this very moment counts, not what a copy says. `check` is asked
    about each newer copy, and raises Problem when the sender is no longer welcome. Raises Problem and Unavailable.
    """
    for _ in range(_MOST_CHANGES):
        known = account

        def verify(current: Account, known: Account = known) -> None:
            check(current)
            if _attributes(current) != _attributes(known):
                raise _OtherAttributes(current)

        try:
            try:
                event = event_of(known, exact, journey.clock(), origin)
            except Problem:
                with suppress(models.Unavailable):
                    verify(journey.recent(known, seconds=0) or known)
                raise
            return event, journey.accept(known, event, verify, _completed)
        except _OtherAttributes as changed:
            account = changed.account
    raise models.Unavailable(f"account {account.copy.id} changes faster than its events can be read")


def _completed(account: Account, event: Event) -> Event:
    """The event with what the account's augments know."""
    augmenter: Augmenter = current_app.extensions["augmenter"]
    return augmenter.complete(account, event, account.copy.key_attribute)


class _OtherAttributes(Exception):
    """The account names other attributes than the copy by which an event was read."""

    def __init__(self, account: Account) -> None:
        super().__init__()
        self.account = account


def _attributes(account: Account) -> tuple[str, str]:
    return account.copy.key_attribute, account.copy.event_attribute


def event_of(account: Account, exact: ExactObject, moment: datetime, origin: Origin) -> Event:
    """The event that a JSON object is to this account: its subject the key attribute's value, its name that of the
    attribute for it, its data the whole object. Raises Problem 422 without a subject."""
    name, warnings = _name(account, exact)
    return Event(
        id=uuid7(moment),
        account_id=account.copy.id,
        event=name,
        distinct_id=_subject(account, exact),
        phone=None,
        data=exact.value,
        data_json=object_text(exact.raw),
        extra_json=None,
        received_at=moment,
        idempotency_key=origin.idempotency_key,
        body_digest=hashlib.sha256(origin.body).digest() if origin.idempotency_key is not None else None,
        warnings=origin.warnings + warnings,
        via=origin.via,
    )


def _subject(account: Account, exact: ExactObject) -> str:
    attribute = account.copy.key_attribute
    text = _as_text(exact, attribute)
    if text is None or isinstance(exact.value[attribute], bool):
        wrong = "is missing" if exact.value.get(attribute) is None else "is no text and no number"
        raise _no_subject(attribute, wrong)
    if not 1 <= len(text) <= LONGEST:
        raise _no_subject(attribute, f"has {len(text)} characters; it has to have 1 to {LONGEST}")
    return text


def _no_subject(attribute: str, wrong: str) -> Problem:
    return Problem(
        422,
        "Event without its key attribute",
        f"The key attribute {attribute!r} {wrong}. It has to say, as text or a number, whom the event is about.",
    )


def _name(account: Account, exact: ExactObject) -> tuple[str, tuple[str, ...]]:
    """The event's name, and what there is to be said about it."""
    attribute = account.copy.event_attribute
    if exact.value.get(attribute) is None:
        return NAMELESS, ()
    text = _as_text(exact, attribute)
    if text is not None and 1 <= len(text) <= LONGEST:
        return text, ()
    wrong = "is no text, number, true or false" if text is None else f"has {len(text)} characters, not 1 to {LONGEST}"
    return NAMELESS, (f"{attribute}: {wrong}; the event is called {NAMELESS!r}",)


def _as_text(exact: ExactObject, attribute: str) -> str | None:
    """Text itself; a number, true and false as they were written; None for anything else, and for what is not there."""
    value = exact.value.get(attribute)
    if value is None or isinstance(value, str):
        return value
    return None if isinstance(value, dict | list) else exact.raw[attribute].strip()


def _success(receipt: Receipt, event: Event, origin: Origin) -> Response:
    sent = origin.body.strip() if origin.via == RECEIVER else event.data_json.encode()
    return auth.answer(
        {
            "event": msgspec.Raw(sent),
            "key-attr": event.distinct_id,
            "id": numbered(event.account_id, receipt.id),
            "contributing?": receipt.contributing,
        }
    )


@blueprint.get("/tenants/<tenant>/event/history")
def show_history(tenant: str) -> Response:
    """The last events that were sent to the receiver."""
    account = auth.authenticate(tenant, models.EVENTS_READ).account
    journey: Journey = current_app.extensions["journey"]
    history: list[dict[str, Any]] = [
        {
            "event": msgspec.Raw(received.data_json.encode()),
            "key-attr": received.distinct_id,
            "id": numbered(account.copy.id, received.id),
            "return-address": f"SV{account.copy.id}.",
            "contributing": received.contributing,
        }
        for received in oauth_clients.latest_received(journey, account.copy.id, _HISTORY)
    ]
    return auth.answer({"history": history})
