"""Reads and writes progress: the partial matches of one subject as small JSON that a person can read.

    {"events":   {"1": ["0192…", "2026-10-18T12:00:00+00:00"], …},      remembered events, in the order of acceptance
     "open":     {"on": [prefix, null, …]},                             complete parts that still count, by path
     "tangled":  {"on.all[0,1]": [{"positions": …, "used": [1], "stem": …}]},   assignments, by path
     "shared":   {"s1": prefix},                                        prefixes that several others build on
     "deadline": {"at": "2026-10-18T12:30:00+00:00", "used": [1, 2]}}   an armed `none`

`open` holds for a `seq` what its first 1, 2, … members used, for an `all` what each member used, for a `times` each
repetition, the last one first. A prefix is `{"used": [1, 2], "until": …, "after": …, "earlier": […]}`: the numbers of
its events, when it expires, the prefix that it builds on and, in a `times`, the repetitions before it. Empty fields are
omitted. `"s1"` instead of a prefix refers to the entry under `shared`. A position is false (not begun), true (complete)
or [index, inner positions, number of the event that opened the window].

Empty progress is `{}`. Events are renumbered at each write, so that the numbers stay as small as the progress.
Running systems have this format in the database: names that are written here never change.
"""

from datetime import UTC, datetime
from typing import Any, NamedTuple

from app.workflows.matching.partial_match import (
    EMPTY_PREFIX,
    NO_PARTIAL_MATCHES,
    Assignment,
    EventRef,
    OpenPosition,
    PartialMatches,
    Position,
    Prefix,
)

Progress = dict[str, Any]


class Deadline(NamedTuple):
    """When a trailing `none` completes the match, and the events that the rest of the pattern used."""

    at: datetime
    used: tuple[EventRef, ...]


class Stored(NamedTuple):
    """Progress as values; `events` is the number of remembered events."""

    events: int
    partial_matches: PartialMatches
    deadline: Deadline | None


def read_progress(progress: Progress) -> Stored:
    """Read what `write_progress` has written."""
    if not progress:
        return Stored(0, NO_PARTIAL_MATCHES, None)
    reader = _Reader(progress)
    prefixes = {
        path: tuple(None if prefix is None else reader.prefix(prefix) for prefix in each)
        for path, each in progress.get("open", {}).items()
    }
    assignments = {path: tuple(map(reader.assignment, each)) for path, each in progress.get("tangled", {}).items()}
    partial_matches = PartialMatches(prefixes, assignments) if prefixes or assignments else NO_PARTIAL_MATCHES
    return Stored(len(reader.events), partial_matches, reader.deadline(progress.get("deadline")))


def measure_progress(progress: Progress) -> int:
    """About how many values it has: remembered events, partial matches, and the events in each."""
    values = len(progress.get("events", ()))
    for prefixes in (*progress.get("open", {}).values(), progress.get("shared", {}).values()):
        for prefix in prefixes:
            values += 1
            if isinstance(prefix, dict):
                values += len(prefix.get("used", ())) + sum(1 + _length(each) for each in prefix.get("earlier", ()))
    for assignments in progress.get("tangled", {}).values():
        values += sum(1 + (len(each["positions"]) + len(each["used"])) // 4 for each in assignments)
    return values


def _length(prefix: Any) -> int:
    return len(prefix.get("used", ())) if isinstance(prefix, dict) else 1


def next_deadline(progress: Progress) -> datetime | None:
    """When an armed `none` completes the match unless an event disarms it before; None: none is armed."""
    return datetime.fromisoformat(progress["deadline"]["at"]) if "deadline" in progress else None


def write_progress(partial_matches: PartialMatches, deadline: Deadline | None) -> Progress:
    """Partial matches and an armed deadline as JSON."""
    return _Writer(partial_matches, deadline).write()


class _Reader:
    def __init__(self, progress: Progress) -> None:
        self.events = {
            int(number): EventRef(int(number), id, datetime.fromisoformat(at))
            for number, (id, at) in progress["events"].items()
        }
        self.shared = progress.get("shared", {})
        self.shared_prefixes: dict[str, Prefix] = {}

    def used(self, numbers: list[int]) -> tuple[EventRef, ...]:
        return tuple([self.events[number] for number in numbers])

    def prefix(self, value: Any) -> Prefix:
        if isinstance(value, dict):
            return self.own_prefix(value)
        if value not in self.shared_prefixes:
            self.shared_prefixes[value] = self.own_prefix(self.shared[value])
        return self.shared_prefixes[value]

    def own_prefix(self, value: dict[str, Any]) -> Prefix:
        until, after = value.get("until"), value.get("after")
        return Prefix(
            self.used(value.get("used", [])),
            None if until is None else datetime.fromisoformat(until),
            EMPTY_PREFIX if after is None else self.prefix(after),
            tuple([self.prefix(repetition) for repetition in value.get("earlier", [])]),
        )

    def assignment(self, value: dict[str, Any]) -> Assignment:
        prefix = value.get("stem")
        positions = tuple(map(self.position, value["positions"]))
        return Assignment(positions, self.used(value["used"]), EMPTY_PREFIX if prefix is None else self.prefix(prefix))

    def position(self, value: Any) -> Position:
        if isinstance(value, bool):
            return value
        index, inner, first = value
        return OpenPosition(index, tuple(map(self.position, inner)), None if first is None else self.events[first])

    def deadline(self, value: dict[str, Any] | None) -> Deadline | None:
        return None if value is None else Deadline(datetime.fromisoformat(value["at"]), self.used(value["used"]))


class _Writer:
    """Counts the references to each prefix first; a prefix with several references is written once, under `shared`."""

    def __init__(self, partial_matches: PartialMatches, deadline: Deadline | None) -> None:
        self.partial_matches, self.armed = partial_matches, deadline
        self.events: dict[int, EventRef] = {}
        self.references: dict[int, int] = {}
        self.names: dict[int, str] = {}
        self.shared: dict[str, Any] = {}
        self.count_all()
        self.numbers = {number: new for new, number in enumerate(sorted(self.events), start=1)}

    def count_all(self) -> None:
        for prefixes in self.partial_matches.prefixes.values():
            for prefix in prefixes:
                if prefix is not None:
                    self.count(prefix)
        for assignments in self.partial_matches.assignments.values():
            for assignment in assignments:
                self.remember(assignment.used)
                self.count(assignment.prefix)
        if self.armed:
            self.remember(self.armed.used)

    def count(self, prefix: Prefix) -> None:
        self.references[id(prefix)] = self.references.get(id(prefix), 0) + 1
        if prefix is EMPTY_PREFIX or self.references[id(prefix)] > 1:
            return
        self.remember(prefix.used)
        for other in (*prefix.earlier, prefix.parent):
            if other is not None:
                self.count(other)

    def remember(self, used: tuple[EventRef, ...]) -> None:
        for event in used:
            self.events[event.number] = event

    def write(self) -> Progress:
        matches = self.partial_matches
        prefixes = {path: [each and self.prefix(each) for each in some] for path, some in matches.prefixes.items()}
        assignments = {path: list(map(self.assignment, some)) for path, some in matches.assignments.items()}
        events = {
            str(self.numbers[number]): [event.id, _write_time(event.at)]
            for number, event in sorted(self.events.items())
        }
        armed = self.armed and {"at": _write_time(self.armed.at), "used": self.used(self.armed.used)}
        parts = {"events": events, "open": prefixes, "tangled": assignments, "shared": self.shared, "deadline": armed}
        return {name: part for name, part in parts.items() if part}

    def used(self, used: tuple[EventRef, ...]) -> list[int]:
        return [self.numbers[event.number] for event in used]

    def prefix(self, prefix: Prefix) -> Any:
        if self.references[id(prefix)] == 1:
            return self.own_prefix(prefix)
        if id(prefix) not in self.names:
            self.names[id(prefix)] = f"s{len(self.names) + 1}"
            self.shared[self.names[id(prefix)]] = self.own_prefix(prefix)
        return self.names[id(prefix)]

    def own_prefix(self, prefix: Prefix) -> dict[str, Any]:
        parts = {
            "used": self.used(prefix.used),
            "until": prefix.expires_at and _write_time(prefix.expires_at),
            "after": prefix.parent and self.parent(prefix.parent),
            "earlier": [self.prefix(repetition) for repetition in prefix.earlier],
        }
        return {name: part for name, part in parts.items() if part is not None and part != []}

    def parent(self, prefix: Prefix) -> Any:
        return None if prefix is EMPTY_PREFIX else self.prefix(prefix)

    def assignment(self, assignment: Assignment) -> dict[str, Any]:
        value = {"positions": list(map(self.position, assignment.positions)), "used": self.used(assignment.used)}
        return value if assignment.prefix is EMPTY_PREFIX else {**value, "stem": self.prefix(assignment.prefix)}

    def position(self, position: Position) -> Any:
        if isinstance(position, bool):
            return position
        first = position.first and self.numbers[position.first.number]
        return [position.member, list(map(self.position, position.inner)), first]


def _write_time(at: datetime) -> str:
    return (at if at.tzinfo is UTC else at.astimezone(UTC)).isoformat()


def expires_at(progress: Progress) -> datetime | None:
    """When all windows of the progress have ended, so that nothing in it counts any more; None: never."""
    if "deadline" in progress or "tangled" in progress:
        return None
    shared = progress.get("shared", {})
    prefixes = [prefix for each in progress.get("open", {}).values() for prefix in each if prefix is not None]
    ends = [(shared[prefix] if isinstance(prefix, str) else prefix).get("until") for prefix in prefixes]
    if not ends or None in ends:
        return None
    return max(datetime.fromisoformat(end) for end in ends)
