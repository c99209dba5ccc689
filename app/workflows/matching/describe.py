"""One subject's progress comes in; one short sentence about where the subject stands goes out."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import NamedTuple

from app.workflows.matching.match_state import Standing, Stem, Strand
from app.workflows.matching.pattern_ast import ANY_NAME, AllOf, AnyOf, Leaf, Node, Pattern, Seq, Tangle, Times
from app.workflows.matching.state_json import Progress, read_progress

SHORT = timedelta(minutes=2)


class Told(NamedTuple):
    """`events`: how many events the partial match used (the furthest one is told); `first`: the first one's number."""

    events: int
    first: int
    text: str


class View(NamedTuple):
    standing: Standing
    now: datetime


def describe(pattern: Pattern, progress: Progress, now: datetime) -> str:
    """For example `2 of 3 check_in_failed in the last 52 min`. Clock times are in the time zone of `now`."""
    remembered = read_progress(progress)
    if pattern.quiet is not None and remembered.deadline is not None:
        return f"fires at {clock(remembered.deadline.at, now)} unless {' or '.join(pattern.quiet.names)} comes"
    told = tell(pattern.root, View(remembered.standing, now))
    return told.text if told else "nothing yet"


def tell(node: Node, view: View) -> Told | None:
    match node:
        case Seq():
            return tell_seq(node, view)
        case Times():
            return tell_times(node, view)
        case AllOf():
            return tell_all(node, view)
        case AnyOf():
            return furthest(tell(member, view) for member in node.members)
        case Tangle():
            return tell_tangle(node, view)
    return None


def furthest(candidates: Iterable[Told | None]) -> Told | None:
    return max((told for told in candidates if told), default=None, key=lambda told: told.events)


def tell_seq(node: Seq, view: View) -> Told | None:
    done = living(node, view)
    for place in reversed(range(len(node.members))):
        stem = done.get(place - 1)
        inner = tell(node.members[place], view)
        if inner is None and stem is None:
            continue
        step = f"step {place + 1} of {len(node.members)}: " if len(node.members) > 2 else ""
        if inner is not None:
            return Told(inner.events + (len(stem.used) if stem else 0), inner.first, step + inner.text)
        if stem is not None:
            waits = f"waits for {label(node.members[place])}{until(stem, view.now)}"
            return Told(len(stem.used), began(stem), step + waits)
    return None


def tell_times(node: Times, view: View) -> Told | None:
    """The repetition in progress is told only when it does not share its events with the ones counted."""
    chain = list(living(node, view).values())
    inner = tell(node.of, view)
    if not chain:
        return inner
    events, first = sum(len(link.used) for link in chain), began(chain[-1])
    text = f"{len(chain)} of {node.count} {label(node.of)} in the last {span(view.now - chain[-1].used[0].at)}"
    if inner is not None and inner.first > chain[0].used[-1].number:
        return Told(events + inner.events, first, f"{text}; {inner.text}")
    return Told(events, first, text)


def tell_all(node: AllOf, view: View) -> Told | None:
    done = living(node, view)
    inner = furthest(tell(part, view) for place, part in enumerate(node.parts) if place not in done)
    if not done:
        return inner
    has = " and ".join(label(node.parts[place]) for place in done)
    open_ = " and ".join(label(part) for place, part in enumerate(node.parts) if place not in done)
    first = min(done.values(), key=began)
    text = f"has {has}, waits for {open_}{until(first, view.now)}"
    events = sum(len(stem.used) for stem in done.values())
    if inner is None:
        return Told(events, began(first), text)
    return Told(events + inner.events, min(began(first), inner.first), f"{text}; {inner.text}")


def tell_tangle(node: Tangle, view: View) -> Told | None:
    strands = [strand for strand in view.standing.strands.get(node.path, ()) if is_living(strand.stem, view.now)]
    return furthest(tell_strand(node, strand, view) for strand in strands)


def tell_strand(node: Tangle, strand: Strand, view: View) -> Told:
    pairs = list(zip(node.members, strand.positions, strict=True))
    done = [label(member) for member, position in pairs if position is True]
    open_ = " and ".join(label(member) for member, position in pairs if position is not True)
    has = f"has {' and '.join(done)}" if done else f"{len(strand.used)} of the events came"
    text = f"{has}, waits for {open_}{until(strand.stem, view.now)}"
    return Told(len(strand.used), strand.used[0].number, text)


def began(stem: Stem) -> int:
    return stem.used[0].number


def living(node: Node, view: View) -> dict[int, Stem]:
    stems = enumerate(view.standing.stems.get(node.path, ()))
    return {place: stem for place, stem in stems if stem is not None and is_living(stem, view.now)}


def is_living(stem: Stem, now: datetime) -> bool:
    return stem.until is None or now <= stem.until


def label(node: Node) -> str:
    match node:
        case Leaf():
            return "any event" if node.name == ANY_NAME else node.name
        case Times():
            return f"{node.count} × {label(node.of)}"
        case Seq():
            return ", then ".join(map(label, node.members))
        case AnyOf():
            return " or ".join(map(label, node.members))
        case AllOf() | Tangle():
            return " and ".join(map(label, node.members))
    raise TypeError(node)


def until(stem: Stem | None, now: datetime) -> str:
    return f" until {clock(stem.until, now)}" if stem and stem.until else ""


def clock(at: datetime, now: datetime) -> str:
    local = at.astimezone(now.tzinfo)
    time = local.strftime("%H:%M:%S" if at - now < SHORT else "%H:%M")
    return time if local.date() == now.date() else f"{local.date().isoformat()} {time}"


def span(length: timedelta) -> str:
    """A stretch of time in words, such as 52 min."""
    seconds = int(length.total_seconds())
    if seconds < 120:
        return f"{seconds} s"
    if seconds < 2 * 3600:
        return f"{seconds // 60} min"
    return f"{seconds // 3600} h" if seconds < 2 * 86400 else f"{seconds // 86400} days"
