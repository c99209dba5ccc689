"""Lists targets whose circuit is open or that are disabled, and enables them."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from app.api.management.access import current
from app.api.management.fields import read_page
from app.api.management.request_body import invalid
from app.api.management.routes import Blueprint, route
from app.api.management.schemas.targets import EnabledTargetSchema, EnableTargetSchema, TargetPageSchema, TargetQuery
from app.core.models import RUNS_READ, RUNS_WRITE
from app.services import integrations, targets

blueprint = Blueprint("targets", __name__, description="Failing and disabled targets: what runs call.")


@route(blueprint, "GET", "/targets", RUNS_READ, query=TargetQuery, answer=TargetPageSchema)
def list_targets(query: dict[str, Any]) -> Any:
    """List failing and disabled targets

    The latest first: those whose circuit is open, and those that are disabled.
    """
    access = current()
    return read_page(
        {**query, "after": _read_cursor(query.get("after"))},
        lambda after, limit: targets.list_targets(access.context, access.account_id, after=after, limit=limit),
        targets.write_cursor,
    )


def _read_cursor(text: str | None) -> tuple[datetime, str] | None:
    """The last target of a page: since when, and the target."""
    try:
        return None if text is None else targets.read_cursor(text)
    except ValueError:
        raise invalid([{"field": "after", "message": "is no `next` of this list"}]) from None


@route(blueprint, "POST", "/targets/enable", RUNS_WRITE, body=EnableTargetSchema, answer=EnabledTargetSchema)
def enable_target(body: dict[str, Any]) -> Any:
    """Enable a disabled target

    404 for one that is not disabled.
    """
    access, target = current(), body["target"]
    integrations.enable_target(access.context, access.account_id, target)
    return {"target": target}
