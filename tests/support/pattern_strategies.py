"""Hypothesis strategies: random pattern documents and timelines, small enough to be searched exhaustively.

Few names, short windows and standing time, so that events compete for places and windows end where it hurts.
"""

from typing import Any

from hypothesis import strategies as st

from tests.support.timelines import Timeline

DEEPEST, LONGEST = 4, 10

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


rests = st.lists(patterns(DEEPEST - 2), min_size=1, max_size=2)
quiets = st.builds(with_none, rests, scopes, cancelling, seconds)
documents = st.one_of(patterns(DEEPEST), patterns(DEEPEST - 1), patterns(2), quiets, quiets)
facts = st.tuples(
    st.sampled_from(["a", "a", "a", "b", "b", "c"]),
    st.sampled_from([0, 0, 1, 1, 1, 2, 3]),
    st.sampled_from([{}, {"x": 0}, {"x": 1}]),
)


def laid_out(events: list[tuple[str, int, dict[str, Any]]]) -> Timeline:
    """From pauses to seconds."""
    second, timeline = 0, []
    for name, pause, data in events:
        second += pause
        timeline.append((name, second, data))
    return timeline


short_timelines = st.lists(facts, min_size=1, max_size=5).map(laid_out)


@st.composite
def scenes(draw: st.DrawFn) -> tuple[Any, Timeline]:
    """A document and a timeline in which some events are the ones that the document waits for."""
    document = draw(documents)
    wanted = wanted_by(document)
    events = []
    for hinted, (name, pause, data) in draw(st.lists(st.tuples(st.booleans(), facts), min_size=1, max_size=LONGEST)):
        if hinted and wanted:
            name, data = wanted.pop(0)
        events.append((name, pause, data))
    return document, laid_out(events)


def wanted_by(document: Any) -> list[tuple[str, dict[str, Any]]]:
    """One event per place, in the order of the document."""
    if isinstance(document, str):
        return [("a" if document == "*" else document, {})]
    if "event" in document:
        return [(wanted_by(document["event"])[0][0], {"x": int(document["where"].removeprefix("x == "))})]
    if "times" in document:
        return wanted_by(document["of"]) * int(document["times"])
    if "any" in document:
        return wanted_by(document["any"][-1])
    members = document["seq"] if "seq" in document else document.get("all", [])
    return [event for member in members for event in wanted_by(member)]
