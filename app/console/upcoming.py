"""The runs that will continue and the workflows that will start: `signalbox run upcoming` as a page."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from flask import Blueprint, render_template

from app.console.access import app_context, current_account, route
from app.console.lists import PAGE, Page, account_zone, read_cursor, read_filters, read_time
from app.core.models import VIEWER
from app.services import upcoming

blueprint = Blueprint("upcoming", __name__)
_END = datetime.max.replace(tzinfo=UTC)


@route(blueprint, "/<account>/upcoming", VIEWER)
def show() -> Any:
    """What is to come in the period of the URL, earliest first; without a period, from now on."""
    filters, context = read_filters("since", "until"), app_context()
    now = context.clock()
    period = (read_time(filters, "since") or now, read_time(filters, "until") or _END)
    cursor = read_cursor(upcoming.read_cursor)
    found = upcoming.find_upcoming(context, current_account().id, period, cursor, PAGE + 1)
    more = upcoming.write_cursor(found[PAGE - 1]) if len(found) > PAGE else None
    return render_template("upcoming.html", page=Page(found[:PAGE], more, filters), days=_days(now))


def _days(now: datetime) -> dict[str, dict[str, str]]:
    """The filters of today and tomorrow in the time zone of the account."""
    today = now.astimezone(account_zone()).date()
    midnights = [f"{today + timedelta(days=number)}T00:00" for number in range(3)]
    return {"today": {"until": midnights[1]}, "tomorrow": {"since": midnights[1], "until": midnights[2]}}
