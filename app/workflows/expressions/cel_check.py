"""Refuses a filter or expression that can never work, when a document is saved.

It finds the types that each part may have: a field of an event may have any, so what is refused are operations on values
whose types the text shows, and literals that a function cannot take. A text that this release would refuse, and an earlier one
saved, is still evaluated.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping

from app.core.exact_json import line_and_column
from app.core.pacing import pause_between_parts
from app.workflows.expressions.cel import compile_expression, compile_filter
from app.workflows.expressions.cel_analysis import LOOPS, PLAIN_TEXT, FilterError
from app.workflows.expressions.cel_parser import Node, UnreadableText, parse
from app.workflows.expressions.signatures import (
    ANY,
    BOOL,
    BYTES,
    DOUBLE,
    DURATION,
    INT,
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

_NAMES: Mapping[str, Type] = {
    **dict.fromkeys(("event", "distinct_id"), STRING),
    "phone": STRING | NULL,
    **dict.fromkeys(("received_at", "now"), TIMESTAMP),
    **dict.fromkeys(("data", "run", "steps", "vars", "latest", "last"), OBJECT),
    "matched": LIST,
    **dict.fromkeys(("int", "uint", "double", "bool", "string", "bytes", "list", "map", "null_type", "type"), TYPE),
}
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
_DIVISIONS = frozenset(("div", "quot", "mod", "rem"))


def check_filter(text: str) -> None:
    """Check a filter over an event. Raises FilterError."""
    compile_filter(text)
    pause_between_parts()
    _check(text, is_condition=True)


def check_expression(text: str, *, is_condition: bool) -> None:
    """Check an expression of a step: a condition, or a value. Raises FilterError."""
    compile_expression(text)
    pause_between_parts()
    _check(text, is_condition=is_condition)


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


def _check(text: str, *, is_condition: bool) -> None:
    try:
        tree = parse(text)
        found = _TypeCheck(text).type_of(tree)
    except (UnreadableText, RecursionError):
        # The engine reads it, so it is valid.
        return
    if is_condition and not found & BOOL:
        raise FilterError(f"gives {describe(found)}, not true or false", *line_and_column(text, tree.at))


class _TypeCheck:
    """Finds the types of the parts of a text. Raises FilterError for a part that can never be evaluated."""

    def __init__(self, text: str) -> None:
        self._text = text
        # The variables of the loops around the current part, with their types.
        self._variables: list[tuple[str, Type]] = []
        # The types of the members of the lists that begin at these letters.
        self._members: dict[int, Type] = {}

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
            "object": lambda members: self._all(members, OBJECT),
        }
        return kinds[node.kind](node)

    def _refuse(self, node: Node, message: str) -> FilterError:
        return FilterError(message, *line_and_column(self._text, node.at))

    def _all(self, node: Node, found: Type) -> Type:
        for part in node.parts:
            self.type_of(part)
        return found

    def _name(self, node: Node) -> Type:
        for variable, found in reversed(self._variables):
            if node.text == variable:
                return found
        return _NAMES.get(node.text, ANY)

    def _field(self, node: Node) -> Type:
        found = self.type_of(node.parts[0])
        if not found & OBJECT:
            raise self._refuse(node, f"{describe(found)} has no field {node.text}")
        return ANY

    def _list(self, node: Node) -> Type:
        self._members[node.at] = frozenset().union(*map(self.type_of, node.parts)) or ANY
        return LIST

    def _member(self, node: Node) -> Type:
        """The types that a member may have: known for a list that the text writes out."""
        return self._members[node.at] if node.kind == "list" else ANY

    def _index(self, node: Node) -> Type:
        found, key = map(self.type_of, node.parts)
        if not found & (LIST | OBJECT):
            raise self._refuse(node, f"{describe(found)} has no members; [ ] selects one of a list or an object")
        if not found & OBJECT and not key & (INT | UINT):
            raise self._refuse(node, f"{describe(key)} is no position in a list; positions are whole numbers from 0")
        return self._member(node.parts[0])

    def _choice(self, node: Node) -> Type:
        condition, yes, no = map(self.type_of, node.parts)
        if not condition & BOOL:
            raise self._refuse(node.parts[0], f"{describe(condition)} is not a condition, which is true or false")
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
        if node.text in ("/", "%") and right <= INT | UINT and _is_zero(node.parts[1]):
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
        raise self._refuse(node, f"{node.text} cannot be used with {describe(left)} and {describe(right)}")

    def _compare(self, node: Node, left: Type, right: Type) -> None:
        if node.text == "in":
            if not right & (LIST | OBJECT):
                hint = "; write data.text.contains(…)" if right & STRING else ""
                raise self._refuse(node, f"in takes a list or an object, not {describe(right)}{hint}")
            return
        if node.text in _COMPARISONS:
            possible = any(each & left and each & right for each in _ORDERED)
        else:
            # Everything may be compared with null.
            possible = bool((left | right) & NULL or left & right or (left & NUMBER and right & NUMBER))
        if not possible:
            hint = (
                '; write timestamp("2024-05-31T09:00:00Z")'
                if TIMESTAMP & (left ^ right) and STRING & (left ^ right)
                else ""
            )
            raise self._refuse(node, f"{describe(left)} cannot be compared with {describe(right)}{hint}")

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
        self._variables.append((variable.text, self._member(receiver)))
        types = [self.type_of(body) for body in bodies]
        self._variables.pop()
        conditions = types[:-1] if node.text == "map" else types
        for body, each in zip(bodies, conditions, strict=False):
            if not each & BOOL:
                raise self._refuse(body, f"{describe(each)} is not a condition, which is true or false")
        return LIST if node.text in ("map", "filter") else BOOL

    def _call(self, node: Node) -> Type:
        if node.text == "has":
            return self._all(node, BOOL)
        types = [self.type_of(part) for part in node.parts]
        signature = SIGNATURES.get(node.text)
        if signature is None:
            return ANY
        if (signature.is_method and node.kind != "method") or not signature.accepts(types):
            given = " and ".join("a field" if found == ANY else describe(found) for found in types) or "nothing"
            raise self._refuse(node, f"{node.text} cannot be called with {given}; write {signature.usage}")
        self._check_literals(node)
        return signature.result

    def _check_literals(self, node: Node) -> None:
        """Refuse literals that a function can never take, such as an invalid regular expression."""
        last = node.parts[-1] if node.parts else None
        if last is None or last.kind != "literal":
            return
        reason = None
        if node.text in _DIVISIONS and any(map(_is_zero, node.parts[1:])):
            reason = "a division by zero"
        elif node.text == "matches":
            reason = None if _is_regex(last.text) else "the regular expression is invalid"
        elif node.text.startswith("get") and last.type == "string":
            _, reason = compile_expression(f"timestamp(0).{node.text}({last.text}) == 0").evaluate({})
        elif all(part.kind == "literal" for part in node.parts):
            first, *others = (part.text for part in node.parts)
            receiver, arguments = (f"{first}.", others) if node.kind == "method" else ("", [first, *others])
            called = f"{receiver}{node.text}({', '.join(arguments)})"
            _, reason = compile_expression(f"dyn({called}) == null").evaluate({})
        if reason is not None:
            reason = reason.removeprefix(f"{node.text}: ").removeprefix(f"Function '{node.text}' error: ")
            raise self._refuse(last, f"{node.text}: {reason}")


def _is_zero(node: Node) -> bool:
    """Whether a part is a literal zero, such as 0, 0u, 0x0 or 0.0."""
    return node.kind == "literal" and re.fullmatch(r"-?(0x)?0*\.?0*(e[+-]?\d+)?u?", node.text.lower()) is not None


def _is_regex(literal: str) -> bool:
    """Whether the engine takes the text of a literal as a regular expression."""
    import cel

    try:
        cel.compile(f'"".matches({literal})').execute({})
    except Exception:
        return False
    return True


def _types(found: Type) -> str:
    return " or ".join(sorted(found & NUMBER))
