"""CxEngage's REST receiver: `GET /version`, `POST …/event` and `GET …/event/history`.

Comes in: any JSON object that has the tenant's key attribute. Goes out: the same object with the id of the event that it has
become, after the commit. `event_of` is for all that makes events of such objects.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec
from flask import Blueprint, Flask, Response, current_app, request

from app.api.cxengage import auth
from app.api.request_body import read_body
from app.api.sender import Sender, check_open, receive, recheck
from app.core import models
from app.core.api_keys import prefix_of
from app.core.errors import Problem, ProblemType
from app.core.exact_json import ExactObject, object_text, read_object
from app.core.ids import cxengage_id, uuid7
from app.core.models import Event, Receipt
from app.ingest.account_cache import Account, AccountCache
from app.ingest.enrichment import Enricher
from app.ingest.limechat.parser import check_headers
from app.ingest.limechat.schemas import LONGEST
from app.services import oauth_clients
from app.services.context import AppContext

VERSION = b"1.0"
NAMELESS = "event"
RECEIVER = "receiver"
_HISTORY = 10

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
    """Accept one event."""
    context: AppContext = current_app.extensions["context"]
    token = auth.bearer_token()

    def check(account: Account) -> None:
        auth.check_caller(account, token, tenant, models.EVENTS_WRITE)
        check_open(account, context.clock())

    sender = Sender(prefix_of(token), check, auth.unauthorized)
    return receive_object(sender, lambda account: _read(context, account))


def receive_object(
    sender: Sender,
    read: Callable[[Account], tuple[ExactObject, Origin]],
    after_accept: Callable[[Receipt], None] = lambda receipt: None,
) -> Response:
    """Accept the JSON object that `read` takes from the request; `after_accept` is called once it is stored.

    The event depends on the account's attribute names: it is built again for each newer snapshot, and refused only by
    the current one.
    """
    context: AppContext = current_app.extensions["context"]
    accounts: AccountCache = current_app.extensions["accounts"]
    enricher: Enricher = current_app.extensions["enricher"]
    found: tuple[ExactObject, Origin] | None = None

    def read_once(account: Account) -> tuple[ExactObject, Origin]:
        nonlocal found
        if found is None:
            found = read(account)
        return found

    def build_event(account: Account) -> Event:
        exact, origin = read_once(account)
        try:
            event = event_of(account, exact, context.clock(), origin)
        except Problem:
            current = recheck(accounts, account, sender, max_age=0)
            if current is None or _attributes(current) == _attributes(account):
                raise
            account, event = current, event_of(current, exact, context.clock(), origin)
        return enricher.enrich(account, event, account.snapshot.key_attribute)

    def success(receipt: Receipt) -> Response:
        assert found is not None
        after_accept(receipt)
        return _success(receipt, *found)

    return receive(sender, build_event, success, auth.error_response)


def _read(context: AppContext, account: Account) -> tuple[ExactObject, Origin]:
    """The object in the request's body, and where it comes from; raises Problem."""
    settings = context.settings
    idempotency_key = read_idempotency_key(account)
    body = read_body(
        request, limit=settings.max_event_bytes, seconds=settings.body_timeout, media_types=("application/json",)
    )
    return read_object(body), Origin(RECEIVER, idempotency_key, body)


def read_idempotency_key(account: Account) -> str | None:
    """The idempotency key of the request; raises Problem for one that cannot be used."""
    key = request.headers.get("Idempotency-Key", request.headers.get("webhook-id"))
    check_headers(str(account.snapshot.id), key)
    return key


def _attributes(account: Account) -> tuple[str, str]:
    return account.snapshot.key_attribute, account.snapshot.event_attribute


def event_of(account: Account, exact: ExactObject, moment: datetime, origin: Origin) -> Event:
    """The event that a JSON object is to this account: its subject the key attribute's value, its name that of the
    attribute for it, its data the whole object. Raises Problem 422 without a subject."""
    name, warnings = _name(account, exact)
    return Event(
        id=uuid7(moment),
        account_id=account.snapshot.id,
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
    attribute = account.snapshot.key_attribute
    text = _as_text(exact, attribute)
    if text is None or isinstance(exact.value[attribute], bool):
        wrong = "is missing" if exact.value.get(attribute) is None else "is no text and no number"
        raise _no_subject(attribute, wrong)
    if not 1 <= len(text) <= LONGEST:
        raise _no_subject(attribute, f"has {len(text)} characters; it has to have 1 to {LONGEST}")
    return text


def _no_subject(attribute: str, wrong: str) -> Problem:
    return Problem(
        ProblemType.VALIDATION_FAILED,
        f"The key attribute {attribute!r} {wrong}. It has to say, as text or a number, whom the event is about.",
    )


def _name(account: Account, exact: ExactObject) -> tuple[str, tuple[str, ...]]:
    """The event's name, and what there is to be said about it."""
    attribute = account.snapshot.event_attribute
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


def _success(receipt: Receipt, exact: ExactObject, origin: Origin) -> Response:
    sent = origin.body.strip() if origin.via == RECEIVER else object_text(exact.raw).encode()
    return auth.answer(
        {
            "event": msgspec.Raw(sent),
            "key-attr": receipt.distinct_id,
            "id": cxengage_id(receipt.account_id, receipt.id),
            "contributing?": receipt.contributing,
        }
    )


@blueprint.get("/tenants/<tenant>/event/history")
def show_history(tenant: str) -> Response:
    """The last events that were sent to the receiver."""
    account = auth.authenticate(tenant, models.EVENTS_READ).account
    context: AppContext = current_app.extensions["context"]
    history: list[dict[str, Any]] = [
        {
            "event": msgspec.Raw(received.data_json.encode()),
            "key-attr": received.distinct_id,
            "id": cxengage_id(account.snapshot.id, received.id),
            "return-address": f"SV{account.snapshot.id}.",
            "contributing": received.contributing,
        }
        for received in oauth_clients.latest_received(context, account.snapshot.id, _HISTORY)
    ]
    return auth.answer({"history": history})
