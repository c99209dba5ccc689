"""Which workflows does this event start? Pure: enabled workflows in, decisions out; no Flask, no SQL, no clock.

A `Rules` holds what is enabled in one account, compiled once and found by event name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from app.filters import Filter, FilterError, compile_filter
from app.words import Decision, Event

ANY_NAME = "*"
LONGEST_NAME = 255


@dataclass(frozen=True, slots=True)
class Leaf:
    """One event by its name (`*`: any) for which the filter, if there is one, is true."""

    event: str
    where: Filter | None


@dataclass(frozen=True, slots=True)
class Rule:
    """One enabled workflow and the pattern that starts it."""

    workflow_id: UUID
    workflow: str
    version: int
    pattern: Leaf

    def decide(self, event: Event) -> Decision:
        """What this workflow concludes about an event of a name that it asked for."""
        holds, why = True, "matched"
        if self.pattern.where is not None:
            holds, reason = self.pattern.where.holds(names_of(event))
            why = "matched" if holds else reason or "the filter is false"
        return Decision(self.workflow_id, self.workflow, self.version, started=holds, contributing=holds, reason=why)


class Rules:
    """All enabled workflows of one account by the event names that they ask for."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        self._by_event: dict[str, list[Rule]] = {}
        self._any: list[Rule] = []
        for rule in rules:
            if rule.pattern.event == ANY_NAME:
                self._any.append(rule)
            else:
                self._by_event.setdefault(rule.pattern.event, []).append(rule)

    def decide(self, event: Event) -> list[Decision]:
        """The decisions of all workflows that ask for events of this name."""
        return [rule.decide(event) for rule in (*self._by_event.get(event.event, ()), *self._any)]


def names_of(event: Event) -> dict[str, Any]:
    """What a filter sees of an event."""
    return {
        "event": event.event,
        "distinct_id": event.distinct_id,
        "phone": event.phone,
        "data": event.data,
        "received_at": event.received_at,
    }


def check_pattern(on: Any, path: str = "on") -> list[tuple[str, str]]:
    """All that is wrong with a pattern, as (path, message)."""
    if isinstance(on, str):
        return _check_name(on, path)
    if not isinstance(on, Mapping):
        return [(path, "has to be the name of an event, or {event: NAME, where: CEL}")]
    errors = [
        (f"{path}.{name}", "is unknown here; a pattern has the fields event and where")
        for name in on
        if name not in ("event", "where")
    ]
    errors += _check_name(on.get("event"), f"{path}.event")
    if "where" in on:
        errors += _check_filter(on["where"], f"{path}.where")
    return errors


def _check_name(name: Any, path: str) -> list[tuple[str, str]]:
    if not isinstance(name, str):
        return [(path, "is missing: the name of an event" if name is None else "has to be the name of an event (text)")]
    if not 1 <= len(name) <= LONGEST_NAME:
        return [(path, f"has {len(name)} characters; an event name has 1 to {LONGEST_NAME}")]
    return []


def _check_filter(where: Any, path: str) -> list[tuple[str, str]]:
    if not isinstance(where, str):
        return [(path, "has to be a CEL expression (text), such as data.price > 1000")]
    try:
        compile_filter(where)
    except FilterError as wrong:
        return [(path, str(wrong))]
    return []


def compile_pattern(on: Any) -> Leaf:
    """A checked pattern, ready to match."""
    if isinstance(on, str):
        return Leaf(on, None)
    where = on.get("where")
    return Leaf(on["event"], None if where is None else compile_filter(where))
