"""Simulates a workflow on a file of events or on the stored events, with the matcher that works live. Changes nothing."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import groupby
from typing import Any
from uuid import UUID

from app.core.event_times import read_event_time
from app.core.exact_json import read_fraction
from app.core.ids import read_distinct_id
from app.core.pacing import pause_if_due
from app.db import event_queries
from app.services.context import AppContext
from app.services.workflows import checked_document
from app.workflows.matching.pattern_ast import ANY_NAME
from app.workflows.matching.rule import EventView, Match, Rule, build_variables, compile_rule
from app.workflows.matching.simulation import SimulatedStep, simulate_subject
from app.workflows.matching.simulation import simulate as simulate_sorted

__all__ = [
    "EventView",
    "Rule",
    "SimulatedStep",
    "Tally",
    "backtest",
    "compile_source",
    "line_number",
    "read_event",
    "simulate",
    "tally_backtest",
]


def compile_source(source: str) -> Rule:
    """Compile the text of a workflow. Raises InvalidDocument."""
    document = checked_document(source).value
    return compile_rule(UUID(int=0), document["name"], 1, document)


def simulate(rule: Rule, events: Iterable[EventView]) -> Iterator[SimulatedStep]:
    """Simulate events in time order. Events with the same time stay in their order."""
    return simulate_sorted(rule, sorted(events, key=lambda event: event.received_at))


def read_event(line: bytes, number: int) -> EventView:
    """Read a line of a file: `{"event", "distinct_id", "phone", "received_at", "occurred_at", "data"}`. Raises ValueError."""
    try:
        value = json.loads(line.decode("utf-8-sig").rstrip(), parse_float=read_fraction)
    except UnicodeDecodeError as exc:
        raise ValueError(f"not UTF-8: byte {exc.start + 1} of the line is invalid") from None
    except json.JSONDecodeError as exc:
        raise ValueError(f"not JSON: {exc.msg} at column {exc.colno}") from None
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError('must be an object such as {"event": "a", "distinct_id": "1", "received_at": "…"}')
    for name in ("event", "received_at"):
        if not isinstance(value.get(name), str):
            raise ValueError(f"{name} is missing or not text")
    if not isinstance(value.get("data") or {}, dict):
        raise ValueError("data must be an object")
    received_at = read_timestamp(value["received_at"])
    phone = read_phone(value.get("phone"))
    distinct_id = read_subject(value, phone)
    occurred_at = read_event_time(value.get("occurred_at"))
    variables = build_variables(value["event"], distinct_id, phone, value.get("data") or {}, received_at, occurred_at)
    return EventView(str(UUID(int=number)), value["event"], received_at, variables)


def read_phone(value: object) -> str | None:
    """A phone as it is stored when the event is received. Raises ValueError."""
    if value is None or value == "":
        return None
    # The import is slow, and other commands do not need it.
    from app.core.phone_numbers import UnusablePhone
    from app.core.phone_numbers import read_phone as read_stored_phone

    try:
        return read_stored_phone(value)
    except UnusablePhone as exc:
        raise ValueError(f"phone {exc}") from None


def read_subject(value: Mapping[str, Any], phone: str | None) -> str:
    """The subject of an event that is received with these fields; empty if nothing says it. Raises ValueError."""
    try:
        return read_distinct_id(value.get("distinct_id")) or (phone or "")[1:]
    except ValueError as exc:
        raise ValueError(f"distinct_id {exc}") from None


def read_timestamp(text: str) -> datetime:
    """When an event was received. Raises ValueError."""
    try:
        timestamp = datetime.fromisoformat(text)
        timestamp = timestamp.replace(tzinfo=UTC) if timestamp.tzinfo is None else timestamp.astimezone(UTC)
        # Windows and deadlines reach years beyond an event; datetime ends in the year 9999.
        if 1900 < timestamp.year < 9000:
            return timestamp
    except (ValueError, OverflowError):
        pass
    raise ValueError(f"received_at is {text!r}; it must be a timestamp such as 2026-11-22T10:00:00Z")


def line_number(event_id: UUID | str) -> int:
    """The line that an event of `read_event` was read from."""
    return UUID(str(event_id)).int


def backtest(
    context: AppContext,
    account_id: int,
    rule: Rule,
    since: datetime,
    *,
    after: str | None = None,
    before_event: Callable[[], None] = lambda: None,
) -> Iterator[tuple[str, list[Match]]]:
    """For each subject that has sent a matching event since then: the matches that would have started a run.

    Subjects come in the order of their names, beginning after `after`. Only one subject's match state is in memory, and
    an interrupted backtest can continue. What `before_event` raises ends it.
    """
    until = context.clock()
    names = None if ANY_NAME in rule.pattern.names else sorted(rule.pattern.names)
    with (
        context.database.transaction() as connection,
        closing(
            event_queries.read_by_subject(
                connection, account_id, rule.key, names, since, after, with_key_only=not rule.is_stateless
            )
        ) as rows,
    ):
        for subject, found in groupby(rows, key=lambda row: row[0]):
            yield subject, list(simulate_subject(rule, _view_rows(found, before_event), until))


@dataclass(slots=True)
class Tally:
    """The counts of a backtest: subjects with events that the workflow looks at, those of them that would have started it, and
    the starts, also by day in UTC. `last_subject`: the last one."""

    subjects: int = 0
    started: int = 0
    starts: int = 0
    days: Counter[str] = field(default_factory=Counter)
    last_subject: str | None = None

    def add(self, subject: str, starts: list[datetime]) -> None:
        """Count a finished subject."""
        self.last_subject = subject
        self.subjects += 1
        self.started += bool(starts)
        self.starts += len(starts)
        self.days.update(f"{at:%Y-%m-%d}" for at in starts)


class _TimeIsUp(Exception):
    """A backtest has taken all its time."""


def tally_backtest(
    context: AppContext, account_id: int, rule: Rule, since: datetime, seconds: float, *, after: str | None = None
) -> tuple[Tally, bool]:
    """The counts of a backtest of at most about `seconds`, from the subject after `after` on, and whether it ended in time:
    otherwise the counts are those of the subjects until then. Other requests run in between. Raises Unavailable when the events
    cannot be read within STATEMENT_TIMEOUT."""
    tally, end = Tally(last_subject=after), time.monotonic() + seconds

    def check_time() -> None:
        pause_if_due()
        if time.monotonic() > end:
            raise _TimeIsUp

    try:
        for subject, matches in backtest(context, account_id, rule, since, after=after, before_event=check_time):
            tally.add(subject, [match.at for match in matches])
    except _TimeIsUp:
        return tally, False
    return tally, True


def _view_rows(rows: Iterable[tuple[Any, ...]], before_event: Callable[[], None]) -> Iterator[EventView]:
    for row in rows:
        before_event()
        yield _view_row(row)


def _view_row(row: tuple[Any, ...]) -> EventView:
    _, event_id, name, distinct_id, phone, data, received_at, occurred_at = row
    variables = build_variables(name, distinct_id, phone, event_queries.read_lightly(data), received_at, occurred_at)
    return EventView(event_id, name, received_at, variables)
