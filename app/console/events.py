"""Events of an account: the list, which follows new events, and one event with its decisions and runs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from uuid import UUID

from flask import Blueprint, Response, abort, render_template

from app.console.access import app_context, current_account, route
from app.console.lists import PAGE, Page, read_cursor, read_filters, read_page, read_time
from app.core.errors import Problem
from app.core.models import VIEWER
from app.db.event_search import CONTRIBUTED, MAX_LOOKED_AT, NO_WORKFLOW, NOT_STARTED, STARTED, EventCondition
from app.db.inspection import EventFilter, StoredEvent
from app.services import inspection
from app.services.event_search import read_condition, search_events
from app.services.inspection import EventDetails

blueprint = Blueprint("events", __name__)
_OUTCOMES = {
    STARTED: "started a run",
    CONTRIBUTED: "was taken into account",
    NOT_STARTED: "started nothing",
    NO_WORKFLOW: "no workflow looked",
}


@route(blueprint, "/<account>/events", VIEWER)
def show() -> Any:
    """The events that pass the filters of the URL, newest first."""
    return _show("events.html")


@route(blueprint, "/<account>/events/rows", VIEWER)
def rows() -> Any:
    """The rows of the first page alone, for a page that is open."""
    return _show("events_rows.html")


def _show(template: str) -> Any:
    filters = read_filters("event", "subject", "outcome", "source", "data", "since", "until")
    since, until = read_time(filters, "since"), read_time(filters, "until")
    wanted = EventFilter(filters.get("event"), filters.get("subject"), None, since, until)
    problem = None
    try:
        condition = read_condition(filters.get("outcome"), filters.get("source"), filters.get("data"))
    except Problem as exc:
        condition, problem = EventCondition(), exc.detail
    page = _list(wanted, filters) if condition == EventCondition() else _search(wanted, condition, filters)
    return render_template(template, page=page, outcomes=_OUTCOMES, problem=problem)


def _list(wanted: EventFilter, filters: dict[str, str]) -> Page[StoredEvent]:
    account_id = current_account().id
    return read_page(
        lambda before, limit: inspection.find_latest_events(
            app_context(), account_id, replace(wanted, before=before), limit, with_data=False
        ),
        lambda event: event.id,
        filters,
    )


def _search(wanted: EventFilter, condition: EventCondition, filters: dict[str, str]) -> Page[StoredEvent]:
    """A page of a search, which ends where the search has looked at as many events as it may."""
    wanted = replace(wanted, before=read_cursor(UUID))
    found = search_events(app_context(), current_account().id, wanted, condition, PAGE)
    return Page(found.events, None if found.last is None else str(found.last), filters, MAX_LOOKED_AT)


@route(blueprint, "/<account>/events/<uuid:event_id>", VIEWER)
def show_one(event_id: UUID) -> Any:
    """One event: what was sent, what each workflow decided, and the runs that it started."""
    found = _find(event_id)
    return render_template("event.html", event=found.event, runs=found.runs)


@route(blueprint, "/<account>/events/<uuid:event_id>/now", VIEWER)
def show_now(event_id: UUID) -> Any:
    """The decisions and runs of an event alone, for a page that is open."""
    found = _find(event_id)
    return render_template("event_now.html", event=found.event, runs=found.runs)


def _find(event_id: UUID) -> EventDetails:
    found = inspection.find_event_details(app_context(), current_account().id, event_id)
    if found is None:
        abort(404)
    return found


@route(blueprint, "/<account>/events/<uuid:event_id>/data", VIEWER)
def show_data(event_id: UUID) -> Any:
    """The data of an event as it was sent, as text."""
    return Response(_find(event_id).event.data_json, content_type="text/plain; charset=utf-8")
