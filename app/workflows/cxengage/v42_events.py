"""The events of a 4.2 script become a pattern of ours.

Comes in: forms such as `(within 30 days (times 4 (event {…})))`. Goes out: what `on` takes. The values of an event's map are
constants (equal), sets (one of) and predicates, into which the event's value is put first: `(> 50000)`.
"""

from __future__ import annotations

from typing import Any

from app.workflows.cxengage.cel_writer import And, Condition, Not, Or, Path, split
from app.workflows.cxengage.clojure_semantics import SIGNS, Value, among, containing, equal, ordered, read_from
from app.workflows.cxengage.clojure_semantics import a_constant as constant_value
from app.workflows.cxengage.durations import a_span
from app.workflows.cxengage.errors import one_of
from app.workflows.cxengage.parser import (
    Form,
    Node,
    Number,
    a_count,
    a_list,
    a_map,
    arguments,
    at_least_one,
    unexpected,
)
from app.workflows.cxengage.source_map import Places
from app.workflows.cxengage.v41_events import MOST_TIMES, a_written_constant, inside, leaf

FORMS = ("event", "times", "sequence", "and", "or", "within")
# 4.1's words for the same, where they mean nothing else in 4.2.
_SYNONYMS = {"count": "times", "seq": "sequence", "all": "and", "any": "or"}
PREDICATES = ("=", ">", "<", ">=", "<=", "not", "and", "or", "contains?")
_LISTS = {"sequence": "seq", "and": "all", "or": "any"}


def collects_events(node: Node) -> bool:
    """Whether a form of a script waits for events."""
    while isinstance(node, Form) and node.head in (*FORMS, *_SYNONYMS):
        if node.head == "event":
            return True
        # The last member is what the form speaks of: `(times 4 (event …))`.
        node = node.members[-1]
    return False


def read_events(node: Node, places: Places) -> dict[str, Any]:
    """The pattern of one form; raises Unexpected."""
    form = a_list(node, FORMS, _SYNONYMS)
    return places.mark(_made(form, places), form)


def most_events(pattern: Any) -> int:
    """How many events a match of a pattern uses at most."""
    if "times" in pattern:
        return int(pattern["times"]) * most_events(pattern["of"])
    members = [most_events(member) for word in ("seq", "all", "any") for member in pattern.get(word, ())]
    return max(members) if "any" in pattern else sum(members) if members else 1


def _made(form: Form, places: Places) -> dict[str, Any]:
    word = _SYNONYMS.get(form.head, form.head)
    if word == "event":
        return leaf(_condition(arguments(form, ('a map such as {:type "order"}',))[0]))
    if word == "times":
        number, of = arguments(form, ("how many times", one_of(FORMS)))
        count = a_count(number, 1, MOST_TIMES, "how many times")
        inner = read_events(of, places)
        return inner if count == 1 else {"times": count, "of": inner}
    if word == "within":
        count_node, unit, of = arguments(form, ("a number", "a unit of time", one_of(FORMS)))
        span = a_span(count_node, unit)
        return inside(read_events(of, places), span)
    members = [read_events(member, places) for member in at_least_one(form, one_of(FORMS))]
    return members[0] if len(members) == 1 else {_LISTS[word]: members}


def _condition(node: Node) -> Condition | None:
    parts = [_about(read_from(Path("data", split(key.name))), value) for key, value in a_map(node).values()]
    return None if not parts else And(tuple(parts))


def _about(field: Value, node: Node) -> Condition:
    """What the value of a map says about the event's value."""
    if isinstance(node, Form) and node.bracket == "#{":
        if not node.members:
            raise unexpected(node.end, "a constant", '"}"')
        constants = [a_written_constant(member) for member in node.members]
        if None in constants:
            present = [constant for constant in constants if constant is not None]
            missing = equal(field, constant_value(None))
            return Or((among(field, present), missing)) if present else missing
        return among(field, constants)
    if isinstance(node, Form):
        return _predicate(field, node)
    return equal(field, constant_value(a_written_constant(node, "a constant, a set or a predicate such as (> 5)")))


def _predicate(field: Value, node: Node) -> Condition:
    form = a_list(node, PREDICATES)
    if form.head in ("and", "or"):
        members = tuple(_predicate(field, member) for member in at_least_one(form, one_of(PREDICATES)))
        return And(members) if form.head == "and" else Or(members)
    if form.head == "not":
        return Not(_predicate(field, arguments(form, (one_of(PREDICATES),))[0]))
    operand = arguments(form, ("a constant",))[0]
    if form.head == "contains?":
        return containing(field, a_written_constant(operand))
    if form.head == "=":
        return equal(field, constant_value(a_written_constant(operand)))
    if not isinstance(operand, Number):
        raise unexpected(operand, "a number")
    return ordered(SIGNS[form.head], field, constant_value(operand.value))
