"""Parses a JSON request body without losing anything, and refuses what PostgreSQL cannot store.

400: not UTF-8, not JSON, NaN or Infinity, a repeated name, nesting deeper than 64 levels, not an object. 422: characters and
numbers that jsonb cannot hold.
"""

from __future__ import annotations

import json
import re
from array import array
from collections.abc import Iterator, Mapping
from decimal import Decimal
from itertools import accumulate
from math import isfinite
from typing import Any

import msgspec

from app.core.errors import Problem, ProblemType
from app.core.pacing import Pacer, in_pieces

MAX_DEPTH = 64
# What PostgreSQL's `numeric` holds: digits before and after the decimal point (its documentation, section 8.1.2).
MAX_DIGITS_BEFORE = 131_072
MAX_DIGITS_AFTER = 16_383
# Numbers with fewer characters and no exponent are always storable.
_SHORT_NUMBER = 4_000
# A double has all the digits of a number of so many characters, with an exponent of up to two digits.
_ALWAYS_EXACT = 15
_SHORT_EXPONENT = 2
# Bytes from which a body is parsed in pieces.
LARGE = 32 * 1024
_BRACKETS_PER_PIECE = 64 * 1024

# NUL and surrogates can only come from escapes: UTF-8 has no surrogates, and JSON no bare control characters.
_UNSTORABLE_ESCAPE = re.compile(r"\\u(?:0000|[dD][89a-fA-F])")
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"?', re.DOTALL)
_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"?|[\[{]|[\]}]', re.DOTALL)
_CONSTANT = re.compile(r'"(?:[^"\\]|\\.)*"|(-?Infinity|NaN)', re.DOTALL)
_PLAIN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")

_raw_members = msgspec.json.Decoder(dict[str, msgspec.Raw])


class ExactObject(msgspec.Struct, frozen=True):
    """A JSON object: `value` for validation and matching, `raw` with the JSON text of each member as
    it was sent, for PostgreSQL."""

    value: dict[str, Any]
    raw: Mapping[str, str]


def read_object(body: bytes) -> ExactObject:
    """Parse `body`; raises Problem (400 or 422) that names the position."""
    value = read_value(body)
    if not isinstance(value, dict):
        raise malformed_body(f"The top level is {_kind(value)}; it must be an object.")
    return ExactObject(value, {name: str(text, "utf-8") for name, text in _raw_members.decode(body).items()})


def read_value(body: bytes) -> Any:
    """Parse `body`, whatever its top level is; raises Problem (400 or 422) that names the position."""
    try:
        text = body.decode()
    except UnicodeDecodeError as exc:
        raise not_utf8(exc) from None
    _check_depth(body)
    try:
        return _parse(text)
    except json.JSONDecodeError as exc:
        if not text.strip():
            raise malformed_body("The body is empty; it must be a JSON object.") from None
        raise syntax_error(exc) from None
    except _RepeatedName:
        raise _repeated_name_problem(text) from None
    except _NotANumber as exc:
        raise malformed_body(_describe_constant(text, str(exc))) from None


def object_text(members: Mapping[str, str]) -> str:
    """Members whose values are JSON text as one JSON object, nothing re-encoded but their names."""
    return msgspec.json.encode({name: msgspec.Raw(text) for name, text in members.items()}).decode()


def malformed_body(detail: str) -> Problem:
    """The 400 for a body that cannot be parsed."""
    return Problem(ProblemType.MALFORMED_BODY, detail)


def not_utf8(exc: UnicodeDecodeError) -> Problem:
    """The 400 for a body that is not UTF-8."""
    return malformed_body(f"The body is not UTF-8: byte {exc.start + 1} (0x{exc.object[exc.start]:02x}) is invalid.")


def syntax_error(exc: json.JSONDecodeError) -> Problem:
    """The 400 for a body that is not JSON."""
    reason = exc.msg[:1].lower() + exc.msg[1:].removesuffix(" at")
    return malformed_body(f"The body is not JSON: {reason} at line {exc.lineno}, column {exc.colno}.")


class _RepeatedName(Exception):
    pass


class _NotANumber(Exception):
    pass


class _Unstorable(str):
    """The text of a number that PostgreSQL cannot hold."""


def _parse(text: str) -> Any:
    if text.startswith("\ufeff"):
        raise json.JSONDecodeError("Unexpected byte order mark (BOM)", text, 0)
    try:
        value = (_decoder if len(text) < LARGE else _large_decoder()).decode(text)
    except json.JSONDecodeError:
        raise
    except ValueError:
        # An unstorable number, or an integer of more than 4,300 digits, which `int` refuses.
        value = _long_number_decoder.decode(text)
        _check_storable(value)
    if "\\u" in text and _UNSTORABLE_ESCAPE.search(text):
        _check_storable(value)
    return value


def _unique_members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise _RepeatedName
    return members


def _refuse_constant(name: str) -> None:
    raise _NotANumber(name)


def read_fraction(text: str) -> float | Decimal:
    """A JSON number with a fraction or an exponent: a double if it has the same digits, otherwise a decimal."""
    if len(text) <= _ALWAYS_EXACT and len(text.lower().partition("e")[2].lstrip("+-")) <= _SHORT_EXPONENT:
        return float(text)
    exact, double = Decimal(text), float(text)
    return double if isfinite(double) and Decimal(repr(double)) == exact else exact


def _storable_float(text: str) -> float | Decimal:
    if len(text) <= _ALWAYS_EXACT and "e" not in text and "E" not in text:
        return float(text)
    if len(text) < _SHORT_NUMBER and len(text.lower().partition("e")[2]) <= _SHORT_EXPONENT:
        return read_fraction(text)
    number = _number(text)
    if isinstance(number, _Unstorable):
        raise ValueError(text)
    return number


def _number(text: str) -> float | Decimal | _Unstorable:
    if len(text) < _SHORT_NUMBER and "e" not in text and "E" not in text:
        return read_fraction(text) if "." in text else int(text)
    if len(text.lower().partition("e")[2].lstrip("+-0")) > 9:
        return _Unstorable(text)
    exact = Decimal(text)
    exponent = exact.as_tuple().exponent
    before, after = exact.adjusted() + 1, -exponent if isinstance(exponent, int) else 0
    if (exact and before > MAX_DIGITS_BEFORE) or after > MAX_DIGITS_AFTER:
        return _Unstorable(text)
    return read_fraction(text)


_decoder = json.JSONDecoder(
    object_pairs_hook=_unique_members, parse_constant=_refuse_constant, parse_float=_storable_float
)
_long_number_decoder = json.JSONDecoder(
    object_pairs_hook=_unique_members, parse_constant=_refuse_constant, parse_float=_number, parse_int=_number
)


def _large_decoder() -> json.JSONDecoder:
    return json.JSONDecoder(
        object_pairs_hook=in_pieces(_unique_members),
        parse_constant=_refuse_constant,
        parse_float=in_pieces(_storable_float),
    )


# Opening brackets are 1 and closing ones -1, as signed bytes; everything else is deleted.
_STEPS = bytes.maketrans(b"{[}]", b"\x01\x01\xff\xff")
_NO_BRACKETS = bytes(set(range(256)) - set(b"{[}]"))


def _is_deep(body: bytes) -> bool:
    steps = _STRING.sub(b"", body).translate(_STEPS, _NO_BRACKETS)
    depth, pacer = 0, Pacer()
    for start in range(0, len(steps), _BRACKETS_PER_PIECE):
        depths = list(accumulate(array("b", steps[start : start + _BRACKETS_PER_PIECE]), initial=depth))
        if max(depths) > MAX_DEPTH:
            return True
        depth = depths[-1]
        pacer.pause_if_due()
    return False


def _check_depth(body: bytes) -> None:
    if body.count(b"{") + body.count(b"[") <= MAX_DEPTH or not _is_deep(body):
        return
    depth, pacer = 0, Pacer()
    for token in _TOKEN.finditer(body):
        pacer.pause_if_due()
        first = token[0][:1]
        if first in b"[{":
            depth += 1
            if depth > MAX_DEPTH:
                line, column = line_and_column(
                    body.decode(errors="replace"), len(body[: token.start()].decode(errors="replace"))
                )
                raise malformed_body(
                    f"The body is nested more than {MAX_DEPTH} levels deep, from line {line}, column {column} on."
                )
        elif first in b"]}":
            depth -= 1


def _check_storable(value: Any) -> None:
    errors = [{"field": path, "message": message} for path, message in _unstorable(value, "", Pacer())]
    if errors:
        raise Problem(ProblemType.UNSTORABLE_VALUE, f"{errors[0]['field']}: {errors[0]['message']}", errors=errors[:20])


def _unstorable(value: Any, path: str, pacer: Pacer) -> Iterator[tuple[str, str]]:
    pacer.pause_if_due()
    if isinstance(value, _Unstorable):
        written = value if len(value) <= 40 else value[:40] + "…"
        yield path, f"the number {written} is beyond what can be stored (Postgres numeric)"
    elif isinstance(value, str):
        yield from _unstorable_text(value, path)
    elif isinstance(value, dict):
        for name, member in value.items():
            below = path_of(path, name)
            yield from _unstorable_text(name, below)
            yield from _unstorable(member, below, pacer)
    elif isinstance(value, list):
        for index, member in enumerate(value):
            yield from _unstorable(member, f"{path}[{index}]", pacer)


def _unstorable_text(text: str, path: str) -> Iterator[tuple[str, str]]:
    characters = dict.fromkeys(UNSTORABLE.findall(text))
    if "\x00" in characters:
        yield path, "contains a NUL character (\\u0000), which Postgres cannot store"
    for surrogate in [character for character in characters if character != "\x00"][:1]:
        yield path, f"contains half of a surrogate pair (\\u{ord(surrogate):04x}), which is no character"


def path_of(path: str, name: str) -> str:
    """The path of member `name` below `path`: `data.price`, or `data["odd name"]`; safe to print."""
    if _PLAIN_NAME.fullmatch(name):
        return f"{path}.{name}" if path else name
    return f"{path}[{json.dumps(name if len(name) <= 80 else name[:80] + '…')}]"


def _repeated_name_problem(text: str) -> Problem:
    try:
        value = json.loads(text, object_pairs_hook=in_pieces(_Pairs), parse_int=str, parse_float=str)
    except json.JSONDecodeError as exc:
        # The text is no JSON after the repeated name.
        return syntax_error(exc)
    path = next(_repeated(value, "", Pacer()))
    return malformed_body(f"The name {path} appears twice in its object.")


class _Pairs(list[tuple[str, Any]]):
    """The members of an object in their order, repeated ones included."""


def _repeated(value: Any, path: str, pacer: Pacer) -> Iterator[str]:
    pacer.pause_if_due()
    if isinstance(value, _Pairs):
        seen = set()
        for name, member in value:
            if name in seen:
                yield path_of(path, name)
            seen.add(name)
            yield from _repeated(member, path_of(path, name), pacer)
    elif isinstance(value, list):
        for index, member in enumerate(value):
            yield from _repeated(member, f"{path}[{index}]", pacer)


def _describe_constant(text: str, name: str) -> str:
    for token in _CONSTANT.finditer(text):
        if token[1]:
            line, column = line_and_column(text, token.start(1))
            return f"The body is not JSON: {token[1]} at line {line}, column {column} is no JSON value; use null or a number."
    return f"The body is not JSON: {name} is no JSON value."


def line_and_column(text: str, position: int) -> tuple[int, int]:
    """Line and column, from 1, of the character at an index."""
    return text.count("\n", 0, position) + 1, position - text.rfind("\n", 0, position)


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "true or false"
    kinds = {list: "an array", str: "a string", int: "a number", float: "a number", type(None): "null"}
    return kinds.get(type(value), "something else")


UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


def replace_unstorable(text: str) -> str:
    """`text` with U+FFFD in place of characters that cannot be stored."""
    return UNSTORABLE.sub("\ufffd", text)


def make_storable(value: Any) -> Any:
    """A JSON value with U+FFFD in place of characters that cannot be stored, in names and texts."""
    if isinstance(value, str):
        return replace_unstorable(value)
    if isinstance(value, Mapping):
        return {make_storable(name): make_storable(member) for name, member in value.items()}
    if isinstance(value, list | tuple):
        return [make_storable(member) for member in value]
    return value
