"""Parses a JSON request body without losing anything, and refuses what PostgreSQL cannot store.

400: not UTF-8, not JSON, NaN or Infinity, a repeated name, nesting deeper than 64 levels, not an object. 422: characters and
numbers that jsonb cannot hold.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from decimal import Decimal
from math import isfinite
from typing import Any

import msgspec

from app.core import json_nesting
from app.core.errors import Problem, ProblemType
from app.core.pacing import in_pieces, pause_if_due

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

# NUL and surrogates can only come from escapes: UTF-8 has no surrogates, and JSON no bare control characters.
_UNSTORABLE_ESCAPE = re.compile(r"\\u(?:0000|[dD][89a-fA-F])")
_CONSTANT = re.compile(r'"(?:[^"\\]|\\.)*"|(-?Infinity|NaN)', re.DOTALL)
_PLAIN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")

_raw_members = msgspec.json.Decoder(dict[str, msgspec.Raw])
_raw_elements = msgspec.json.Decoder(list[msgspec.Raw])


class ExactObject(msgspec.Struct, frozen=True):
    """A JSON object: `value` for validation and matching, `raw` with the JSON text of each member as
    it was sent, for PostgreSQL."""

    value: dict[str, Any]
    raw: Mapping[str, str]


class ExactTexts:
    """The JSON texts of the parts of a body that `read_value` has read, as they were sent."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._whole: str | None = None
        # The parts of objects and lists by path.
        self._parts: dict[tuple[str | int, ...], dict[str, msgspec.Raw] | list[msgspec.Raw]] = {}

    def at(self, path: tuple[str | int, ...]) -> str:
        """The text at a path of names and positions, which has to exist. Raises LookupError."""
        if not path:
            if self._whole is None:
                self._whole = self._body.decode()
            return self._whole
        return str(self._raw(path), "utf-8")

    def _raw(self, path: tuple[str | int, ...]) -> bytes | msgspec.Raw:
        if not path:
            return self._body
        above = path[:-1]
        parts = self._parts.get(above)
        if parts is None:
            raw = self._raw(above)
            is_list = isinstance(path[-1], int)
            parts = self._parts[above] = _raw_elements.decode(raw) if is_list else _raw_members.decode(raw)
        return parts[path[-1]]  # type: ignore[index]


def read_object(body: bytes) -> ExactObject:
    """Parse `body`; raises Problem (400 or 422) that names the position."""
    value = read_value(body)
    if not isinstance(value, dict):
        raise malformed_body(f"The top level is {_kind(value)}; it must be an object.")
    text_of = _text_of if len(body) < LARGE else in_pieces(_text_of)
    return ExactObject(value, {name: text_of(raw) for name, raw in _raw_members.decode(body).items()})


def _text_of(raw: msgspec.Raw) -> str:
    return str(raw, "utf-8")


def read_value(body: bytes) -> Any:
    """Parse `body`, whose top level may be any value; raises Problem (400 or 422) that names the position."""
    try:
        text = body.decode()
    except UnicodeDecodeError as exc:
        raise not_utf8(exc) from None
    _check_depth(text)
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
    raw = in_pieces(msgspec.Raw)
    return msgspec.json.encode({name: raw(text) for name, text in members.items()}).decode()


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
        value = (_decoder if len(text) < LARGE else _decoder_in_pieces(int, _storable_float)).decode(text)
    except json.JSONDecodeError:
        raise
    except ValueError:
        # An unstorable number, or an integer of more than 4,300 digits, which `int` refuses.
        value = (_long_number_decoder if len(text) < LARGE else _decoder_in_pieces(_number, _number)).decode(text)
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


def _decoder_in_pieces(parse_int: Callable[[str], Any], parse_float: Callable[[str], Any]) -> json.JSONDecoder:
    """A decoder that lets other requests run. Lists, texts, true, false and null do not call it."""
    return json.JSONDecoder(
        object_pairs_hook=in_pieces(_unique_members),
        parse_constant=_refuse_constant,
        parse_float=in_pieces(parse_float),
        parse_int=in_pieces(parse_int),
    )


def _check_depth(text: str) -> None:
    if text.count("{") + text.count("[") <= MAX_DEPTH:
        return
    for piece in json_nesting.pieces(text):
        if piece.highest > MAX_DEPTH:
            position = json_nesting.find_bracket(text, piece, lambda depth: depth > MAX_DEPTH)
            line, column = line_and_column(text, position or piece.start)
            raise malformed_body(
                f"The body is nested more than {MAX_DEPTH} levels deep, from line {line}, column {column} on."
            )


def _check_storable(value: Any) -> None:
    errors = [{"field": path, "message": message} for path, message in _unstorable(value, "")]
    if errors:
        raise Problem(ProblemType.UNSTORABLE_VALUE, f"{errors[0]['field']}: {errors[0]['message']}", errors=errors[:20])


def _unstorable(value: Any, path: str) -> Iterator[tuple[str, str]]:
    pause_if_due()
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
    path = next(_repeated(value, ""))
    return malformed_body(f"The name {path} appears twice in its object.")


class _Pairs(list[tuple[str, Any]]):
    """The members of an object in their order, repeated ones included."""


def _repeated(value: Any, path: str) -> Iterator[str]:
    pause_if_due()
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


def _describe_constant(text: str, name: str) -> str:
    for token in _CONSTANT.finditer(text):
        pause_if_due()
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


def is_storable(text: str) -> bool:
    """Whether a text has no character that cannot be stored."""
    # Without the expression, which looks at each character of a text by itself.
    return "\x00" not in text and (text.isascii() or UNSTORABLE.search(text) is None)


def refuse_unstorable(texts: Iterable[str]) -> None:
    """Raises Problem 400 when a text of a URL or form has a character that Postgres cannot store."""
    if not all(map(is_storable, texts)):
        raise Problem(ProblemType.MALFORMED_REQUEST, "The request contains a NUL character, which no text may contain.")


def replace_unstorable(text: str) -> str:
    """`text` with U+FFFD in place of characters that cannot be stored."""
    return text if is_storable(text) else UNSTORABLE.sub("\ufffd", text)


def make_storable(value: Any) -> Any:
    """A JSON value with U+FFFD in place of characters that cannot be stored, in names and texts."""
    if isinstance(value, str):
        return replace_unstorable(value)
    if isinstance(value, Mapping):
        return {make_storable(name): make_storable(member) for name, member in value.items()}
    if isinstance(value, list | tuple):
        return [make_storable(member) for member in value]
    return value
