"""Finds literals that can never work: arguments that a function cannot take, and positions that no list has."""

from __future__ import annotations

import re
from decimal import Decimal

from app.workflows.expressions.cel import compile_expression
from app.workflows.expressions.cel_parser import Node
from app.workflows.expressions.regex_cost import UNKNOWN, literal_cost
from app.workflows.expressions.signatures import BOOL, INT, LIST, OBJECT, STRING, UINT, Type, describe
from app.workflows.expressions.work_budget import EVENT_UNITS

_DIVISIONS = frozenset(("div", "quot", "mod", "rem"))
# Functions whose further arguments are positions in the first one, if they are numbers.
_WITH_POSITIONS = frozenset(("charAt", "indexOf", "lastIndexOf", "substring", "nth"))
_POSITIONS = "positions are whole numbers from 0"
_RAW = re.compile(r"[bB]?[rR]")


def argument_mistake(node: Node) -> str | None:
    """Why a function can never take its literal arguments, such as a time zone that is not known."""
    if node.text == "matches":
        return _regex_mistake(node.parts[-1])
    if node.text in _WITH_POSITIONS and (mistake := _positions_mistake(node)):
        return mistake
    last = node.parts[-1] if node.parts else None
    if last is None or last.kind != "literal":
        return None
    if node.text in _DIVISIONS and any(map(is_zero, node.parts[1:])):
        return "a division by zero"
    if node.text.startswith("get") and last.type == "string":
        return _reason(f"timestamp(0).{node.text}({last.text}) == 0", node.text)
    if all(part.kind == "literal" for part in node.parts):
        first, *others = (part.text for part in node.parts)
        receiver, arguments = (f"{first}.", others) if node.kind == "method" else ("", [first, *others])
        return _reason(f"dyn({receiver}{node.text}({', '.join(arguments)})) == null", node.text)
    return None


def _reason(text: str, function: str) -> str | None:
    """Why a text cannot be evaluated, without the name of the function."""
    _, reason = compile_expression(text).evaluate({})
    return None if reason is None else reason.removeprefix(f"{function}: ")


def _regex_mistake(node: Node) -> str | None:
    """Why a regular expression takes more work than all filters of an event may together."""
    kind = "raw" if _RAW.match(node.text) else "text"
    cost = literal_cost(kind, node.text, is_alone=node.kind == "literal")
    if cost == UNKNOWN and node.kind != "literal":
        return 'takes a regular expression that is written out, such as "[a-z]+": the work for any other is not known'
    if cost == UNKNOWN:
        return (
            "the work for this regular expression is not known; write it without (?x),"
            ' and codes of characters in a raw text such as r"\\x41"'
        )
    if cost.compile > EVENT_UNITS:
        return (
            f"the regular expression takes {cost.compile:,} units of work, {EVENT_UNITS:,} are allowed; repeat less, and write"
            r" [A-Za-z0-9_] or [0-9] for \w or \d, which stand for the letters or digits of all languages"
        )
    return None


def is_regex(literal: str) -> bool:
    """Whether the engine takes the text of a literal as a regular expression."""
    import cel

    try:
        cel.compile(f'"".matches({literal})').execute({})
    except Exception:
        return False
    return True


def _positions_mistake(node: Node) -> str | None:
    numbers = [number for part in node.parts[1:] if (number := _number(part)) is not None]
    bad = next((number for number in numbers if number < 0 or number % 1), None)
    if bad is not None:
        return f"there is no position {bad}; {_POSITIONS}"
    if node.text == "substring" and numbers != sorted(numbers):
        return "the end is before the beginning"
    return None


def index_mistake(node: Node, found: Type, key: Type, *, are_names_texts: bool) -> str | None:
    """Why `[ ]` can never select anything of a list or an object (`found`), with a key of these types."""
    names = STRING if are_names_texts else STRING | INT | UINT | BOOL
    is_name = found & OBJECT and key & names
    if not is_name and not (found & LIST and key & (INT | UINT)):
        return f"{describe(key)} is no position in a list, which is a whole number from 0, and no name of a field"
    number = _number(node.parts[1])
    length = len(node.parts[0].parts) if node.parts[0].kind == "list" else None
    if length is not None and number is not None and number >= length:
        return f"the list has {length} members and no position {number}; {_POSITIONS}"
    if not is_name and number is not None and number < 0:
        return f"there is no position {number}; {_POSITIONS}, the last one is data.list[size(data.list) - 1]"
    return None


def is_zero(node: Node) -> bool:
    """Whether a part is a literal zero, such as 0, 0u, 0x0 or 0.0."""
    return node.kind == "literal" and re.fullmatch(r"-?(0x)?0*\.?0*(e[+-]?\d+)?u?", node.text.lower()) is not None


def _number(node: Node) -> Decimal | None:
    """The number of a literal, or of a sum or difference of literals."""
    if node.kind == "operator" and node.text in ("+", "-"):
        numbers = [_number(part) for part in node.parts]
        first, last = numbers[0], numbers[-1]
        if first is None or last is None:
            return None
        return -last if len(numbers) == 1 else first + last if node.text == "+" else first - last
    if node.kind != "literal" or node.type not in ("int", "uint", "double"):
        return None
    text = node.text.lower().rstrip("u")
    return Decimal(int(text, 16)) if "x" in text else Decimal(text)
