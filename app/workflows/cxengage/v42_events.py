"""Compiles the event forms of a 4.2 script, such as `(within 30 days (times 4 (event {…})))`, into a pattern.

The map of an event has constants (equal), sets (one of), and predicates such as `(> 50000)`, whose first operand is the
event's value.
"""

from __future__ import annotations

from typing import Any

from app.workflows.cxengage.cel_writer import (
    AND,
    PRIMARY,
    And,
    Atom,
    Condition,
    Or,
    Path,
    all_of,
    is_number,
    split_name,
    write,
)
from app.workflows.cxengage.clojure_semantics import (
    OPERATORS,
    Value,
    among,
    constant_value,
    containing,
    equal,
    logical,
    ordered,
    read_from,
)
from app.workflows.cxengage.notation_parser import (
    A_DURATION,
    Form,
    Node,
    Number,
    arguments,
    at_least,
    duration_of,
    expect_count,
    expect_list,
    one_of,
    read_map,
    unexpected,
)
from app.workflows.cxengage.source_map import SourceMap
from app.workflows.cxengage.v41_events import MAX_TIMES, event_pattern, read_constant, with_window

FORMS = ("event", "times", "sequence", "and", "or", "within")
# Words of 4.1 that have no other meaning in 4.2.
_SYNONYMS = {"count": "times", "seq": "sequence", "all": "and", "any": "or"}
PREDICATES = ("=", ">", "<", ">=", "<=", "not", "and", "or", "contains?")
_LISTS = {"sequence": "seq", "and": "all", "or": "any"}


def is_event_form(node: Node) -> bool:
    """Whether a form of a script is a pattern of events."""
    while isinstance(node, Form) and node.head in (*FORMS, *_SYNONYMS):
        if node.head == "event":
            return True
        # The last member is the inner pattern: `(times 4 (event …))`.
        node = node.members[-1]
    return False


def compile_events(node: Node, source_map: SourceMap) -> dict[str, Any]:
    """The pattern of one form; raises Unexpected."""
    form = expect_list(node, FORMS, _SYNONYMS)
    return source_map.mark(_pattern(form, source_map), form)


def with_key(pattern: dict[str, Any], key: str) -> dict[str, Any]:
    """The pattern, false for an event without a value of the field `key`. The matcher itself looks for the key only where a
    pattern has several events."""
    if "event" not in pattern:
        return pattern
    path = Path("data", split_name(key))
    usable = Or((Atom(f'type({path.text}) == string && {path.text} != ""', AND), Atom(is_number(path.text), PRIMARY)))
    has_key = write(And((*(Atom(each) for each in path.present()), usable)))
    where = pattern.get("where", "")
    return {**pattern, "where": all_of([f"({where})" if "||" in where else where, has_key] if where else [has_key])}


def max_events(pattern: Any) -> int:
    """The maximum number of events that a match of a pattern uses."""
    if "times" in pattern:
        return int(pattern["times"]) * max_events(pattern["of"])
    members = [max_events(member) for word in ("seq", "all", "any") for member in pattern.get(word, ())]
    return max(members) if "any" in pattern else sum(members) if members else 1


def _pattern(form: Form, source_map: SourceMap) -> dict[str, Any]:
    word = _SYNONYMS.get(form.head, form.head)
    if word == "event":
        return event_pattern(_condition(arguments(form, ('a map such as {:type "order"}',))[0]))
    if word == "times":
        number, of = arguments(form, ("how many times", one_of(FORMS)))
        count = expect_count(number, 1, MAX_TIMES, "how many times")
        inner = compile_events(of, source_map)
        return inner if count == 1 else {"times": count, "of": inner}
    if word == "within":
        count_node, unit, of = arguments(form, (*A_DURATION, one_of(FORMS)))
        span = duration_of(count_node, unit)
        return with_window(compile_events(of, source_map), span)
    members = [compile_events(member, source_map) for member in at_least(form, one_of(FORMS))]
    return members[0] if len(members) == 1 else {_LISTS[word]: members}


def _condition(node: Node) -> Condition | None:
    parts = [_filter(read_from(Path("data", split_name(key.name))), value) for key, value in read_map(node).values()]
    return None if not parts else And(tuple(parts))


def _filter(field: Value, node: Node) -> Condition:
    """The condition on a field by a value of the map."""
    if isinstance(node, Form) and node.bracket == "#{":
        if not node.members:
            raise unexpected(node.end, "a constant", '"}"')
        constants = [read_constant(member) for member in node.members]
        if None in constants:
            present = [constant for constant in constants if constant is not None]
            missing = equal(field, constant_value(None))
            return Or((among(field, present), missing)) if present else missing
        return among(field, constants)
    if isinstance(node, Form):
        return _predicate(field, node)
    return equal(field, constant_value(read_constant(node, "a constant, a set or a predicate such as (> 5)")))


def _predicate(field: Value, node: Node) -> Condition:
    form = expect_list(node, PREDICATES)
    if (combined := logical(form, one_of(PREDICATES), lambda member: _predicate(field, member))) is not None:
        return combined
    operand = arguments(form, ("a constant",))[0]
    if form.head == "contains?":
        return containing(field, read_constant(operand))
    if form.head == "=":
        return equal(field, constant_value(read_constant(operand)))
    if not isinstance(operand, Number):
        raise unexpected(operand, "a number")
    return ordered(OPERATORS[form.head], field, constant_value(operand.value))
