"""Maps deliveries to events: pure, bounded, and without exceptions.

`map_delivery`, for each entry of `events` (without `events`: once):

1. `each` finds the members of lists, `where` selects among them. Each member makes an event; without `each` the delivery does.
2. Each field of `map` is a list of values; the first usable one counts.
3. A member that lacks an event name, a person or data is a problem, and so is a delivery without the lists of `each`. Without
   events and problems there is nothing to do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any

from msgspec import Struct

from app.core.exact_json import object_text, replace_unstorable
from app.core.pacing import pause_if_due
from app.workflows.sources.dedupe_ids import DedupeIds
from app.workflows.sources.delivery_body import DeliveryBody, UnreadableBody, read_body
from app.workflows.sources.event_fields import (
    MAX_DATA,
    MAX_MESSAGE,
    EventRule,
    TooLarge,
    Unmapped,
    find_data,
    find_dedupe,
    find_person,
    find_phone,
    find_text,
    find_time,
)
from app.workflows.sources.mapping_values import Charge, OutOfWork, Scope, ValueFault, Work
from app.workflows.sources.paths import MAX_MEMBERS, Member, TooManyMembers, find_members

MAX_EVENTS = 5_000
# What it takes to read a body, and to make an event of a member of it.
_BYTES_PER_UNIT, _VALUE_UNITS, _MEMBER_UNITS = 100, 2, 200


class DeliveryView(Struct, frozen=True):
    """What a mapping sees of a delivery: names of headers in lower case, the unpacked body, and its media type in lower case,
    without parameters. `fault`: why the body could not be unpacked."""

    method: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes
    media_type: str
    fault: str = ""


class MappedEvent(Struct, frozen=True):
    """An event of a delivery. `data` is for matching, `data_json` the exact JSON text of it, `extra_json` what was sent and
    cannot be used. `member_key`: the list and the position that it is made of."""

    event: str
    distinct_id: str
    phone: str | None
    data: Mapping[str, Any]
    data_json: str
    occurred_at: datetime | None = None
    dedupe: str | None = None
    warnings: tuple[str, ...] = ()
    extra_json: str | None = None
    member_key: str = ""


class MappingProblem(Struct, frozen=True):
    """Why a part of a delivery is not an event. `item`: the index of the member of a list (None: the whole delivery), `path`: the
    part of the source document to change."""

    item: int | None
    path: str
    message: str


@dataclass(frozen=True)
class CompiledMapping:
    """The mapping of a source."""

    rules: tuple[EventRule, ...]
    region: str | None = None

    @property
    def is_costly(self) -> bool:
        """Whether there is more than paths to evaluate."""
        return any(rule.is_costly for rule in self.rules)

    @cached_property
    def headers_read(self) -> frozenset[str]:
        """The names of the headers that it reads."""
        return self._names_read("headers")

    @cached_property
    def parameters_read(self) -> frozenset[str]:
        """The names of the query parameters that it reads."""
        return self._names_read("query")

    def _names_read(self, root: str) -> frozenset[str]:
        return frozenset(
            str(path[1]) for rule in self.rules for path in rule.reads if path[0] == root and len(path) > 1
        )


def map_delivery(
    mapping: CompiledMapping, view: DeliveryView, charge: Charge | None = None
) -> tuple[list[MappedEvent], list[MappingProblem]]:
    """The events of a delivery, and what could not be mapped. Never raises. `charge` is called with the units of the values,
    and not with those of `reading_units`.

    Without events and problems the delivery holds nothing for this source, such as a provider's test.
    """
    if view.fault:
        return [], [MappingProblem(None, "body", view.fault)]
    try:
        return _Mapper(
            mapping, view, read_body(view.body, view.headers.get("content-type", view.media_type)), charge
        ).run()
    except UnreadableBody as exc:
        return [], [MappingProblem(None, "body", str(exc))]
    except TooManyMembers:
        message = f"goes through more than {MAX_MEMBERS:,} members of lists"
        return [], [MappingProblem(None, "events", message)]
    except Exception as exc:
        return [], [MappingProblem(None, "map", f"the delivery cannot be mapped: {type(exc).__name__}: {exc}"[:300])]


def reading_units(body: bytes) -> int:
    """The units of work that it takes to read a body: by its length, and by the values or escapes in it."""
    marks = len(body) - len(body.translate(None, b",[{%"))
    return len(body) // _BYTES_PER_UNIT + _VALUE_UNITS * marks


class _Mapper:
    """The mapping of one delivery."""

    def __init__(self, mapping: CompiledMapping, view: DeliveryView, body: DeliveryBody, charge: Charge | None) -> None:
        self._mapping = mapping
        self._charge = charge
        self._body = body
        self._dedupe_ids = DedupeIds(body.texts)
        query = {name: replace_unstorable(value) for name, value in view.query.items()}
        self._variables = {"body": body.value, "headers": dict(view.headers), "query": query}
        self._events: list[MappedEvent] = []
        self._problems: list[MappingProblem] = []
        self._data_left = MAX_DATA

    def run(self) -> tuple[list[MappedEvent], list[MappingProblem]]:
        found = [(rule, self._members(rule)) for rule in self._mapping.rules]
        total = sum(len(members) for _, members in found if members)
        if total > MAX_EVENTS:
            message = f"the delivery has {total:,} members; at most {MAX_EVENTS:,} can become events"
            return [], [MappingProblem(None, "events", message)]
        self._work = Work(total, self._charge)
        try:
            self._map_all(found)
        except TooLarge:
            message = f"the data of all events together have more than {MAX_DATA:,} characters"
            return [], [MappingProblem(None, "map.data", message)]
        lists = {rule.each.text: members for rule, members in found if rule.each}
        if lists and not self._events and not self._problems and all(members is None for members in lists.values()):
            self._problems.append(MappingProblem(None, "events", f"the delivery has nothing at {', '.join(lists)}"))
        return self._events, self._problems

    def _map_all(self, found: list[tuple[EventRule, list[Member | None] | None]]) -> None:
        for rule, members in found:
            for index, member in enumerate(members or ()):
                if index:
                    pause_if_due()
                try:
                    self._map(rule, index if member else None, member)
                except OutOfWork as exc:
                    # The rest is not tried: each attempt at a value that is too large takes time.
                    message = f"from here on, the values need too much work: {exc}"[:MAX_MESSAGE]
                    self._problems.append(MappingProblem(index if member else None, "map", message))
                    return
                finally:
                    self._work.end_piece(_MEMBER_UNITS)

    def _members(self, rule: EventRule) -> list[Member | None] | None:
        """The members for an entry; one that is None for an entry without `each`; None if there is no list."""
        if rule.each is None:
            return [None]
        members = find_members(rule.each, self._body.value)
        return None if members is None else [*members]

    def _map(self, rule: EventRule, index: int | None, member: Member | None) -> None:
        scope = self._scope(member)
        try:
            if rule.where is not None and not self._holds(rule, scope):
                return
            event = self._event(rule, index, scope, member)
        except Unmapped as exc:
            self._problems.append(MappingProblem(index, exc.path, exc.message))
            # The member keeps its dedupe id for the time when it can be mapped.
            self._dedupe(rule, index, scope, member, [])
            return
        self._data_left -= len(event.data_json) + len(event.extra_json or "")
        if self._data_left < 0:
            raise TooLarge
        self._events.append(event)

    def _scope(self, member: Member | None) -> Scope:
        if member is None:
            return Scope(self._variables.copy(), self._body.texts, self._work)
        variables = {**self._variables, "item": member.value, "parents": [value for value, _ in member.parents]}
        parent_paths = tuple(path for _, path in member.parents)
        return Scope(variables, self._body.texts, self._work, member.path, parent_paths)

    @staticmethod
    def _holds(rule: EventRule, scope: Scope) -> bool:
        assert rule.where is not None
        try:
            return rule.where.is_true(scope)
        except ValueFault as exc:
            raise Unmapped(f"{rule.path}.where", str(exc)) from None

    def _event(self, rule: EventRule, index: int | None, scope: Scope, member: Member | None) -> MappedEvent:
        warnings: list[str] = []
        extra: dict[str, str] = {}
        name = find_text(rule.event, scope, "the name of the event")
        phone, phone_fault = find_phone(rule.phone, scope, self._mapping.region, extra)
        if phone_fault:
            warnings.append(f"phone: {phone_fault}; the event is stored without a phone, what was sent is in extra")
        person = find_person(rule.distinct_id, scope, phone, phone_fault)
        data, data_json = find_data(rule.data, scope, warnings)
        occurred_at = find_time(rule.occurred_at, scope, extra, warnings)
        dedupe = self._dedupe(rule, index, scope, member, warnings)
        if " " in name:
            warnings.append("event: has spaces; it is kept as sent, but names without spaces are recommended")
        extra_json = object_text(extra) if extra else None
        member_key = f"{rule.member_key}:{index or 0}"
        return MappedEvent(
            name, person, phone, data, data_json, occurred_at, dedupe, tuple(warnings), extra_json, member_key
        )

    def _dedupe(
        self, rule: EventRule, index: int | None, scope: Scope, member: Member | None, warnings: list[str]
    ) -> str | None:
        found = find_dedupe(rule, index, scope, warnings)
        return None if found is None else self._dedupe_ids.number(found, rule.member_key, member)
