"""The state of an account in the last hour, for charts."""

from __future__ import annotations

from typing import Any

from app.api.management.access import current
from app.api.management.routes import Blueprint, route
from app.api.management.schemas.overview import OverviewSchema
from app.core.models import EVENTS_READ
from app.services.overview import find_overview

blueprint = Blueprint("overview", __name__, description="The metrics of the account in the last hour, for charts.")


@route(blueprint, "GET", "/metrics", EVENTS_READ, answer=OverviewSchema)
def show_metrics() -> Any:
    """Show the metrics of the last hour

    Events of each minute, starts, failures, refusals, latency, the queue, and how targets answer: as the console's first page.
    """
    access = current()
    found = find_overview(access.context, access.account_id)
    return {
        "since": found.since,
        "minutes": found.minutes,
        "events": found.events,
        "starts": found.runs,
        "failures": found.failures,
        "refused": found.refused.others,
        "limited": found.refused.limited,
        "latency": found.latency,
        "jobs_due": found.queue.own,
        "jobs_late_by": found.queue.own_age,
        "targets": found.targets,
    }
