"""Failed runs of an account, grouped by target and error, each with the way to its runs and to retrying them all."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from flask import Blueprint, render_template

from app.console.access import app_context, current_account, route
from app.console.lists import read_filters, write_time
from app.core.models import VIEWER
from app.db.failures import FailureGroup
from app.db.inspection import NOTHING
from app.services import failures

blueprint = Blueprint("failures", __name__)
_PERIODS = {
    "1h": ("an hour", timedelta(hours=1)),
    "1d": ("a day", timedelta(days=1)),
    "7d": ("7 days", failures.DEFAULT_PERIOD),
    "30d": ("30 days", timedelta(days=30)),
}


@route(blueprint, "/<account>/failures", VIEWER)
def show() -> Any:
    """What failed in the period of the URL, the latest first."""
    filters, context = read_filters("workflow", "period"), app_context()
    label, period = _PERIODS.get(filters.get("period", ""), _PERIODS["7d"])
    since = context.clock() - period
    found = failures.find_failures(context, current_account().id, since, filters.get("workflow"))

    def filters_of(group: FailureGroup) -> dict[str, str]:
        """The filters of the runs of a group."""
        of_workflow = {"workflow": filters["workflow"]} if "workflow" in filters else {}
        return {
            **of_workflow,
            "since": write_time(since),
            "target": group.target or NOTHING,
            "error_class": group.error_class or NOTHING,
        }

    values = {"periods": _PERIODS, "period": label, "scanned": failures.MAX_SCANNED}
    return render_template("failures.html", found=found, filters=filters, filters_of=filters_of, **values)
