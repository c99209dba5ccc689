"""The first page of an account: what came in in the last hour, what it started, and what does not go well."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from flask import Blueprint, render_template

from app.console.access import app_context, current_account, route
from app.core.models import VIEWER
from app.db.deliveries import WAITING, DeliveryFilter
from app.db.inspection import EventFilter, RunFilter
from app.db.overview import MAX_PER_MINUTE
from app.services import deliveries, inspection
from app.services.overview import find_overview

blueprint = Blueprint("overview", __name__)
_LATEST = 10


@route(blueprint, "/<account>/", VIEWER)
def show() -> Any:
    """The numbers of the last hour, the latest events and runs, and what to do first in an empty account."""
    return _show("overview.html")


@route(blueprint, "/<account>/now", VIEWER)
def show_now() -> Any:
    """The same without the page around it, for a page that is open."""
    return _show("overview_now.html")


def _show(template: str) -> Any:
    context, account = app_context(), current_account()
    now = find_overview(context, account.id)
    unmapped = DeliveryFilter(results=WAITING, since=now.since)
    return render_template(
        template,
        now=now,
        has_unmapped=bool(deliveries.find_latest_deliveries(context, account.id, unmapped, 1)),
        events=inspection.find_latest_events(context, account.id, EventFilter(), _LATEST, with_data=False),
        runs=inspection.find_latest_runs(context, account.id, RunFilter(), _LATEST),
        minute=timedelta(minutes=1),
        max_per_minute=MAX_PER_MINUTE,
    )
