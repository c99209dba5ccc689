"""Refuses a filter or expression that can never work, when a document is saved.

It finds the types that each part may have: a field of an event may have those of JSON, so what is refused are operations on
values whose types the text shows, and literals that a function cannot take. A text that this release would refuse, and an
earlier one saved, is still evaluated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from app.core.exact_json import line_and_column
from app.core.pacing import pause_if_due
from app.core.template_names import EVENT_NAMES, RUN_NAMES
from app.workflows.expressions.cel import Filter, compile_expression, compile_filter
from app.workflows.expressions.cel_analysis import LOOPS, PLAIN_TEXT, FilterError
from app.workflows.expressions.cel_literals import argument_mistake, index_mistake, is_regex, is_zero
from app.workflows.expressions.cel_parser import Node, UnreadableText, parse
from app.workflows.expressions.signatures import (
    ANY,
    BOOL,
    BYTES,
    DOUBLE,
    DURATION,
    INT,
    JSON,
    LIST,
    NULL,
    NUMBER,
    OBJECT,
    SIGNATURES,
    STRING,
    TIMESTAMP,
    TYPE,
    UINT,
    Type,
    describe,
)
from app.workflows.expressions.work_budget import EVENT_UNITS, EXPRESSION_UNITS

_NAMES: Mapping[str, Type] = {
    **dict.fromkeys(("event", "distinct_id"), STRING),
    "phone": STRING | NULL,
    **dict.fromkeys(("received_at", "now"), TIMESTAMP),
    "occurred_at": TIMESTAMP | NULL,
    **dict.fromkeys(("data", "run", "steps", "vars", "latest", "last"), OBJECT),
    "matched": LIST,
    # Of a delivery to a source.
    **dict.fromkeys(("body", "item"), JSON),
    **dict.fromkeys(("headers", "query"), OBJECT),
    "parents": LIST,
    **dict.fromkeys(("int", "uint", "double", "bool", "string", "bytes", "list", "map", "null_type", "type"), TYPE),
}
# Names whose members are JSON, at any depth.
_STORED = frozenset(("data", "steps", "vars", "latest", "last", "body", "item", "headers", "query", "parents"))
_ORDERED = (NUMBER, BOOL, STRING, BYTES, TIMESTAMP, DURATION)
# For each operator: the types of its operands, and of the result.
_SAME = tuple((one, one, one) for one in (INT, UINT, DOUBLE))
_ARITHMETIC: Mapping[str, tuple[tuple[Type, Type, Type], ...]] = {
    "+": (
        *_SAME,
        *((one, one, one) for one in (STRING, BYTES, LIST, DURATION)),
        (TIMESTAMP, DURATION, TIMESTAMP),
    ),
    "-": (*_SAME, (DURATION, DURATION, DURATION), (TIMESTAMP, DURATION, TIMESTAMP), (TIMESTAMP, TIMESTAMP, DURATION)),
    "*": _SAME,
    "/": _SAME,
    "%": _SAME[:2],
}
_COMPARISONS = frozenset(("<", "<=", ">", ">="))


def check_filter(text: str) -> None:
    """Check a filter over an event. Raises FilterError."""
    _check(compile_filter(text), EVENT_UNITS, is_condition=True)


def check_expression(text: str, *, is_condition: bool, names: Iterable[str] = (*EVENT_NAMES, *RUN_NAMES)) -> None:
    """Check an expression, by default of a step: a condition, or a value. Raises FilterError."""
    _check(compile_expression(text, names), EXPRESSION_UNITS, is_condition=is_condition)


def members_read(text: str, root: str) -> frozenset[str]:
    """The members of `root` that an expression reads, such as `nudge` of `steps` in `steps.nudge.body`; none if it is invalid."""
    try:
        return frozenset(_members(parse(text), root))
    except (UnreadableText, RecursionError):
        return frozenset()


def _members(node: Node, root: str) -> Iterator[str]:
    if node.kind == "method" and node.text in LOOPS and [part.text for part in node.parts[1:2]] == [root]:
        # The variable of a loop hides the name.
        yield from _members(node.parts[0], root)
        return
    if node.parts and (node.parts[0].kind, node.parts[0].text) == ("name", root):
        if node.kind == "field":
            yield node.text
        elif node.kind == "index" and (name := PLAIN_TEXT.fullmatch(node.parts[1].text)):
            yield name[2]
    for part in node.parts:
        yield from _members(part, root)


def _check(compiled: Filter, budget: int, *, is_condition: bool) -> None:
    pause_if_due()
    text = compiled.text
    check = _TypeCheck(text)
    try:
        tree = parse(text)
        found = check.type_of(tree)
    except (UnreadableText, RecursionError):
        # The engine reads it, so it is valid.
        found, tree = BOOL, None
    if tree is not None and is_condition and not found & BOOL:
        raise FilterError(f"gives {describe(found)}, not true or false", *line_and_column(text, tree.at))
    if compiled.least_units > budget:
        raise FilterError(f"needs {compiled.least_units:,} units of work or more for any event; {budget:,} are allowed")
    check.regexes()


@dataclass(frozen=True, slots=True)
class _Inside:
    """The types of what `in` and loops find in a list or an object, which are the names of an object; of the values that
    brackets and dots select; and whether all of it is JSON."""

    members: Type = ANY
    values: Type = ANY
    is_stored: bool = False

    def or_of(self, other: _Inside) -> _Inside:
        """What is in one of two."""
        return _Inside(self.members | other.members, self.values | other.values, self.is_stored and other.is_stored)


_STORED_OBJECT, _STORED_VALUE = _Inside(STRING, JSON, is_stored=True), _Inside(JSON, JSON, is_stored=True)


class _TypeCheck:
    """Finds the types of the parts of a text. Raises FilterError for a part that can never be evaluated."""

    def __init__(self, text: str) -> None:
        self._text = text
        # The variables of the loops around the current part, with their types and what is in them.
        self._variables: list[tuple[str, Type, _Inside]] = []
        # What is in the lists and objects at these letters, as far as it is known.
        self._insides: dict[int, _Inside] = {}
        self._regexes: list[Node] = []

    def type_of(self, node: Node) -> Type:
        """The types that a part may have."""
        kinds: Mapping[str, Callable[[Node], Type]] = {
            "literal": lambda literal: frozenset((literal.type,)),
            "name": self._name,
            "field": self._field,
            "index": self._index,
            "call": self._call,
            "method": self._method,
            "operator": self._operator,
            "choice": self._choice,
            "list": self._list,
            "object": self._object,
        }
        return kinds[node.kind](node)

    def regexes(self) -> None:
        """Check the regular expressions that were found, which takes up to 20 ms for each."""
        for node in self._regexes:
            pause_if_due()
            if not is_regex(node.text):
                raise self._refuse(node, "matches: the regular expression is invalid")

    def _refuse(self, node: Node, message: str) -> FilterError:
        return FilterError(message, *line_and_column(self._text, node.at))

    def _all(self, node: Node, found: Type) -> Type:
        for part in node.parts:
            self.type_of(part)
        return found

    def _inside(self, node: Node) -> _Inside:
        return self._insides.get(node.at, _Inside())

    def _name(self, node: Node) -> Type:
        for variable, found, inside in reversed(self._variables):
            if node.text == variable:
                self._insides[node.at] = inside
                return found
        found = _NAMES.get(node.text, ANY)
        if node.text in _STORED:
            self._insides[node.at] = _STORED_OBJECT if found == OBJECT else _STORED_VALUE
        return found

    def _field(self, node: Node) -> Type:
        found = self.type_of(node.parts[0])
        if not found & OBJECT:
            raise self._refuse(node, f"{describe(found)} has no field {node.text}")
        return self._selected(node)

    def _selected(self, node: Node) -> Type:
        """The types of a value that is selected from a list or an object."""
        inside = self._inside(node.parts[0])
        if inside.is_stored:
            self._insides[node.at] = _STORED_VALUE
        return inside.values

    def _list(self, node: Node) -> Type:
        members = frozenset().union(*map(self.type_of, node.parts)) or ANY
        self._insides[node.at] = _Inside(members, members)
        return LIST

    def _object(self, node: Node) -> Type:
        types = [self.type_of(part) for part in node.parts]
        if types:
            self._insides[node.at] = _Inside(frozenset().union(*types[::2]))
        return OBJECT

    def _index(self, node: Node) -> Type:
        found, key = map(self.type_of, node.parts)
        if not found & (LIST | OBJECT):
            raise self._refuse(node, f"{describe(found)} has no members; [ ] selects one of a list or an object")
        if not found & OBJECT and not key & (INT | UINT):
            raise self._refuse(node, f"{describe(key)} is no position in a list; positions are whole numbers from 0")
        if not found & LIST and not _may_be_equal(key, self._inside(node.parts[0]).members):
            raise self._refuse(node, f"{describe(key)} is no name of a field of this object")
        # Only an object that the text writes out has other names than texts.
        are_names_texts = self._inside(node.parts[0]).is_stored or "{" not in self._text
        if mistake := index_mistake(node, found, key, are_names_texts=are_names_texts):
            raise self._refuse(node, mistake)
        return self._selected(node)

    def _choice(self, node: Node) -> Type:
        condition, yes, no = map(self.type_of, node.parts)
        if not condition & BOOL:
            raise self._refuse(node.parts[0], f"{describe(condition)} is not a condition, which is true or false")
        one, other = (self._inside(part) for part in node.parts[1:])
        self._insides[node.at] = one.or_of(other)
        return yes | no

    def _operator(self, node: Node) -> Type:
        types = [self.type_of(part) for part in node.parts]
        if len(types) == 1:
            return self._unary(node, types[0])
        if node.text in ("&&", "||"):
            for part, found in zip(node.parts, types, strict=True):
                if not found & BOOL:
                    raise self._refuse(part, f"{describe(found)} is not a condition, which is true or false")
            return BOOL
        if node.text in _ARITHMETIC:
            self._insides[node.at] = self._inside(node.parts[0]).or_of(self._inside(node.parts[1]))
            return self._arithmetic(node, *types)
        self._compare(node, *types)
        return BOOL

    def _unary(self, node: Node, found: Type) -> Type:
        if node.text == "!" and not found & BOOL:
            raise self._refuse(node, f"! takes true or false, not {describe(found)}")
        if node.text == "-" and not found & (INT | DOUBLE):
            raise self._refuse(node, f"- takes a number, not {describe(found)}")
        return BOOL if node.text == "!" else found & NUMBER

    def _arithmetic(self, node: Node, left: Type, right: Type) -> Type:
        if node.text in ("/", "%") and right <= INT | UINT and is_zero(node.parts[1]):
            raise self._refuse(node, "a division by zero")
        results = [result for one, other, result in _ARITHMETIC[node.text] if one & left and other & right]
        if results:
            return frozenset().union(*results)
        if left & DURATION and right & TIMESTAMP and node.text == "+":
            raise self._refuse(node, "the timestamp has to come first, as in now + duration")
        if node.text == "%" and (left | right) & NUMBER:
            raise self._refuse(node, "% takes two whole numbers")
        if left & NUMBER and right & NUMBER:
            hint = "; convert one, as in double(data.count) * 1.5"
            raise self._refuse(
                node, f"{node.text} takes two numbers of one type, not {_types(left)} and {_types(right)}{hint}"
            )
        hint = _time_hint(left, right)
        raise self._refuse(node, f"{node.text} cannot be used with {describe(left)} and {describe(right)}{hint}")

    def _compare(self, node: Node, left: Type, right: Type) -> None:
        if node.text == "in":
            if not right & (LIST | OBJECT):
                hint = "; write data.text.contains(…)" if right & STRING else ""
                raise self._refuse(node, f"in takes a list or an object, not {describe(right)}{hint}")
            self._require_equal(node, left, self._inside(node.parts[1]).members)
        elif node.text not in _COMPARISONS:
            self._require_equal(node, left, right)
            self._compare_members(node, *node.parts)
        elif not any(each & left and each & right for each in _ORDERED):
            raise self._cannot_compare(node, left, right)

    def _compare_members(self, node: Node, one: Node, other: Node) -> None:
        """Lists that a text writes out are equal if their members are."""
        if one.kind == other.kind == "list":
            for first, second in zip(one.parts, other.parts, strict=False):
                self._require_equal(node, self.type_of(first), self.type_of(second))
                self._compare_members(node, first, second)

    def _require_equal(self, node: Node, left: Type, right: Type) -> None:
        # Everything may be compared with null.
        if not (_may_be_equal(left, right) or (node.text != "in" and NULL in (left, right))):
            raise self._cannot_compare(node, left, right)

    def _cannot_compare(self, node: Node, left: Type, right: Type) -> FilterError:
        is_in = "each of which is " if node.text == "in" else ""
        hint = _time_hint(left, right)
        words = "cannot be one of these, " if is_in else "cannot be compared with "
        return self._refuse(node, f"{describe(left)} {words}{is_in}{describe(right)}{hint}")

    # Calls

    def _method(self, node: Node) -> Type:
        if node.text in LOOPS:
            return self._loop(node)
        return self._call(node)

    def _loop(self, node: Node) -> Type:
        receiver, variable, *bodies = node.parts
        found = self.type_of(receiver)
        if not found & (LIST | OBJECT):
            raise self._refuse(node, f"{node.text} goes through a list or an object, not {describe(found)}")
        inside = self._inside(receiver)
        within = _STORED_VALUE if inside.is_stored else _Inside()
        self._variables.append((variable.text, inside.members, within))
        types = [self.type_of(body) for body in bodies]
        self._variables.pop()
        conditions = types[:-1] if node.text == "map" else types
        for body, each in zip(bodies, conditions, strict=False):
            if not each & BOOL:
                raise self._refuse(body, f"{describe(each)} is not a condition, which is true or false")
        if node.text == "filter":
            self._insides[node.at] = inside
        elif node.text == "map":
            self._insides[node.at] = _Inside(types[-1], types[-1])
        return LIST if node.text in ("map", "filter") else BOOL

    def _call(self, node: Node) -> Type:
        if node.text == "has":
            return self._all(node, BOOL)
        types = [self.type_of(part) for part in node.parts]
        signature = SIGNATURES.get(node.text)
        if signature is None:
            return ANY
        if (signature.is_method and node.kind != "method") or not signature.accepts(types):
            raise self._refuse(node, f"{node.text} {signature.refusal(types)}")
        if mistake := argument_mistake(node):
            raise self._refuse(node.parts[-1], f"{node.text}: {mistake}")
        if node.text == "matches":
            self._regexes.append(node.parts[-1])
        if node.text == "split":
            self._insides[node.at] = _Inside(STRING, STRING)
        return signature.result


def _may_be_equal(left: Type, right: Type) -> bool:
    return bool(left & right or (left & NUMBER and right & NUMBER))


def _time_hint(left: Type, right: Type) -> str:
    """How to write a time where a text or a field was compared with one."""
    for kind, name, text in ((TIMESTAMP, "timestamp", "2024-05-31T09:00:00Z"), (DURATION, "duration", "1h30m")):
        other = right - NULL if left & kind else left
        if (left | right) & kind and not left & right & kind and other & STRING:
            argument = "data.at" if other >= JSON - NULL else f'"{text}"'
            return f"; write {name}({argument})"
    return ""


def _types(found: Type) -> str:
    return " or ".join(sorted(found & NUMBER))
