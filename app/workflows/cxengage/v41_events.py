"""Compiles the `when` of CxEngage 4.1 into the `on` of a workflow document.

`fail` is an absence: in an `all`, and between two events of a `seq`, it becomes `unless`; as the last member of a `seq`, with
a duration, it becomes `none … for`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from app.core.durations import read_duration
from app.workflows.cxengage.cel_writer import Condition, Path, split_name, write
from app.workflows.cxengage.clojure_semantics import (
    OPERATORS,
    Value,
    constant_value,
    containing,
    equal,
    is_a_number,
    logical,
    ordered,
    read_from,
)
from app.workflows.cxengage.notation_parser import (
    A_DURATION,
    Form,
    Node,
    Number,
    Text,
    Word,
    arguments,
    at_least,
    duration_of,
    expect_count,
    expect_list,
    one_of,
    only,
    quoted_name,
    read,
    unexpected,
)
from app.workflows.cxengage.source_map import SourceMap

MAX_TIMES = 1_000
CONSTANTS = {"true": True, "false": False, "nil": None}

EVENT, WITHIN, SEQ, ALL, ANY, COUNT, FAIL = "event", "within", "seq", "all", "any", "count", "fail"
FORMS = (EVENT, WITHIN, SEQ, ALL, ANY, COUNT, FAIL)
CONDITIONS = ("=", ">", "<", "not", "and", "or", "contains")
_SYNONYMS = {"allOf": ALL}


# Conditions over one event


def condition(node: Node) -> Condition:
    """A 4.1 condition on the fields of an event: `(= type "order")`, `(and …)`, …"""
    form = expect_list(node, CONDITIONS)
    if (combined := logical(form, one_of(CONDITIONS), condition)) is not None:
        return combined
    left, right = arguments(form, ("a field or a constant", "a field or a constant"))
    if form.head == "contains":
        field = _value(left)
        if field.is_constant:
            raise unexpected(left, "a field of the event")
        return containing(field, read_constant(right))
    return _comparison(form, left, right)


def _comparison(form: Form, left: Node, right: Node) -> Condition:
    values = _value(left), _value(right)
    if values[0].is_constant and values[1].is_constant and isinstance(left, Text):
        raise quoted_name(left, f"({form.head} {left.value[:40]} …) without quotes")
    if values[0].is_constant and values[1].is_constant:
        raise unexpected(left, "a field of the event on one side", "two constants")
    return compare(form.head, (left, values[0]), (right, values[1]))


def compare(operator: str, *sides: tuple[Node, Value]) -> Condition:
    """The comparison of two values; operators other than `=` do not accept constants that are not numbers."""
    (_, left), (_, right) = sides
    if operator == "=":
        return equal(left, right)
    for node, value in sides:
        if value.is_constant and not is_a_number(value.constant):
            raise unexpected(node, f'a field or a number to compare by "{operator}"')
    return ordered(OPERATORS[operator], left, right)


def _value(node: Node) -> Value:
    if isinstance(node, Word) and node.name not in CONSTANTS:
        return read_from(Path("data", split_name(node.name)))
    return constant_value(read_constant(node, "a field or a constant"))


def read_constant(node: Node, expected: str = "a constant: a text, a number, true, false or nil") -> Any:
    """A constant: text, number, true, false, nil."""
    if isinstance(node, Text | Number):
        return node.value
    if isinstance(node, Word) and node.name in CONSTANTS:
        return CONSTANTS[node.name]
    raise unexpected(node, expected)


def event_pattern(where: Condition | None) -> dict[str, Any]:
    """The pattern of one event, of any name, that meets a condition."""
    return {"event": "*"} if where is None else {"event": "*", "where": write(where)}


# Patterns


@dataclass(frozen=True, slots=True)
class _Absence:
    """`fail`: the pattern that must not match, and the duration of a `within` around it."""

    node: Node
    of: Any
    duration: str | None = None


class EventCompiler:
    """Compiles one `when`; records the positions of the pattern's parts in the source map."""

    def __init__(self, source_map: SourceMap) -> None:
        self._source_map = source_map

    def read(self, text: str) -> dict[str, Any]:
        """The pattern of a text; raises Unexpected."""
        forms, end = read(text)
        form = expect_list(only(forms, end, one_of(FORMS)), FORMS, ("when", *_SYNONYMS))
        if form.head == "when":
            form = expect_list(arguments(form, (one_of(FORMS),))[0], FORMS, _SYNONYMS)
        return self._pattern(form)

    def _pattern(self, node: Node) -> dict[str, Any]:
        """A pattern that is not an absence."""
        found = self._form(node)
        if isinstance(found, _Absence):
            raise unexpected(found.node, 'another pattern next to "fail" in an "all" or a "seq"')
        return found

    def _form(self, node: Node) -> dict[str, Any] | _Absence:
        form = expect_list(node, FORMS, _SYNONYMS)
        pattern = self._compilers[_SYNONYMS.get(form.head, form.head)](self, form)
        return pattern if isinstance(pattern, _Absence) else self._source_map.mark(pattern, form)

    def _event(self, form: Form) -> dict[str, Any]:
        return event_pattern(condition(arguments(form, (one_of(CONDITIONS),))[0]))

    def _count(self, form: Form) -> dict[str, Any]:
        number, of = arguments(form, ("how many times", one_of(FORMS)))
        count = expect_count(number, 1, MAX_TIMES, "how many times")
        inner = self._pattern(of)
        return inner if count == 1 else {"times": count, "of": inner}

    def _any(self, form: Form) -> dict[str, Any]:
        members = [self._pattern(member) for member in at_least(form, one_of(FORMS))]
        return members[0] if len(members) == 1 else {"any": members}

    def _within(self, form: Form) -> dict[str, Any] | _Absence:
        count, unit, of = arguments(form, (*A_DURATION, one_of(FORMS)))
        span = duration_of(count, unit)
        inner = self._form(of)
        if isinstance(inner, _Absence):
            return _Absence(inner.node, inner.of, shorter(span, inner.duration))
        if _ends_in_none(inner):
            raise unexpected(
                form, '"within" inside the "seq", around the patterns before "fail"', '"within" around the "seq"'
            )
        return with_window(inner, span)

    def _fail(self, form: Form) -> _Absence:
        found = self._pattern(arguments(form, ('"(event …)" or "(any (event …) …)"',))[0])
        leaves = found["any"] if set(found) == {"any"} else [found]
        if any(set(member) - {"event", "where"} for member in leaves):
            raise unexpected(form.rest[0], '"(event …)" or "(any (event …) …)" after "fail"')
        return _Absence(form, found)

    def _all(self, form: Form) -> dict[str, Any]:
        found = [self._form(member) for member in at_least(form, one_of(FORMS))]
        patterns = [member for member in found if not isinstance(member, _Absence)]
        absences = [member for member in found if isinstance(member, _Absence)]
        if not patterns:
            raise unexpected(absences[0].node, 'another pattern next to "fail"')
        whole = patterns[0] if len(patterns) == 1 else {"all": patterns}
        for absence in absences:
            if absence.duration is not None:
                raise unexpected(absence.node, '"fail" with a duration only as the last of a "seq"')
            if _is_one_event(whole):
                raise unexpected(absence.node, 'several events next to "fail"')
        return with_unless(whole, [absence.of for absence in absences])

    def _seq(self, form: Form) -> dict[str, Any]:
        """A `fail` between two events becomes an `unless` around both."""
        found = [self._form(member) for member in at_least(form, one_of(FORMS))]
        members: list[dict[str, Any]] = []
        pending: list[_Absence] = []
        for index, member in enumerate(found):
            is_last = index == len(found) - 1
            if not isinstance(member, _Absence):
                members.append(_around_fail(members.pop(), member, pending) if pending else member)
                pending = []
            elif is_last and members and member.duration is not None:
                members.append(self._source_map.mark({"none": member.of, "for": member.duration}, member.node))
            elif is_last or not members or member.duration is not None:
                wanted = 'events before and after "fail", or "(within … (fail …))" at the end of the outermost "seq"'
                raise unexpected(member.node, wanted)
            else:
                pending.append(member)
        return {"seq": members} if len(members) > 1 else members[0]

    _compilers: ClassVar[Mapping[str, Callable[[EventCompiler, Form], dict[str, Any] | _Absence]]] = {
        EVENT: _event,
        WITHIN: _within,
        SEQ: _seq,
        ALL: _all,
        ANY: _any,
        COUNT: _count,
        FAIL: _fail,
    }


def _around_fail(before: dict[str, Any], after: dict[str, Any], absences: list[_Absence]) -> dict[str, Any]:
    if not _is_one_event(before) or not _is_one_event(after):
        raise unexpected(absences[0].node, 'one event before and one after "fail"')
    return with_unless({"seq": [before, after]}, [absence.of for absence in absences])


def _is_one_event(pattern: dict[str, Any]) -> bool:
    if "any" in pattern and "unless" not in pattern:
        return all(_is_one_event(member) for member in pattern["any"])
    return "event" in pattern


def _ends_in_none(pattern: dict[str, Any]) -> bool:
    return "seq" in pattern and "none" in pattern["seq"][-1]


def with_window(pattern: dict[str, Any], span: str) -> dict[str, Any]:
    """The pattern with a time window, or with the shorter one if it has one."""
    return {**pattern, "within": shorter(span, pattern.get("within"))}


def shorter(one: str, other: str | None) -> str:
    """The shorter of two durations."""
    return one if other is None or read_duration(one) <= read_duration(other) else other


def with_unless(pattern: dict[str, Any], absent: list[Any]) -> dict[str, Any]:
    """The pattern with the `absent` patterns added to its `unless`."""
    leaves = []
    for each in ([pattern["unless"]] if "unless" in pattern else []) + absent:
        leaves += each.get("any", [each])
    if not leaves:
        return pattern
    return {**pattern, "unless": leaves[0] if len(leaves) == 1 else {"any": leaves}}
