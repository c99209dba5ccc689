"""A request body becomes values without a loss: what JSON libraries let slip is refused here, with its place.

Comes in: bytes. Goes out: `ExactObject`, the parsed object for validation and matching beside the untouched JSON text of
each top-level member for Postgres. Refused as 400: not UTF-8, not JSON, NaN and Infinity, repeated names, nesting over
64, not an object. Refused as 422: characters and numbers that jsonb cannot hold.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import msgspec

from app.core.errors import Problem, ProblemType

DEEPEST = 64
# What PostgreSQL's `numeric` holds: digits before and after the decimal point (its documentation, section 8.1.2).
MOST_DIGITS_BEFORE = 131_072
MOST_DIGITS_AFTER = 16_383

# Bodies without any of these need no second look: escapes of NUL and surrogates, exponents, very long numbers.
# A long number is looked for from its first digit only: from each of its digits would take quadratic time.
SUSPICIOUS = re.compile(rb"\\u(?:0000|[dD][89a-fA-F])|[0-9][eE]|(?<![0-9])[0-9]{4000}")
_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"?|[\[{]|[\]}]', re.DOTALL)
_CONSTANT = re.compile(r'"(?:[^"\\]|\\.)*"|(-?Infinity|NaN)', re.DOTALL)
_PLAIN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")

_raw_members = msgspec.json.Decoder(dict[str, msgspec.Raw])


@dataclass(frozen=True, slots=True)
class ExactObject:
    """A JSON object: `value` for looking at (floats are binary), `raw` with the JSON text of each member as it came."""

    value: dict[str, Any]
    raw: Mapping[str, str]


def read_object(body: bytes) -> ExactObject:
    """Parse `body`; raises Problem (400 or 422) that names the place."""
    value = read_value(body)
    if not isinstance(value, dict):
        raise not_json(f"The top level is {_kind(value)}; it has to be an object.")
    return ExactObject(value, {name: bytes(text).decode() for name, text in _raw_members.decode(body).items()})


def read_value(body: bytes) -> Any:
    """Parse `body` whatever its top level is; raises Problem (400 or 422) that names the place."""
    if not body.strip():
        raise not_json("The body is empty; it has to be a JSON object.")
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as wrong:
        raise not_json(f"The body is not UTF-8: byte {wrong.start + 1} (0x{body[wrong.start]:02x}) is wrong.") from None
    _refuse_deep_nesting(body)
    suspicious = SUSPICIOUS.search(body) is not None
    try:
        value = _load_carefully(text) if suspicious else _load(text)
    except json.JSONDecodeError as wrong:
        raise not_json(f"The body is not JSON: {said(wrong)} at line {wrong.lineno}, column {wrong.colno}.") from None
    except _RepeatedName:
        raise not_json(_tell_repeated_name(text)) from None
    except _NotANumber as wrong:
        raise not_json(_tell_constant(text, str(wrong))) from None
    if suspicious:
        _refuse_unstorable(value)
    return value


def object_text(members: Mapping[str, str]) -> str:
    """Members whose values are JSON text as one JSON object, nothing re-encoded but their names."""
    return "{" + ",".join(f"{msgspec.json.encode(name).decode()}:{text}" for name, text in members.items()) + "}"


def not_json(detail: str) -> Problem:
    """The 400 of a body that cannot be read."""
    return Problem(ProblemType.MALFORMED_BODY, detail)


class _RepeatedName(Exception):
    pass


class _NotANumber(Exception):
    pass


class _Unstorable(str):
    """A number, as it was written, that Postgres cannot hold."""


def _load(text: str) -> Any:
    return json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant)


def _load_carefully(text: str) -> Any:
    return json.loads(
        text,
        object_pairs_hook=_unique,
        parse_constant=_refuse_constant,
        parse_float=_storable_number,
        parse_int=_storable_number,
    )


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise _RepeatedName
    return members


def _refuse_constant(name: str) -> None:
    raise _NotANumber(name)


def _storable_number(text: str) -> int | float | _Unstorable:
    if len(text) < 4_000 and "e" not in text and "E" not in text:
        return float(text) if "." in text else int(text)
    if len(text.lower().partition("e")[2].lstrip("+-0")) > 9:
        return _Unstorable(text)
    exact = Decimal(text)
    exponent = exact.as_tuple().exponent
    before, after = exact.adjusted() + 1, -exponent if isinstance(exponent, int) else 0
    if (exact and before > MOST_DIGITS_BEFORE) or after > MOST_DIGITS_AFTER:
        return _Unstorable(text)
    return float(exact)


def _refuse_deep_nesting(body: bytes) -> None:
    if body.count(b"{") + body.count(b"[") <= DEEPEST:
        return
    depth = 0
    for token in _TOKEN.finditer(body):
        first = token[0][:1]
        if first in b"[{":
            depth += 1
            if depth > DEEPEST:
                line, column = _place(
                    body.decode(errors="replace"), len(body[: token.start()].decode(errors="replace"))
                )
                raise not_json(
                    f"The body is nested more than {DEEPEST} levels deep, from line {line}, column {column} on."
                )
        elif first in b"]}":
            depth -= 1


def _refuse_unstorable(value: Any) -> None:
    errors = [{"field": path, "message": message} for path, message in _unstorable(value, "")]
    if errors:
        raise Problem(ProblemType.UNSTORABLE_VALUE, f"{errors[0]['field']}: {errors[0]['message']}", errors=errors[:20])


def _unstorable(value: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, _Unstorable):
        written = value if len(value) <= 40 else value[:40] + "…"
        yield path, f"the number {written} is beyond what can be stored (Postgres numeric)"
    elif isinstance(value, str):
        yield from _unstorable_text(value, path)
    elif isinstance(value, dict):
        for name, member in value.items():
            below = path_of(path, name)
            yield from _unstorable_text(name, below)
            yield from _unstorable(member, below)
    elif isinstance(value, list):
        for index, member in enumerate(value):
            yield from _unstorable(member, f"{path}[{index}]")


def _unstorable_text(text: str, path: str) -> Iterator[tuple[str, str]]:
    if "\x00" in text:
        yield path, "contains a NUL character (\\u0000), which Postgres cannot store"
    try:
        text.encode()
    except UnicodeEncodeError as wrong:
        yield path, f"contains half of a surrogate pair (\\u{ord(text[wrong.start]):04x}), which is no character"


def path_of(path: str, name: str) -> str:
    """The path of member `name` below `path`: `data.price`, or `data["odd name"]`; safe to print."""
    if _PLAIN_NAME.fullmatch(name):
        return f"{path}.{name}" if path else name
    return f"{path}[{json.dumps(name if len(name) <= 80 else name[:80] + '…')}]"


def _tell_repeated_name(text: str) -> str:
    for path in _repeated(json.loads(text, object_pairs_hook=_Pairs, parse_int=str, parse_float=str), ""):
        return f"The name {path} appears twice in its object; which of the two counts would be a guess."
    raise AssertionError("a repeated name was seen before")


class _Pairs(list[tuple[str, Any]]):
    """The members of an object in their order, repeated ones included."""


def _repeated(value: Any, path: str) -> Iterator[str]:
    if isinstance(value, _Pairs):
        seen = set()
        for name, member in value:
            if name in seen:
                yield path_of(path, name)
            seen.add(name)
            yield from _repeated(member, path_of(path, name))
    elif isinstance(value, list):
        for index, member in enumerate(value):
            yield from _repeated(member, f"{path}[{index}]")


def _tell_constant(text: str, name: str) -> str:
    for token in _CONSTANT.finditer(text):
        if token[1]:
            line, column = _place(text, token.start(1))
            return f"The body is not JSON: {token[1]} at line {line}, column {column} is no JSON value; use null or a number."
    return f"The body is not JSON: {name} is no JSON value."


def _place(text: str, position: int) -> tuple[int, int]:
    return text.count("\n", 0, position) + 1, position - text.rfind("\n", 0, position)


def said(wrong: json.JSONDecodeError) -> str:
    """What Python's reader found wrong, to stand within a sentence."""
    return wrong.msg[:1].lower() + wrong.msg[1:].removesuffix(" at")


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "true or false"
    kinds = {list: "an array", str: "a string", int: "a number", float: "a number", type(None): "null"}
    return kinds.get(type(value), "something else")
