"""The `when` of CxEngage 4.1 becomes a pattern of ours.

Comes in: the one form of the text. Goes out: what `on` takes. `fail` is an absence: in an `all` it ends what was begun there
(`unless`), between two events of a `seq` likewise, and as the last of a `seq`, with a time, it is a deadline (`none … for`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from app.core.durations import read_duration
from app.workflows.cxengage.cel_writer import And, Condition, Not, Or, Path, split, write
from app.workflows.cxengage.clojure_semantics import (
    SIGNS,
    Value,
    a_constant,
    containing,
    equal,
    is_a_number,
    ordered,
    read_from,
)
from app.workflows.cxengage.durations import a_span
from app.workflows.cxengage.errors import one_of
from app.workflows.cxengage.parser import (
    Form,
    Node,
    Number,
    Text,
    Word,
    a_count,
    a_list,
    arguments,
    at_least_one,
    only,
    read,
    unexpected,
)
from app.workflows.cxengage.source_map import Places

MOST_TIMES = 1_000
CONSTANTS = {"true": True, "false": False, "nil": None}

EVENT, WITHIN, SEQ, ALL, ANY, COUNT, FAIL = "event", "within", "seq", "all", "any", "count", "fail"
FORMS = (EVENT, WITHIN, SEQ, ALL, ANY, COUNT, FAIL)
CONDITIONS = ("=", ">", "<", "not", "and", "or", "contains")
_SYNONYMS = {"allOf": ALL}


# Conditions over one event


def condition(node: Node) -> Condition:
    """A condition over the fields of an event, by 4.1's rules: `(= type "order")`, `(and …)`, …"""
    form = a_list(node, CONDITIONS)
    if form.head in ("and", "or"):
        members = tuple(condition(member) for member in at_least_one(form, one_of(CONDITIONS)))
        return And(members) if form.head == "and" else Or(members)
    if form.head == "not":
        return Not(condition(arguments(form, (one_of(CONDITIONS),))[0]))
    left, right = arguments(form, ("a field or a constant", "a field or a constant"))
    if form.head == "contains":
        field = _value(left)
        if field.is_constant:
            raise unexpected(left, "a field of the event")
        return containing(field, a_written_constant(right))
    return _comparison(form, left, right)


def _comparison(form: Form, left: Node, right: Node) -> Condition:
    values = _value(left), _value(right)
    if values[0].is_constant and values[1].is_constant:
        raise unexpected(left, "a field of the event on one side", "two constants")
    return compared(form.head, (left, values[0]), (right, values[1]))


def compared(sign: str, *sides: tuple[Node, Value]) -> Condition:
    """Two values compared by a sign of the notation; by size only numbers are, and what is not yet known to be none."""
    (_, left), (_, right) = sides
    if sign == "=":
        return equal(left, right)
    for node, value in sides:
        if value.is_constant and not is_a_number(value.constant):
            raise unexpected(node, f'a field or a number to compare by "{sign}"')
    return ordered(SIGNS[sign], left, right)


def _value(node: Node) -> Value:
    if isinstance(node, Word) and node.name not in CONSTANTS:
        return read_from(Path("data", split(node.name)))
    return a_constant(a_written_constant(node, "a field or a constant"))


def a_written_constant(node: Node, expected: str = "a constant: a text, a number, true, false or nil") -> Any:
    """A constant: text, number, true, false, nil."""
    if isinstance(node, Text | Number):
        return node.value
    if isinstance(node, Word) and node.name in CONSTANTS:
        return CONSTANTS[node.name]
    raise unexpected(node, expected)


def leaf(where: Condition | None) -> dict[str, Any]:
    """One event of any name for which a condition holds."""
    return {"event": "*"} if where is None else {"event": "*", "where": write(where)}


# Patterns


@dataclass(frozen=True, slots=True)
class _Absence:
    """`fail`: what must not happen, and, where a time stands around it, for how long."""

    node: Node
    of: Any
    time: str | None = None


class Events41:
    """One walk over the forms of a `when`; `places` remembers where the parts of the pattern come from."""

    def __init__(self, places: Places) -> None:
        self._places = places

    def read(self, text: str) -> dict[str, Any]:
        """The pattern of a whole text."""
        forms, end = read(text)
        form = a_list(only(forms, end, one_of(FORMS)), FORMS, ("when", *_SYNONYMS))
        if form.head == "when":
            form = a_list(arguments(form, (one_of(FORMS),))[0], FORMS, _SYNONYMS)
        return self._happening(form)

    def _happening(self, node: Node) -> dict[str, Any]:
        """Something that has to happen."""
        found = self._form(node)
        if isinstance(found, _Absence):
            raise unexpected(found.node, 'something to happen beside "fail", in an "all" or a "seq"')
        return found

    def _form(self, node: Node) -> dict[str, Any] | _Absence:
        form = a_list(node, FORMS, _SYNONYMS)
        made = self._makers[_SYNONYMS.get(form.head, form.head)](self, form)
        return made if isinstance(made, _Absence) else self._places.mark(made, form)

    def _event(self, form: Form) -> dict[str, Any]:
        return leaf(condition(arguments(form, (one_of(CONDITIONS),))[0]))

    def _count(self, form: Form) -> dict[str, Any]:
        number, of = arguments(form, ("how many times", one_of(FORMS)))
        count = a_count(number, 1, MOST_TIMES, "how many times")
        inner = self._happening(of)
        return inner if count == 1 else {"times": count, "of": inner}

    def _any(self, form: Form) -> dict[str, Any]:
        members = [self._happening(member) for member in at_least_one(form, one_of(FORMS))]
        return members[0] if len(members) == 1 else {"any": members}

    def _within(self, form: Form) -> dict[str, Any] | _Absence:
        count, unit, of = arguments(form, ("a number", "a unit of time", one_of(FORMS)))
        span = a_span(count, unit)
        inner = self._form(of)
        if isinstance(inner, _Absence):
            return _Absence(inner.node, inner.of, shorter(span, inner.time))
        if _ends_in_none(inner):
            raise unexpected(
                form, '"within" inside of the "seq", around what comes before "fail"', '"within" around it'
            )
        return inside(inner, span)

    def _fail(self, form: Form) -> _Absence:
        found = self._happening(arguments(form, ('"(event …)" or "(any (event …) …)"',))[0])
        leaves = found["any"] if set(found) == {"any"} else [found]
        if any(set(member) - {"event", "where"} for member in leaves):
            raise unexpected(form.rest[0], '"(event …)" or "(any (event …) …)" after "fail"')
        return _Absence(form, found)

    def _all(self, form: Form) -> dict[str, Any]:
        found = [self._form(member) for member in at_least_one(form, one_of(FORMS))]
        happening = [member for member in found if not isinstance(member, _Absence)]
        absences = [member for member in found if isinstance(member, _Absence)]
        if not happening:
            raise unexpected(absences[0].node, 'something to happen beside "fail"')
        whole = happening[0] if len(happening) == 1 else {"all": happening}
        for absence in absences:
            if absence.time is not None:
                raise unexpected(absence.node, '"fail" with a time to be the last of a "seq"')
            if _is_one_event(whole):
                raise unexpected(absence.node, 'several events beside "fail": between them it must not happen')
        return without(whole, [absence.of for absence in absences])

    def _seq(self, form: Form) -> dict[str, Any]:
        found = [self._form(member) for member in at_least_one(form, one_of(FORMS))]
        members: list[dict[str, Any]] = []
        for index, member in enumerate(found):
            if not isinstance(member, _Absence):
                members.append(member)
            elif index == len(found) - 1 and members and member.time is not None:
                members.append(self._places.mark({"none": member.of, "for": member.time}, member.node))
            elif index == len(found) - 1 or not members or member.time is not None:
                wanted = (
                    'an event before and after "fail", or, at the end of the outermost "seq", "(within … (fail …))"'
                )
                raise unexpected(member.node, wanted)
        fenced = self._fenced(found, members)
        return {"seq": fenced} if len(fenced) > 1 else fenced[0]

    def _fenced(self, found: list[dict[str, Any] | _Absence], members: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The members, with those on both sides of each `fail` put together into one that must not be disturbed."""
        fenced: list[dict[str, Any]] = []
        pending: list[_Absence] = []
        for member in found:
            if isinstance(member, _Absence):
                if member.time is None:
                    pending.append(member)
                continue
            if not pending:
                fenced.append(member)
                continue
            before = fenced.pop()
            if not _is_one_event(before) or not _is_one_event(member):
                raise unexpected(pending[0].node, 'one single event before and one after "fail"')
            pair = {"seq": [before, member]}
            fenced.append(without(pair, [absence.of for absence in pending]))
            pending = []
        return [*fenced, members[-1]] if "none" in members[-1] else fenced

    _makers: ClassVar[Mapping[str, Callable[[Events41, Form], dict[str, Any] | _Absence]]] = {
        EVENT: _event,
        WITHIN: _within,
        SEQ: _seq,
        ALL: _all,
        ANY: _any,
        COUNT: _count,
        FAIL: _fail,
    }


def _is_one_event(pattern: dict[str, Any]) -> bool:
    if "any" in pattern and "unless" not in pattern:
        return all(_is_one_event(member) for member in pattern["any"])
    return "event" in pattern


def _ends_in_none(pattern: dict[str, Any]) -> bool:
    return "seq" in pattern and "none" in pattern["seq"][-1]


def inside(pattern: dict[str, Any], span: str) -> dict[str, Any]:
    """A pattern whose last event comes at most so long after its first; the shorter of two windows holds."""
    return {**pattern, "within": shorter(span, pattern.get("within"))}


def shorter(one: str, other: str | None) -> str:
    """The shorter of two durations."""
    return one if other is None or read_duration(one) <= read_duration(other) else other


def without(pattern: dict[str, Any], absent: list[Any]) -> dict[str, Any]:
    """A pattern between whose events none of what is `absent` happens."""
    leaves = []
    for each in ([pattern["unless"]] if "unless" in pattern else []) + absent:
        leaves += each.get("any", [each])
    if not leaves:
        return pattern
    return {**pattern, "unless": leaves[0] if len(leaves) == 1 else {"any": leaves}}
