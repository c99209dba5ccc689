"""Shows what third parties posted, byte for byte, tries sources on it, and maps it again."""

from __future__ import annotations

from functools import partial
from typing import Any
from uuid import UUID

from flask import Response, current_app

from app.api.management.access import current
from app.api.management.fields import read_filtered_page
from app.api.management.request_body import invalid
from app.api.management.routes import BYTES_TYPE, Blueprint, Bytes, route
from app.api.management.schemas.deliveries import (
    WAITING,
    DeliveryPageSchema,
    DeliveryQuery,
    DeliverySchema,
    TestDeliverySchema,
    TestedDeliverySchema,
)
from app.api.management.schemas.sources import ReplayedDeliveriesSchema, TriedSourceSchema, TryDeliverySchema
from app.api.management.sources import show_replayed, show_tried
from app.api.responses import request_id
from app.api.sender import take_from_plan
from app.core.errors import Problem, ProblemType
from app.core.models import SOURCES_READ, SOURCES_WRITE
from app.db import deliveries as rows
from app.db.deliveries import DeliveryFilter, DeliveryRow
from app.ingest.sources import delivery_replay
from app.ingest.sources.received import request_of
from app.ingest.sources.signer import CannotSign, SignedSender
from app.ingest.sources.trial import UnreadableRequest, read_request, try_text
from app.services import deliveries, sources

blueprint = Blueprint("deliveries", __name__, description="Deliveries: what third parties posted, as it arrived.")
_OF_FIRST = {"delivery_id": "$response.body#/items/0/id"}


@route(
    blueprint,
    "GET",
    "/deliveries",
    SOURCES_READ,
    query=DeliveryQuery,
    answer=DeliveryPageSchema,
    links={
        "show": {"operationId": "show_delivery", "parameters": _OF_FIRST},
        "body": {"operationId": "show_delivery_body", "parameters": _OF_FIRST},
    },
)
def list_deliveries(query: dict[str, Any]) -> Any:
    """List deliveries

    The newest first, without their bodies. `after` is the id of a delivery.
    """
    access, result = current(), query.get("result")
    name = query.get("source")
    wanted = DeliveryFilter(
        source_id=None if name is None else sources.find_source(access.context, access.account_id, name).id,
        results=rows.WAITING if result == WAITING else [result] if result else None,
        since=query.get("since"),
        until=query.get("until"),
    )
    return read_filtered_page(query, deliveries.find_latest_deliveries, wanted)


@route(blueprint, "GET", "/deliveries/<uuid:delivery_id>", SOURCES_READ, answer=DeliverySchema)
def show_delivery(delivery_id: UUID) -> Any:
    """Show a delivery

    Whether it was verified, and which events it made, or why not.
    """
    return _find(delivery_id)


def _find(delivery_id: UUID) -> DeliveryRow:
    access = current()
    return deliveries.find_delivery(access.context, access.account_id, delivery_id)


@route(blueprint, "GET", "/deliveries/<uuid:delivery_id>/body", SOURCES_READ, answer=Bytes)
def show_delivery_body(delivery_id: UUID) -> Any:
    """Download the body of a delivery

    Byte for byte as it arrived; with a `content_encoding` it is packed.
    """
    body = deliveries.find_body(current().context, _find(delivery_id))
    blueprint.set_etag(str(delivery_id))
    return Response(body, content_type=BYTES_TYPE)


@route(
    blueprint,
    "POST",
    "/sources/<source>/test",
    SOURCES_WRITE,
    body=TestDeliverySchema,
    answer=TestedDeliverySchema,
    is_atomic=False,
)
def test_source(body: dict[str, Any], source: str) -> Any:
    """Send a signed test delivery

    The request is signed with the first secret of the source and accepted as if the provider had posted it: its events are
    stored, and start workflows. `POST /sources/{source}/try` stores nothing.
    """
    access, extensions = current(), current_app.extensions
    found = sources.find_source(access.context, access.account_id, source)
    sender = SignedSender(access.context, extensions["accounts"], extensions["source_acceptor"])
    try:
        sent = read_request(body["request"].encode(errors="replace"), access.context.settings.max_batch_unpacked_bytes)
        receipt = sender.send(found, sent, request_id(), lambda account: partial(take_from_plan, account))
    except (UnreadableRequest, CannotSign) as exc:
        raise invalid([{"field": "request", "message": str(exc)}]) from None
    names = ("id", "result", "events", "duplicates", "problems")
    return {name: getattr(receipt, name) for name in names}


@route(
    blueprint,
    "POST",
    "/deliveries/<uuid:delivery_id>/try",
    SOURCES_READ,
    body=TryDeliverySchema,
    answer=TriedSourceSchema,
    takes_key=False,
)
def try_delivery(body: dict[str, Any], delivery_id: UUID) -> Any:
    """Try a source on a delivery

    What the document makes of it, as if it arrived again at the same time. Stores nothing.
    """
    access, row = current(), _find(delivery_id)
    text = body["source"]
    if text is None:
        if row.source is None:
            raise Problem(ProblemType.CONFLICT, "The source of the delivery was deleted. Send a document.")
        text = sources.find_source(access.context, access.account_id, row.source).source
    sent = deliveries.find_body(access.context, row)
    request = request_of(row, sent, access.context.settings.max_batch_unpacked_bytes)
    return show_tried(try_text(access.context, access.account_id, text, request, row))


@route(
    blueprint,
    "POST",
    "/deliveries/<uuid:delivery_id>/replay",
    SOURCES_WRITE,
    answer=ReplayedDeliveriesSchema,
    is_atomic=False,
)
def replay_delivery(delivery_id: UUID) -> Any:
    """Map a delivery again

    By the current version of its source. 409 for one that is mapped.
    """
    return show_replayed(delivery_replay.replay_delivery(current().context, _find(delivery_id)))
