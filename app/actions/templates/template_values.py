"""The values of templates: how the data of a run are prepared for them, how they print, and how they become data again."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import msgspec
from liquid.undefined import is_undefined

from app.actions.templates.decimals import Number
from app.core.ids import utc_text

# Python refuses to print an int of more than 4,300 digits.
_MAX_BITS = 14_000
# A decimal of up to some dozens of digits.
_SIZE_OF_DECIMAL = sys.getsizeof(Decimal(0))


class Object(dict[str, Any]):
    """An object of the data. It prints as JSON, of about `weight` characters."""

    __slots__ = ("weight",)

    def __init__(self, members: Mapping[str, Any]) -> None:
        super().__init__(members)
        self.weight = 2 + sum(len(name) + 1 + weight(member) for name, member in self.items())

    def __str__(self) -> str:
        return write_json(self)


class List(list[Any]):
    """A list of the data, or the result of a filter, with its weight."""

    __slots__ = ("weight",)

    def __init__(self, members: Iterable[Any]) -> None:
        super().__init__(members)
        self.weight = 2 + sum(map(weight, self))


def weight(value: Any) -> int:
    """About how many characters a value prints, without printing it."""
    if isinstance(value, str):
        return len(value) + 1
    if isinstance(value, Object | List):
        return value.weight
    if isinstance(value, int):
        return 1 + (value.bit_length() >> 2)
    if isinstance(value, Decimal):
        return 4 + 2 * max(0, sys.getsizeof(value) - _SIZE_OF_DECIMAL)
    return 2 + sum(map(weight, value)) if isinstance(value, list | tuple) else 4


def prepare_value(value: Any, count: Callable[[int], None]) -> Any:
    """A value of the data for templates: decimals as `Number`, timestamps as text, lists and objects with their weight. `count`
    is called for each value, with units of work."""
    count(3)
    if isinstance(value, Decimal) or (isinstance(value, int) and value.bit_length() > _MAX_BITS):
        return Number(value)
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, Mapping):
        members = {}
        # One call for each level: data may be nested almost as deep as Python allows.
        for name, member in value.items():
            members[str(name)] = prepare_value(member, count)
        return Object(members)
    if isinstance(value, list | tuple):
        prepared = []
        for member in value:
            prepared.append(prepare_value(member, count))
        return List(prepared)
    if isinstance(value, datetime):
        return utc_text(value)
    return value.isoformat() if isinstance(value, date) else str(value)


def to_text(value: Any) -> str:
    """How a value prints: null as nothing, the members of a list one after the other, an object as JSON."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return str(Number(repr(value)))
    if isinstance(value, range):
        return f"{value.start}..{value.stop - 1}"
    if isinstance(value, list | tuple):
        return "".join(map(to_text, value))
    return str(value)


def to_data(value: Any) -> Any:
    """A value of a template as data: exact numbers, lists, objects; null for a missing value."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return Decimal(repr(value))
    if isinstance(value, Decimal):
        return Decimal(value)
    if isinstance(value, dict):
        return {name: to_data(member) for name, member in value.items()}
    if isinstance(value, list | tuple | range):
        return [to_data(member) for member in value]
    return None if is_undefined(value) else to_text(value)


def write_json(value: Any) -> str:
    """A value of a template as JSON text, with exact numbers."""
    return _JSON.encode(value).decode()


def _plain(value: Any) -> Any:
    if isinstance(value, range):
        return list(value)
    return Decimal(value) if isinstance(value, Number) else None if value is None or is_undefined(value) else str(value)


_JSON = msgspec.json.Encoder(decimal_format="number", enc_hook=_plain)
