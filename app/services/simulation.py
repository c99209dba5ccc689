"""What a workflow would do, without doing anything: on a file of events, or on what is stored. Reads only.

Comes in: a workflow's text and events. Goes out: what would happen, by the same matcher that works live.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from itertools import groupby
from typing import Any
from uuid import UUID

from app.db import event_queries
from app.services.context import AppContext
from app.services.workflows import checked_document
from app.workflows.matching.matcher import Pattern
from app.workflows.matching.rules import Rule, Seen, compile_rule
from app.workflows.matching.simulation import Happened, replay_subject
from app.workflows.matching.simulation import simulate as simulate_pure

__all__ = ["Happened", "Pattern", "Rule", "Seen", "backtest", "line_of", "read_event", "rule_of", "simulate"]

Starts = list[tuple[datetime, tuple[UUID, ...]]]


def rule_of(source: str) -> Rule:
    """A workflow's text, ready to match; raises manage.WrongDocument."""
    document = checked_document(source).value
    return compile_rule(UUID(int=0), document["name"], 1, document)


def simulate(rule: Rule, seen: Iterable[Seen]) -> Iterator[Happened]:
    """What happens with these events, in time order; events of one moment stay in their order."""
    return simulate_pure(rule, sorted(seen, key=lambda one: one.received_at))


def read_event(line: bytes, number: int) -> Seen:
    """An event of a file: `{"event", "distinct_id", "received_at", "data"}`. Raises ValueError."""
    try:
        value = json.loads(line.decode("utf-8-sig").rstrip())
    except UnicodeDecodeError as wrong:
        raise ValueError(f"not UTF-8: byte {wrong.start + 1} of the line is wrong") from None
    except json.JSONDecodeError as wrong:
        raise ValueError(f"not JSON: {wrong.msg} at column {wrong.colno}") from None
    except RecursionError:
        raise ValueError("nested too deep") from None
    if not isinstance(value, dict):
        raise ValueError('has to be an object such as {"event": "a", "distinct_id": "1", "received_at": "…"}')
    for name in ("event", "received_at"):
        if not isinstance(value.get(name), str):
            raise ValueError(f"{name} is missing, or no text")
    try:
        moment = datetime.fromisoformat(value["received_at"])
        moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
        # Patterns look years ahead, and calendars end.
        if not 1900 < moment.year < 9000:
            raise ValueError
    except (ValueError, OverflowError):
        raise ValueError(f"received_at is {value['received_at']!r}; it has to be like 2026-11-22T10:00:00Z") from None
    names = {
        "event": value["event"],
        "distinct_id": str(value.get("distinct_id") or value.get("phone") or ""),
        "phone": value.get("phone"),
        "data": value.get("data") or {},
        "received_at": moment,
    }
    return Seen(str(UUID(int=number)), value["event"], moment, names)


def line_of(event_id: UUID | str) -> int:
    """The line of the file that an event of `read_event` came from."""
    return UUID(str(event_id)).int


def backtest(
    context: AppContext, account_id: int, rule: Rule, since: datetime, *, after: str | None = None
) -> Iterator[tuple[str, Starts]]:
    """For each subject that sent what the rule asks for since then: when it would have started, with which events.

    Subjects come one after the other in the order of their names (those after `after`), so that no more than one
    subject's progress is in memory, and a backtest that broke off can go on.
    """
    until = context.clock()
    names = None if "*" in rule.pattern.names else sorted(rule.pattern.names)
    with context.database.transaction() as connection:
        rows = event_queries.read_by_subject(connection, account_id, rule.key, names, since, after)
        for subject, found in groupby(rows, key=lambda row: row[0]):
            yield subject, list(replay_subject(rule, (_seen(row) for row in found), until))


def _seen(row: tuple[Any, ...]) -> Seen:
    _, event_id, name, distinct_id, phone, data, received_at = row
    names = {
        "event": name,
        "distinct_id": distinct_id,
        "phone": phone,
        "data": event_queries.read_lightly(data),
        "received_at": received_at,
    }
    return Seen(event_id, name, received_at, names)
