"""Shows refused requests, byte for byte, and replays them."""

from __future__ import annotations

from contextlib import closing
from typing import Any
from uuid import UUID

from flask import Response

from app.api.management.access import current
from app.api.management.fields import read_filtered_page
from app.api.management.routes import BYTES_TYPE, Blueprint, Bytes, route
from app.api.management.schemas.refusals import (
    RefusalPageSchema,
    RefusalQuery,
    RefusalSchema,
    ReplayedRefusalSchema,
)
from app.core.errors import Problem, ProblemType
from app.core.models import EVENTS_READ, RUNS_WRITE
from app.db.refusals import RefusalFilter, RefusalRow
from app.ingest.refusals_replay import Replayer
from app.services import refusals

blueprint = Blueprint(
    "refusals", __name__, description="Refusals: requests of senders that were refused, with their body."
)
_OF_FIRST = {"refusal_id": "$response.body#/items/0/id"}
_FIELDS = tuple(RefusalSchema().fields)


@route(
    blueprint,
    "GET",
    "/refusals",
    EVENTS_READ,
    query=RefusalQuery,
    answer=RefusalPageSchema,
    links={"show": {"operationId": "show_refusal", "parameters": _OF_FIRST}},
)
def list_refusals(query: dict[str, Any]) -> Any:
    """List refusals

    The newest first, without their bodies. `after` is the id of a refusal.
    """
    filters = {name: query[name] for name in ("request_id", "since", "until") if name in query}
    page = read_filtered_page(query, refusals.find_latest_refusals, RefusalFilter(**filters))
    return {**page, "items": [_shown(row) for row in page["items"]]}


def _shown(row: RefusalRow) -> dict[str, Any]:
    items = None if row.items is None else [{"event_id": None, **one} for one in row.items]
    return {**{name: getattr(row, name) for name in _FIELDS}, "items": items}


@route(blueprint, "GET", "/refusals/<uuid:refusal_id>", EVENTS_READ, answer=RefusalSchema)
def show_refusal(refusal_id: UUID) -> Any:
    """Show a refusal

    Who sent it, why it was refused, and whether it was replayed.
    """
    return _shown(_find(refusal_id))


def _find(refusal_id: UUID) -> RefusalRow:
    access = current()
    return refusals.find_refusal(access.context, access.account_id, refusal_id)


@route(blueprint, "GET", "/refusals/<uuid:refusal_id>/body", EVENTS_READ, answer=Bytes)
def show_refusal_body(refusal_id: UUID) -> Any:
    """Download the body of a refusal

    As it is kept. 404 when it is not.
    """
    row = _find(refusal_id)
    body = refusals.find_body(current().context, row)
    if body is None:
        raise Problem(ProblemType.NOT_FOUND, "The body is not kept.")
    # After a replay, the body holds only the items that are still refused.
    blueprint.set_etag([str(refusal_id), row.body_bytes])
    return Response(body, content_type=BYTES_TYPE)


@route(
    blueprint,
    "POST",
    "/refusals/<uuid:refusal_id>/replay",
    RUNS_WRITE,
    answer=ReplayedRefusalSchema,
    is_atomic=False,
)
def replay_refusal(refusal_id: UUID) -> Any:
    """Replay a refusal

    Accept what was refused as if it came now. One that was accepted is not accepted twice.
    """
    access, row = current(), _find(refusal_id)
    with closing(Replayer(access.context)) as replayer:
        replayed = replayer.replay(row)
    refused = [
        {"index": index, "type": problem.type.slug, "detail": problem.detail}
        for index, problem in (replayed.refused or {}).items()
    ]
    return {"stored": replayed.stored, "events": replayed.events, "refused": refused}
