"""Random patterns in the notation and as documents match the same events of random timelines.

Both share no code: the compilers read the notation; the document is built here form by form, without simplification and with
other filters.
"""

from __future__ import annotations

from typing import Any

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from app.workflows.cxengage import NotationError, compile_pattern, compile_script
from tests.support.cxengage_playback import matches_on, play

KINDS = ("a", "b", "c")
Written = tuple[str, str, Any]  # in 4.1, in 4.2, and as a document


def leaf(kind: str) -> Written:
    return f'(event (= type "{kind}"))', f'(event {{:type "{kind}"}})', {"event": kind}


leaves = st.sampled_from(KINDS).map(leaf)
seconds = st.sampled_from((1, 2, 3, 5, 8))


def listed(words: tuple[str, str, str], members: list[Written]) -> Written:
    old, new, ours = words
    texts = [" ".join(member[generation] for member in members) for generation in (0, 1)]
    return f"({old} {texts[0]})", f"({new} {texts[1]})", {ours: [member[2] for member in members]}


def counted(times: int, of: Written) -> Written:
    return f"(count {times} {of[0]})", f"(times {times} {of[1]})", {"times": times, "of": of[2]}


def windowed(length: int, of: Written) -> Written:
    return (
        f"(within {length} seconds {of[0]})",
        f"(within {length} seconds {of[1]})",
        {"seq": [of[2]], "within": f"{length}s"},
    )


def extended(inner: st.SearchStrategy[Written]) -> st.SearchStrategy[Written]:
    members = st.lists(inner, min_size=1, max_size=3)
    return st.one_of(
        members.map(lambda found: listed(("seq", "sequence", "seq"), found)),
        members.map(lambda found: listed(("all", "and", "all"), found)),
        members.map(lambda found: listed(("any", "or", "any"), found)),
        st.builds(counted, st.integers(1, 3), inner),
        st.builds(windowed, seconds, inner),
    )


patterns = st.recursive(leaves, extended, max_leaves=5)
small_patterns = st.recursive(leaves, extended, max_leaves=2)
timelines = st.lists(st.tuples(st.sampled_from((0, 0, 1, 1, 2, 3)), st.sampled_from((*KINDS, "z"))), max_size=12)


def timed(pauses: list[tuple[int, str]]) -> list[tuple[int, dict[str, Any]]]:
    second, found = 0, []
    for pause, kind in pauses:
        second += pause
        found.append((second, {"type": kind}))
    return found


def named(document: Any) -> Any:
    """The document for events that all have one name; the original names become filters."""
    if isinstance(document, list):
        return [named(member) for member in document]
    if not isinstance(document, dict):
        return document
    if "event" in document:
        return {"event": "event", "where": f"'{document['event']}' in [data.type]"}
    return {name: named(part) for name, part in document.items()}


def pattern_of(when: str) -> Any:
    """The pattern of a `when`; hypothesis skips patterns with too large a match state."""
    try:
        return compile_pattern(when=when, then=THEN, templates={}, name="same")["on"]
    except NotationError as exc:
        assert "may have to remember more than" in exc.message
        assume(False)


def same(one: Any, other: Any, timeline: list[tuple[int, dict[str, Any]]]) -> None:
    first, second = play(one, timeline, until=1_000), play(other, timeline, until=1_000)
    assert [index for index, _ in first.matches] == [index for index, _ in second.matches]
    assert first.by_clock == second.by_clock
    assert first.contributing == second.contributing


THEN = "(send echo message {})"
quick = settings(max_examples=150)


@quick
@given(patterns, timelines)
def test_a_when_matches_like_the_equivalent_pattern(written: Written, pauses: list[tuple[int, str]]) -> None:
    compiled = pattern_of(written[0])
    same(compiled, named(written[2]), timed(pauses))


@quick
@given(patterns, timelines)
def test_a_script_matches_like_the_equivalent_pattern(written: Written, pauses: list[tuple[int, str]]) -> None:
    pattern_of(written[0])  # skips patterns that are too large
    compiled = compile_script(f"{written[1]} (perform echo message)", key=None, templates={}, name="same")["on"]
    same(compiled, named(written[2]), timed(pauses))


@quick
@given(st.lists(small_patterns, min_size=2, max_size=2), st.lists(leaves, min_size=1, max_size=2), timelines)
def test_fail_in_all_is_unless(members: list[Written], absent: list[Written], pauses: list[tuple[int, str]]) -> None:
    fails = " ".join(f"(fail {each[0]})" for each in absent)
    when = f"(all {' '.join(member[0] for member in members)} {fails})"
    ours = {"all": [member[2] for member in members], "unless": {"any": [each[2] for each in absent]}}
    same(pattern_of(when), named(ours), timed(pauses))


@quick
@given(leaves, leaves, leaves, timelines)
def test_fail_between_two_events_of_a_seq_is_unless(
    before: Written, absent: Written, after: Written, pauses: list[tuple[int, str]]
) -> None:
    when = f"(seq {before[0]} (fail {absent[0]}) {after[0]})"
    ours = {"seq": [before[2], after[2]], "unless": absent[2]}
    same(pattern_of(when), named(ours), timed(pauses))


@quick
@given(patterns, leaves, seconds, timelines)
def test_fail_at_the_end_of_a_seq_is_none(
    before: Written, absent: Written, length: int, pauses: list[tuple[int, str]]
) -> None:
    when = f"(seq {before[0]} (within {length} seconds (fail {absent[0]})))"
    ours = {"seq": [before[2], {"none": absent[2], "for": f"{length}s"}]}
    same(pattern_of(when), named(ours), timed(pauses))


# Conditions, compared with Clojure's rules in Python.

IsTrue = Any  # from data to whether the condition is true
ConditionCase = tuple[str, IsTrue]
FIELDS = ("n", "m-m", "o.p")
VALUES: tuple[Any, ...] = (
    0,
    1,
    "x",
    "w",
    2,
    2.5,
    "x",
    "1",
    True,
    False,
    None,
    [1, "x"],
    {"p": 1},
    {"p": "x"},
    {"p": None},
)


def look_up(data: dict[str, Any], field: str) -> Any:
    found: Any = data
    for name in field.split("."):
        found = found.get(name) if isinstance(found, dict) else None
    return found


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def alike(left: Any, right: Any) -> bool:
    if is_number(left) and is_number(right):
        return bool(left == right)
    return type(left) is type(right) and bool(left == right)


def compared(sign: str, left: Any, right: Any) -> bool:
    if not is_number(left) or not is_number(right):
        return False
    return bool(left > right if sign == ">" else left < right)


def has_part(value: Any, part: Any) -> bool:
    if isinstance(value, list):
        return any(alike(member, part) for member in value)
    return isinstance(value, str) and isinstance(part, str) and part in value


def equals(field: str, constant: tuple[str, Any]) -> ConditionCase:
    return f"(= {field} {constant[0]})", lambda data: alike(look_up(data, field), constant[1])


def orders(sign: str, field: str, number: int) -> ConditionCase:
    return f"({sign} {field} {number})", lambda data: compared(sign, look_up(data, field), number)


def compares(sign: str, left: str, right: str) -> ConditionCase:
    judge = alike if sign == "=" else lambda one, other: compared(sign, one, other)
    return f"({sign} {left} {right})", lambda data: judge(look_up(data, left), look_up(data, right))


def contains(field: str, constant: tuple[str, Any]) -> ConditionCase:
    return f"(contains {field} {constant[0]})", lambda data: has_part(look_up(data, field), constant[1])


constants = st.sampled_from(
    [("0", 0), ("1", 1), ("2.5", 2.5), ('"x"', "x"), ('"1"', "1"), ("true", True), ("false", False), ("nil", None)]
)
fields = st.sampled_from(FIELDS)
tests = st.one_of(
    st.builds(equals, fields, constants),
    st.builds(orders, st.sampled_from("<>"), fields, st.integers(0, 3)),
    st.builds(compares, st.sampled_from("=<>"), st.just("n"), st.sampled_from(("m-m", "o.p"))),
    st.builds(contains, fields, constants.filter(lambda constant: constant[1] is not None)),
)


def joined(word: str, members: list[ConditionCase]) -> ConditionCase:
    judge = all if word == "and" else any
    text = f"({word} {' '.join(member[0] for member in members)})"
    return text, lambda data: judge([member[1](data) for member in members])


def deeper(inner: st.SearchStrategy[ConditionCase]) -> st.SearchStrategy[ConditionCase]:
    members = st.lists(inner, min_size=1, max_size=3)
    return st.one_of(
        st.builds(joined, st.sampled_from(("and", "or")), members),
        inner.map(lambda member: (f"(not {member[0]})", lambda data: not member[1](data))),
    )


conditions = st.recursive(tests, deeper, max_leaves=6)
records = st.dictionaries(st.sampled_from(("n", "m-m", "o")), st.sampled_from(VALUES))


@settings(max_examples=400)
@given(conditions, st.lists(records, min_size=1, max_size=5))
def test_a_condition_is_evaluated_as_in_clojure(case: ConditionCase, rows: list[dict[str, Any]]) -> None:
    text, is_true = case
    pattern = pattern_of(f"(event {text})")
    for data in rows:
        assert (matches_on(pattern, data) == [0]) is bool(is_true(data)), (text, data)
