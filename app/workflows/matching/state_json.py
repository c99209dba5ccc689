"""What stands for one subject comes in; small JSON that a person can read goes out, and back.

    {"events":   {"1": ["0192…", "2026-10-18T12:00:00+00:00"], …},      the events remembered, in order of acceptance
     "open":     {"on": [stem, null, …]},                               by path: what is done and still counts
     "tangled":  {"on.all[0,1]": [{"positions": …, "used": [1], "stem": …}]},
     "shared":   {"s1": stem},                                          stems that several others grew from
     "deadline": {"at": "2026-10-18T12:30:00+00:00", "used": [1, 2]}}   an armed `none`

`open` holds for a `seq` what its first 1, 2, … members used, for an `all` what each member used, for a `times` each
repetition, the last one first. A stem is `{"used": [1, 2], "until": …, "after": …, "earlier": […]}`: the numbers of
its events, when it lapses, the stem that it began on and, in a `times`, the repetitions before it; what is empty is
left out. `"s1"` in the place of a stem stands for that one under `shared`. A position is false (not begun), true (done)
or [place, inner positions, number of the event that opened the window].

Empty progress is `{}`. Numbers are given afresh each time, so that they stay as small as the progress.
"""

from datetime import UTC, datetime
from typing import Any, NamedTuple

from app.workflows.matching.match_state import NOTHING, START, Position, Seen, Stand, Standing, Stem, Strand

Progress = dict[str, Any]


class Deadline(NamedTuple):
    """When a `none` fires, and the events that the rest of the pattern used."""

    at: datetime
    used: tuple[Seen, ...]


class Remembered(NamedTuple):
    events: int
    standing: Standing
    deadline: Deadline | None


def read_progress(progress: Progress) -> Remembered:
    """What was written by `write_progress`."""
    if not progress:
        return Remembered(0, NOTHING, None)
    reader = ProgressReader(progress)
    stems = {path: tuple(map(reader.stem, slots)) for path, slots in progress.get("open", {}).items()}
    strands = {path: tuple(map(reader.strand, all_)) for path, all_ in progress.get("tangled", {}).items()}
    standing = Standing(stems, strands) if stems or strands else NOTHING
    return Remembered(len(reader.events), standing, reader.deadline(progress.get("deadline")))


def read_deadline(progress: Progress) -> datetime | None:
    """When an armed `none` fires; None: none is armed."""
    return datetime.fromisoformat(progress["deadline"]["at"]) if "deadline" in progress else None


def write_progress(standing: Standing, deadline: Deadline | None) -> Progress:
    """What stands, as small JSON; the module says how."""
    return ProgressWriter(standing, deadline).written()


class ProgressReader:
    def __init__(self, progress: Progress) -> None:
        events = progress["events"].items()
        self.events = {int(number): Seen(int(number), id, datetime.fromisoformat(at)) for number, (id, at) in events}
        self.shared = progress.get("shared", {})
        self.known: dict[str, Stem] = {}

    def used(self, numbers: list[int]) -> tuple[Seen, ...]:
        return tuple([self.events[number] for number in numbers])

    def stem(self, written: Any) -> Stem | None:
        return None if written is None else self.grown(written)

    def grown(self, written: Any) -> Stem:
        if isinstance(written, dict):
            return self.fresh(written)
        if written not in self.known:
            self.known[written] = self.fresh(self.shared[written])
        return self.known[written]

    def fresh(self, written: dict[str, Any]) -> Stem:
        until, after = written.get("until"), written.get("after")
        return Stem(
            self.used(written.get("used", [])),
            None if until is None else datetime.fromisoformat(until),
            START if after is None else self.grown(after),
            tuple([self.grown(link) for link in written.get("earlier", [])]),
        )

    def strand(self, written: dict[str, Any]) -> Strand:
        stem = written.get("stem")
        positions = tuple(map(self.position, written["positions"]))
        return Strand(positions, self.used(written["used"]), START if stem is None else self.grown(stem))

    def position(self, written: Any) -> Position:
        if isinstance(written, bool):
            return written
        place, inner, start = written
        return Stand(place, tuple(map(self.position, inner)), None if start is None else self.events[start])

    def deadline(self, written: dict[str, Any] | None) -> Deadline | None:
        return None if written is None else Deadline(datetime.fromisoformat(written["at"]), self.used(written["used"]))


class ProgressWriter:
    """First counts who refers to what, then writes: a stem with several referrers is written once."""

    def __init__(self, standing: Standing, deadline: Deadline | None) -> None:
        self.standing, self.armed = standing, deadline
        self.events: dict[int, Seen] = {}
        self.referrers: dict[int, int] = {}
        self.names: dict[int, str] = {}
        self.shared: dict[str, Any] = {}
        self.count_all()
        self.numbers = {number: place for place, number in enumerate(sorted(self.events), start=1)}

    def count_all(self) -> None:
        for stems in self.standing.stems.values():
            for stem in stems:
                if stem is not None:
                    self.count(stem)
        for strands in self.standing.strands.values():
            for strand in strands:
                self.count_used(strand.used)
                self.count(strand.stem)
        if self.armed:
            self.count_used(self.armed.used)

    def count(self, stem: Stem) -> None:
        self.referrers[id(stem)] = self.referrers.get(id(stem), 0) + 1
        if stem is START or self.referrers[id(stem)] > 1:
            return
        self.count_used(stem.used)
        for other in (*stem.earlier, stem.outer):
            if other is not None:
                self.count(other)

    def count_used(self, used: tuple[Seen, ...]) -> None:
        for seen in used:
            self.events[seen.number] = seen

    def written(self) -> Progress:
        stems = {path: [stem and self.stem(stem) for stem in stems] for path, stems in self.standing.stems.items()}
        strands = {path: list(map(self.strand, strands)) for path, strands in self.standing.strands.items()}
        events = {str(self.numbers[number]): self.event(self.events[number]) for number in sorted(self.events)}
        armed = self.armed and {"at": written_time(self.armed.at), "used": self.used(self.armed.used)}
        parts = {"events": events, "open": stems, "tangled": strands, "shared": self.shared, "deadline": armed}
        return {name: part for name, part in parts.items() if part}

    def event(self, seen: Seen) -> list[str]:
        return [seen.id, written_time(seen.at)]

    def used(self, used: tuple[Seen, ...]) -> list[int]:
        return [self.numbers[seen.number] for seen in used]

    def stem(self, stem: Stem) -> Any:
        if self.referrers[id(stem)] == 1:
            return self.fresh(stem)
        if id(stem) not in self.names:
            self.names[id(stem)] = f"s{len(self.names) + 1}"
            self.shared[self.names[id(stem)]] = self.fresh(stem)
        return self.names[id(stem)]

    def fresh(self, stem: Stem) -> dict[str, Any]:
        parts = {
            "used": self.used(stem.used),
            "until": stem.until and written_time(stem.until),
            "after": stem.outer and self.beginning(stem.outer),
            "earlier": [self.stem(link) for link in stem.earlier],
        }
        return {name: part for name, part in parts.items() if part is not None and part != []}

    def beginning(self, stem: Stem) -> Any:
        return None if stem is START else self.stem(stem)

    def strand(self, strand: Strand) -> dict[str, Any]:
        written = {"positions": list(map(self.position, strand.positions)), "used": self.used(strand.used)}
        return written if strand.stem is START else {**written, "stem": self.stem(strand.stem)}

    def position(self, position: Position) -> Any:
        if isinstance(position, bool):
            return position
        start = position.start and self.numbers[position.start.number]
        return [position.place, list(map(self.position, position.inner)), start]


def written_time(at: datetime) -> str:
    return (at if at.tzinfo is UTC else at.astimezone(UTC)).isoformat()


def lapses_at(progress: Progress) -> datetime | None:
    """From when on nothing in the progress can matter any more, since all its windows are over; None: never by itself."""
    if "deadline" in progress or "tangled" in progress:
        return None
    shared = progress.get("shared", {})
    stems = [stem for stems in progress.get("open", {}).values() for stem in stems if stem is not None]
    ends = [(shared[stem] if isinstance(stem, str) else stem).get("until") for stem in stems]
    if not ends or None in ends:
        return None
    return max(datetime.fromisoformat(end) for end in ends)
