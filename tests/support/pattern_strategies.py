"""Hypothesis strategies: random pattern documents and timelines, small enough for an exhaustive search.

Few names, short windows and equal times make events compete for leaves and windows end in the middle of matches.
"""

from typing import Any

from hypothesis import strategies as st

from tests.support.timelines import Timeline

MAX_DEPTH, MAX_EVENTS = 4, 10

seconds = st.sampled_from(["1s", "2s", "3s", "4s", "6s", "9s"])
names = st.sampled_from(["a", "a", "a", "b", "b", "b", "c", "*"])
filtered = st.builds(lambda name, x: {"event": name, "where": f"x == {x}"}, names, st.integers(0, 1))
leaves = st.one_of(names, names, names, filtered)
cancelling = st.one_of(
    st.sampled_from(["c", "c", "b", "a"]),
    leaves,
    st.lists(leaves, min_size=1, max_size=2).map(lambda members: {"any": members}),
)
windows = st.fixed_dictionaries({"within": seconds})
conditions = st.fixed_dictionaries({"unless": cancelling}, optional={"within": seconds})
scopes = st.one_of(st.just({}), windows, windows, conditions)


def patterns(depth: int) -> st.SearchStrategy[Any]:
    if depth == 1:
        return leaves
    inner = st.one_of(leaves, patterns(depth - 1))
    pairs = st.lists(inner, min_size=2, max_size=2)
    members = st.one_of(pairs, pairs, st.lists(inner, min_size=1, max_size=3))
    forms = st.one_of(
        members.map(lambda members: {"seq": members}),
        members.map(lambda members: {"all": members}),
        pairs.map(lambda members: {"all": members}),
        members.map(lambda members: {"any": members}),
        st.builds(lambda times, of: {"times": times, "of": of}, st.integers(1, 3), inner),
    )
    return st.builds(lambda form, scope: {**form, **scope}, forms, scopes)


def with_none(rest: Any, scope: dict[str, Any], none: Any, wait: str) -> Any:
    return {"seq": [*rest, {"none": none, "for": wait}], **scope}


rests = st.lists(patterns(MAX_DEPTH - 2), min_size=1, max_size=2)
trailing_nones = st.builds(with_none, rests, scopes, cancelling, seconds)
documents = st.one_of(patterns(MAX_DEPTH), patterns(MAX_DEPTH - 1), patterns(2), trailing_nones, trailing_nones)
events_with_pauses = st.tuples(
    st.sampled_from(["a", "a", "a", "b", "b", "c"]),
    st.sampled_from([0, 0, 1, 1, 1, 2, 3]),
    st.sampled_from([{}, {"x": 0}, {"x": 1}]),
)


def as_timeline(events: list[tuple[str, int, dict[str, Any]]]) -> Timeline:
    """Turn pauses into seconds."""
    second, timeline = 0, []
    for name, pause, data in events:
        second += pause
        timeline.append((name, second, data))
    return timeline


short_timelines = st.lists(events_with_pauses, min_size=1, max_size=5).map(as_timeline)


@st.composite
def scenes(draw: st.DrawFn) -> tuple[Any, Timeline]:
    """A document and a timeline in which some events are the ones that the document matches next."""
    document = draw(documents)
    wanted = matching_events(document)
    events = []
    drawn = draw(st.lists(st.tuples(st.booleans(), events_with_pauses), min_size=1, max_size=MAX_EVENTS))
    for is_wanted, (name, pause, data) in drawn:
        if is_wanted and wanted:
            name, data = wanted.pop(0)
        events.append((name, pause, data))
    return document, as_timeline(events)


def matching_events(document: Any) -> list[tuple[str, dict[str, Any]]]:
    """One event per leaf, in the order of the document."""
    if isinstance(document, str):
        return [("a" if document == "*" else document, {})]
    if "event" in document:
        return [(matching_events(document["event"])[0][0], {"x": int(document["where"].removeprefix("x == "))})]
    if "times" in document:
        return matching_events(document["of"]) * int(document["times"])
    if "any" in document:
        return matching_events(document["any"][-1])
    members = document["seq"] if "seq" in document else document.get("all", [])
    return [event for member in members for event in matching_events(member)]
