"""The state of an account in the last hour, for charts."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from app.api.management.access import current
from app.api.management.routes import Blueprint, route
from app.api.management.schemas.overview import OverviewSchema
from app.core.models import EVENTS_READ
from app.services.overview import find_overview, find_runs_per_minute

blueprint = Blueprint("overview", __name__, description="The metrics of the account in the last hour, for charts.")


@route(blueprint, "GET", "/metrics", EVENTS_READ, answer=OverviewSchema)
def show_metrics() -> Any:
    """Show the metrics of the last hour

    Events, starts, failures and latency of each minute; refusals, the queue, and how targets answer.
    """
    access = current()
    found = find_overview(access.context, access.account_id)
    runs = {one.at: one for one in find_runs_per_minute(access.context, access.account_id, found.since)}
    return {
        "since": found.since,
        "minutes": [{**asdict(minute), **asdict(runs[minute.at])} for minute in found.minutes],
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
