"""Searches events by outcome, source, and a path in their data."""

from __future__ import annotations

import json
import re

from app.core.errors import Problem, ProblemType
from app.core.exact_json import read_value
from app.core.models import CONSOLE, RECEIVER
from app.db import event_search, inspection
from app.db.event_search import OUTCOMES, EventCondition, FoundEvents
from app.db.inspection import EventFilter
from app.services.context import AppContext

# Of events that came by an API key.
API = "api"
_MAX_DEPTH = 20
_PATH = re.compile(r"(?:^|\.)([^.\[\]\s=]+)|\[(\d{1,9})\]")
_TEST = re.compile(r"\s*(\S+?)\s*==?\s*(.+?)\s*", re.DOTALL)


def search_events(
    context: AppContext, account_id: int, wanted: EventFilter, condition: EventCondition, limit: int
) -> FoundEvents:
    """At most `limit` of the newest events that pass the filter and fulfil the condition; looks at a bounded number."""
    with context.database.transaction() as connection:
        inspection.allow_slow_statements(connection)
        return event_search.search_events(connection, account_id, wanted, condition, limit)


def read_condition(outcome: str | None, source: str | None, test: str | None) -> EventCondition:
    """What filters without an index say: one of OUTCOMES (None, or another text: any), how an event came (API, CONSOLE, RECEIVER,
    or the name of a source), and a test of its data. Raises Problem 422."""
    path, values = (None, ()) if test is None else read_test(test)
    via = None if source is None else {API: "", CONSOLE: CONSOLE, RECEIVER: RECEIVER}.get(source, f"source:{source}")
    return EventCondition(outcome if outcome in OUTCOMES else None, via, path, values)


def read_test(text: str) -> tuple[list[str], list[str]]:
    """The path and the values (JSON texts) of a test such as `data.order.id = 5`. An unquoted number is also looked for as text.
    Raises Problem 422."""
    found = _TEST.fullmatch(text)
    path = [] if found is None else _read_path(found[1])
    if found is None or not 0 < len(path) <= _MAX_DEPTH:
        raise Problem(ProblemType.VALIDATION_FAILED, 'Write it as data.order.id = 5, or data.items[0].sku = "A-1".')
    return path, _read_values(found[2])


def _read_path(text: str) -> list[str]:
    """The names and positions of a path, without `data` at its begin; [] when it is none."""
    parts = list(_PATH.finditer(text))
    if "".join(part[0] for part in parts) != text:
        return []
    names = [part[1] or part[2] for part in parts]
    return names[1:] if names[0] == "data" else names


def _read_values(text: str) -> list[str]:
    """JSON texts of the values that are looked for. Raises Problem 422 for one that no event can have."""
    try:
        value = read_value(text.encode())
    except Problem as exc:
        if exc.type is ProblemType.UNSTORABLE_VALUE:
            raise
        return [json.dumps(text)]
    return [text] if isinstance(value, str) else [text, json.dumps(text)]
