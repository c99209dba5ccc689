"""Sends a test event: what a person has typed goes the way of a request, and the audit log says who sent it."""

from __future__ import annotations

import json
from dataclasses import dataclass

from msgspec.structs import replace

from app.core import models
from app.core.errors import Problem, ProblemType
from app.core.exact_json import object_text, read_object
from app.core.gzip_body import too_large
from app.core.ids import uuid7
from app.core.models import CONSOLE, Event, Receipt
from app.db.audit import Change
from app.ingest.accept import EventAcceptor
from app.ingest.account_cache import Account, check_open
from app.ingest.limechat.parser import EVENT, parse_event
from app.services import audit
from app.services.context import AppContext


@dataclass(frozen=True, slots=True)
class TypedEvent:
    """The fields of an event as they were typed; empty: not given. `data` is JSON text."""

    event: str
    distinct_id: str
    phone: str
    data: str


def send_test_event(context: AppContext, acceptor: EventAcceptor, account: Account, typed: TypedEvent) -> Receipt:
    """Accept a typed event, and record who sent it. Raises Problem: 422 with the fault of each field, 403, 413; Unavailable."""
    body, received_at = _body_of(typed), context.clock()
    if len(body) > context.settings.max_event_bytes:
        raise too_large(context.settings.max_event_bytes)
    exact, event_id = read_object(body), uuid7(received_at)

    def build(current: Account) -> Event:
        check_open(current, context.clock())
        event = parse_event(
            exact,
            EVENT,
            account_id=current.snapshot.id,
            event_id=event_id,
            received_at=received_at,
            stores_unusable_phone=lambda: current.snapshot.unusable_phone == models.STORE,
        )
        return replace(event, via=CONSOLE)

    receipt = acceptor.accept(account, build)
    change = Change("event.test", receipt.account_id, str(receipt.id), None, {"event": receipt.event})
    with context.database.transaction() as connection:
        audit.record(connection, context, change)
    return receipt


def _body_of(typed: TypedEvent) -> bytes:
    """The body of the request that sends the event. Raises Problem 422 when the data are no JSON object."""
    data = typed.data.strip() or "{}"
    try:
        read_object(data.encode("utf-8", "replace"))
    except Problem as exc:
        message = exc.detail.replace("The body is", "it is").replace("The top level is", "it is")
        errors = [{"field": "data", "message": message}]
        raise Problem(ProblemType.VALIDATION_FAILED, f"data: {message}", errors=errors) from None
    fields = {"event": typed.event, "distinct_id": typed.distinct_id, "phone": typed.phone}
    members = {name: json.dumps(text) for name, text in fields.items() if text}
    return object_text({**members, "data": data}).encode("utf-8", "replace")
