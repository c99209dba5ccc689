"""Searches events, shows one with its decisions, and replays it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any
from uuid import UUID

from app.api.management.access import current
from app.api.management.fields import read_filtered_page
from app.api.management.routes import Blueprint, route
from app.api.management.schemas.events import (
    EventDetailsSchema,
    EventPageSchema,
    EventQuery,
    NewEventsQuery,
    NewEventsSchema,
    ReplayedListSchema,
    ReplaySchema,
)
from app.core.errors import Problem, ProblemType
from app.core.models import EVENTS_READ, RUNS_WRITE
from app.db.event_search import EventCondition
from app.db.inspection import EventFilter
from app.ingest.event_replay import Replayed, replay_event
from app.services import event_search, inspection

blueprint = Blueprint("events", __name__, description="Received events, with what each workflow decided and why.")
_OF_FIRST = {"event_id": "$response.body#/items/0/id"}


@route(
    blueprint,
    "GET",
    "/events",
    EVENTS_READ,
    query=EventQuery,
    answer=EventPageSchema,
    links={
        "show": {"operationId": "show_event", "parameters": _OF_FIRST},
        "replay": {"operationId": "replay", "parameters": _OF_FIRST},
    },
)
def list_events(query: dict[str, Any]) -> Any:
    """List events

    The newest first, without their data. `after` is the id of an event. With `outcome`, `via` or `data` it is a search, whose
    page looks at 2,000 events: it may have few items, or none, and a `next`.
    """
    access = current()
    wanted = EventFilter(query.get("event"), query.get("subject"), None, query.get("since"), query.get("until"))
    condition = event_search.read_condition(query.get("outcome"), query.get("via"), query.get("data"))
    if condition != EventCondition():
        wanted = replace(wanted, before=query.get("after"))
        found = event_search.search_events(access.context, access.account_id, wanted, condition, query["limit"])
        return {"items": found.events, "next": None if found.last is None else str(found.last)}
    return read_filtered_page(query, partial(inspection.find_latest_events, with_data=False), wanted)


@route(blueprint, "GET", "/events/new", EVENTS_READ, query=NewEventsQuery, answer=NewEventsSchema)
def follow_events(query: dict[str, Any]) -> Any:
    """Follow events

    The oldest first: those after `after`, or from `since` on, or from now on. Ask again with `next`, which is never null: each
    event comes once, and none is missed. It comes 15 seconds after it was received, when all earlier ones are stored.
    """
    access = current()
    wanted = EventFilter(query.get("event"), query.get("subject"), since=query.get("since"))
    events, last = inspection.follow_events(
        access.context, access.account_id, wanted, query.get("after"), query["limit"]
    )
    return {"items": events, "next": last}


@route(blueprint, "GET", "/events/<uuid:event_id>", EVENTS_READ, answer=EventDetailsSchema)
def show_event(event_id: UUID) -> Any:
    """Show an event

    What was sent, what each workflow decided, and the runs that it started.
    """
    access = current()
    found = inspection.find_event_details(access.context, access.account_id, event_id)
    if found is None:
        raise Problem(ProblemType.NOT_FOUND, f"The account has no event {event_id}.")
    event = found.event
    shown = EventDetailsSchema(exclude=("data", "extra", "augmented", "decisions", "runs")).dump(event)
    return {
        **{name: getattr(event, name) for name in shown},
        "data": event.data_json,
        "extra": event.extra_json,
        "augmented": event.augmented_json,
        "decisions": [_stored(decision) for decision in event.decisions],
        "runs": found.runs,
    }


def _stored(decision: Mapping[str, Any]) -> dict[str, Any]:
    """A decision of the database, which leaves out what is false or null."""
    absent = {"contributing": False, "workflows": None}
    return {**absent, **decision, "run_id": decision.get("run")}


@route(
    blueprint,
    "POST",
    "/events/<uuid:event_id>/replay",
    RUNS_WRITE,
    body=ReplaySchema,
    answer=ReplayedListSchema,
    is_atomic=False,
)
def replay(body: dict[str, Any], event_id: UUID) -> Any:
    """Replay an event

    Match it with the workflows that are enabled now. A match that has had its run gets no second one.
    """
    access = current()
    found = replay_event(
        access.context, access.account_id, event_id, workflow=body["workflow"], dry_run=body["dry_run"]
    )
    return {"items": [_shown(one) for one in found]}


def _shown(one: Replayed) -> dict[str, Any]:
    decision = one.decision
    names = ("workflow", "version", "started", "contributing", "reason", "run_id")
    return {**{name: getattr(decision, name) for name in names}, "earlier": one.earlier}
