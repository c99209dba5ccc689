"""The sections `events` and `map` of a source document: checks them, and compiles them together with those of the preset."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.workflows.sources.event_fields import Choice, DataFields, EventRule
from app.workflows.sources.mapping_values import (
    MEMBER_NAMES,
    NAMES,
    PhoneDigits,
    Value,
    check_condition,
    check_value,
    compile_condition,
    compile_value,
)
from app.workflows.sources.paths import read_list_path

ENTRY_FIELDS = ("each", "where", "map")
MAP_FIELDS = ("event", "distinct_id", "phone", "data", "occurred_at", "dedupe")
MAX_ENTRIES = 20
# Values of a field, fields of `data`, and objects in objects in it.
MAX_VALUES, MAX_DATA_FIELDS, MAX_DATA_DEPTH = 20, 200, 5
# Among the values of `distinct_id`: the digits of the mapped phone.
PHONE = "phone"

Errors = Iterator[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class _Entry:
    """An entry of `events`: its path, its fields, and its effective `map`: for each field the path of the section that sets it,
    and its value."""

    path: str
    fields: Mapping[str, Any]
    map: Mapping[str, tuple[str, Any]]

    @property
    def names(self) -> tuple[str, ...]:
        """The variables that the entry's values may read."""
        return (*NAMES, *MEMBER_NAMES) if "each" in self.fields else NAMES


def _entries(document: Mapping[str, Any], preset: Mapping[str, Any]) -> list[_Entry]:
    """The entries that count. The account's `map` takes precedence over the preset's entries, its own entries over its `map`."""
    written = document.get("events")
    is_own = written is not None
    members = written if is_own else preset.get("events", [{}])
    shared = {name: ("map", value) for name, value in _object(preset.get("map")).items()}
    own = {name: ("map", value) for name, value in _object(document.get("map")).items()}
    entries = []
    for index, member in enumerate(members if isinstance(members, list) else []):
        fields, path = _object(member), f"events[{index}]"
        section = f"{path}.map" if is_own else "map"
        inner = {name: (section, value) for name, value in _object(fields.get("map")).items()}
        entries.append(_Entry(path, fields, {**shared, **own, **inner} if is_own else {**shared, **inner, **own}))
    return entries


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


# Checks


def check_rules(document: Mapping[str, Any], preset: Mapping[str, Any]) -> Errors:
    """Every mistake in `events` and `map` as (path, message)."""
    yield from _check_map_names(document.get("map"), "map")
    events = document.get("events")
    if events is not None:
        yield from _check_events(events)
    seen: set[str] = set()
    for entry in _entries(document, preset):
        for name, (section, value) in entry.map.items():
            path = f"{section}.{name}"
            is_own = section != "map" or name in _object(document.get("map"))
            if not is_own or name not in MAP_FIELDS or path in seen:
                continue
            errors = list(_check_field(name, value, path, entry.names))
            if errors:
                seen.add(path)
            yield from errors


def check_completeness(document: Mapping[str, Any], preset: Mapping[str, Any]) -> Errors:
    """Mistakes of entries that lack what each event needs."""
    for entry in _entries(document, preset):
        own = entry.path if document.get("events") is not None and len(document["events"]) > 1 else ""
        path = f"{own}.map" if own else "map"
        if entry.map.get("event", ("", None))[1] is None:
            yield f"{path}.event", "is missing: the name of the event"
        if all(entry.map.get(name, ("", None))[1] is None for name in ("distinct_id", "phone")):
            yield (
                f"{path}.distinct_id",
                "is missing, and so is phone; one of the two is required",
            )


def _check_events(events: Any) -> Errors:
    if not isinstance(events, list) or not 1 <= len(events) <= MAX_ENTRIES:
        yield "events", f"must be a list of 1 to {MAX_ENTRIES} entries, such as - each: body.line_items[]"
        return
    for index, entry in enumerate(events):
        path = f"events[{index}]"
        if not isinstance(entry, Mapping):
            yield path, f"must be an object with {', '.join(ENTRY_FIELDS)}"
            continue
        for name in entry:
            if name not in ENTRY_FIELDS:
                yield f"{path}.{name}", f"is unknown; an entry has {', '.join(ENTRY_FIELDS)}"
        if "each" in entry:
            try:
                read_list_path(entry["each"])
            except ValueError as exc:
                yield f"{path}.each", str(exc)
        if "where" in entry:
            names = (*NAMES, *MEMBER_NAMES) if "each" in entry else NAMES
            for message in check_condition(entry["where"], names):
                yield f"{path}.where", message
        yield from _check_map_names(entry.get("map"), f"{path}.map")


def _check_map_names(section: Any, path: str) -> Errors:
    if section is None:
        return
    if not isinstance(section, Mapping):
        yield path, f"must be an object with {', '.join(MAP_FIELDS)}"
        return
    for name in section:
        if name not in MAP_FIELDS:
            hint = "; other values are fields of data" if name not in ENTRY_FIELDS else ""
            yield f"{path}.{name}", f"is unknown; map has {', '.join(MAP_FIELDS)}{hint}"


def _check_field(name: str, value: Any, path: str, names: Sequence[str]) -> Errors:
    if value is None:
        if name == "data":
            yield path, "must be a path such as body, or an object of values"
        return
    if name == "data" and isinstance(value, Mapping):
        yield from _check_data(value, path, names, 1)
        return
    yield from _check_choice(value, path, (*names, PHONE) if name == "distinct_id" else names)


def _check_choice(value: Any, path: str, names: Sequence[str]) -> Errors:
    """Mistakes of a value, or of a list of values."""
    if not isinstance(value, list):
        yield from ((path, message) for message in _check_one(value, names))
        return
    if not 1 <= len(value) <= MAX_VALUES:
        yield path, f"must have 1 to {MAX_VALUES} values"
    for index, member in enumerate(value[:MAX_VALUES]):
        yield from ((f"{path}[{index}]", message) for message in _check_one(member, names))


def _check_one(value: Any, names: Sequence[str]) -> Iterator[str]:
    known = tuple(name for name in names if name != PHONE)
    if value != PHONE or PHONE not in names:
        yield from check_value(value, known)


def _check_data(fields: Mapping[str, Any], path: str, names: Sequence[str], depth: int) -> Errors:
    if not 1 <= len(fields) <= MAX_DATA_FIELDS:
        yield path, f"must have 1 to {MAX_DATA_FIELDS} fields"
    if depth > MAX_DATA_DEPTH:
        yield path, f"is nested more than {MAX_DATA_DEPTH} levels deep"
        return
    for name, value in fields.items():
        if isinstance(value, Mapping):
            yield from _check_data(value, f"{path}.{name}", names, depth + 1)
        else:
            yield from _check_choice(value, f"{path}.{name}", names)


# Compiled


def compile_rules(document: Mapping[str, Any], preset: Mapping[str, Any]) -> tuple[EventRule, ...]:
    """The entries of a document without mistakes."""
    entries, rules = _entries(document, preset), list[EventRule]()
    for index, entry in enumerate(entries):
        lists = str(entry.fields.get("each", ""))
        number = sum(str(other.fields.get("each", "")) == lists for other in entries[:index])
        rules.append(_compile(entry, index, f"{lists}#{number}"))
    return tuple(rules)


def _compile(entry: _Entry, index: int, member_key: str) -> EventRule:
    fields, sections = entry.fields, {name: section for name, (section, _) in entry.map.items()}
    values = {name: value for name, (_, value) in entry.map.items()}

    def choice(name: str) -> Choice:
        return _choice(values.get(name), f"{sections.get(name, 'map')}.{name}", is_person=name == "distinct_id")

    data = values.get("data")
    return EventRule(
        path=entry.path,
        each=read_list_path(fields["each"]) if "each" in fields else None,
        where=compile_condition(fields["where"]) if "where" in fields else None,
        event=choice("event"),
        distinct_id=choice("distinct_id"),
        phone=choice("phone"),
        data=_data("item" if data is None and "each" in fields else "body" if data is None else data, "map.data"),
        occurred_at=choice("occurred_at"),
        dedupe=choice("dedupe"),
        suffix=f"e{index}" if index else "",
        member_key=member_key,
    )


def _choice(value: Any, path: str, *, is_person: bool = False) -> Choice:
    members = value if isinstance(value, list) else [] if value is None else [value]
    compiled: list[Value] = []
    for text in members:
        compiled.append(PhoneDigits() if is_person and text == PHONE else compile_value(text))
    return Choice(path, tuple(compiled))


def _data(value: Any, path: str) -> Choice | DataFields:
    if isinstance(value, Mapping):
        return {name: _data(member, f"{path}.{name}") for name, member in value.items()}
    return _choice(value, path)
