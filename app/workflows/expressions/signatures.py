"""The types of CEL, and what the functions of filters and expressions take and return.

A type is a set: the types that a value may have. A field of an event may have those of JSON.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from types import UnionType
from typing import Any

Type = frozenset[str]

INT, UINT, DOUBLE, BOOL = frozenset(("int",)), frozenset(("uint",)), frozenset(("double",)), frozenset(("bool",))
STRING, BYTES, NULL, TYPE = frozenset(("string",)), frozenset(("bytes",)), frozenset(("null",)), frozenset(("type",))
TIMESTAMP, DURATION = frozenset(("timestamp",)), frozenset(("duration",))
LIST, OBJECT = frozenset(("list",)), frozenset(("object",))
NUMBER = INT | UINT | DOUBLE
# What a value of JSON may be: a field of an event, or the output of a step.
JSON = INT | DOUBLE | BOOL | STRING | NULL | LIST | OBJECT
ANY = JSON | UINT | BYTES | TYPE | TIMESTAMP | DURATION

_WORDS = {
    **dict.fromkeys(("int", "uint", "double"), "a number"),
    "bool": "true or false",
    "string": "a text",
    "bytes": "bytes",
    "null": "null",
    "type": "a type",
    "timestamp": "a timestamp",
    "duration": "a duration",
    "list": "a list",
    "object": "an object",
}


_TYPES: tuple[tuple[type | UnionType, Type], ...] = (
    (type(None), NULL),
    (bool, BOOL),
    (str, STRING),
    (int, INT),
    (float | Decimal, DOUBLE),
    (bytes, BYTES),
    (list, LIST),
    (Mapping, OBJECT),
    (datetime, TIMESTAMP),
    (timedelta, DURATION),
)


def type_of(value: Any) -> Type:
    """The type of a value that CEL gives to a function."""
    return next((found for kind, found in _TYPES if isinstance(value, kind)), ANY)


def describe(found: Type) -> str:
    """A type in words."""
    if found >= JSON:
        return "a field"
    return " or ".join(dict.fromkeys(word for name, word in _WORDS.items() if name in found))


@dataclass(frozen=True, slots=True)
class Signature:
    """What a call takes, and the type of its result. `takes` and `usage` say it for people. Each of `overloads` lists the
    types of its arguments, of which the last `optional` may be absent; with `repeats`, the last one may be repeated. `is_method`:
    it is called on its first argument only."""

    usage: str
    result: Type
    overloads: Sequence[Sequence[Type]]
    optional: int = 0
    repeats: bool = False
    is_method: bool = False

    def refusal(self, arguments: Sequence[Type]) -> str:
        """What is said of a call with values of these types, which it does not accept."""
        return f"cannot be called with {' and '.join(map(describe, arguments)) or 'nothing'}; write {self.usage}"

    def accepts(self, arguments: Sequence[Type]) -> bool:
        """Whether values of these types may be what it takes."""
        return any(self._fits(overload, arguments) for overload in self.overloads)

    def _fits(self, overload: Sequence[Type], arguments: Sequence[Type]) -> bool:
        missing = len(overload) - len(arguments)
        if missing > self.optional or (missing < 0 and not self.repeats):
            return False
        expected = [*overload, *[overload[-1]] * -missing]
        return all(one & other for one, other in zip(expected, arguments, strict=False))


def _of_text(name: str, *others: Type, optional: int = 0, result: Type = STRING, usage: str = "") -> Signature:
    return Signature(usage or f"data.text.{name}()", result, [(STRING, *others)], optional)


def _part(name: str, *also: Type) -> Signature:
    usage = f'received_at.{name}() or timestamp(data.at).{name}("Asia/Kolkata")'
    return Signature(usage, INT, [(TIMESTAMP,), (TIMESTAMP, STRING), *((each,) for each in also)])


def _method(name: str) -> Signature:
    return Signature(f'data.text.{name}("text")', BOOL, [(STRING, STRING)], is_method=True)


def _numbers(usage: str, count: int, *, repeats: bool = False) -> Signature:
    return Signature(usage, NUMBER, [(NUMBER,) * count], repeats=repeats)


def _fold(name: str) -> Signature:
    values = NUMBER | STRING | DURATION | TIMESTAMP
    return Signature(f"{name}(data.list) or {name}(1, 2)", values, [(LIST,), (values,)], repeats=True)


_TIME = ("getFullYear", "getMonth", "getDate", "getDayOfMonth", "getDayOfWeek", "getDayOfYear")
_CLOCK = ("getHours", "getMinutes", "getSeconds", "getMilliseconds")

# The functions of filters and expressions.
SIGNATURES: Mapping[str, Signature] = {
    "size": Signature("size(data.list)", INT, [(STRING | BYTES | LIST | OBJECT,)]),
    "contains": _method("contains"),
    "startsWith": _method("startsWith"),
    "endsWith": _method("endsWith"),
    "matches": Signature('data.text.matches("[a-z]+")', BOOL, [(STRING, STRING)]),
    "type": Signature("type(data.price)", TYPE, [(ANY,)]),
    "dyn": Signature("dyn(data.price)", ANY, [(ANY,)]),
    "int": Signature("int(data.text), int(1.5) or int(received_at)", INT, [(NUMBER | STRING | TIMESTAMP,)]),
    "uint": Signature("uint(data.number)", UINT, [(NUMBER | STRING,)]),
    "double": Signature("double(data.number)", DOUBLE, [(NUMBER | STRING,)]),
    "bool": Signature('bool("true")', BOOL, [(BOOL | STRING,)]),
    "bytes": Signature("bytes(data.text)", BYTES, [(STRING | BYTES,)]),
    "string": Signature("string(data.number)", STRING, [(NUMBER | BOOL | STRING | BYTES | TIMESTAMP | DURATION,)]),
    "timestamp": Signature('timestamp("2024-05-31T09:00:00Z")', TIMESTAMP, [(STRING | INT | TIMESTAMP,)]),
    "duration": Signature('duration("1h30m")', DURATION, [(STRING | DURATION,)]),
    **{name: _part(name) for name in _TIME},
    **{name: _part(name, DURATION) for name in _CLOCK},
    "charAt": _of_text("charAt", INT, usage="data.text.charAt(0)"),
    "indexOf": _of_text("indexOf", STRING, INT, optional=1, result=INT, usage='data.text.indexOf("a")'),
    "lastIndexOf": _of_text("lastIndexOf", STRING, INT, optional=1, result=INT, usage='data.text.lastIndexOf("a")'),
    "substring": _of_text("substring", INT, INT, optional=1, usage="data.text.substring(0, 3)"),
    "split": _of_text("split", STRING, INT, optional=1, result=LIST, usage='data.text.split(",")'),
    **{name: _of_text(name) for name in ("lowerAscii", "upperAscii", "trim")},
    **{name: _fold(name) for name in ("min", "max", "sum", "avg", "stdev")},
    **{name: _numbers(f"{name}(1, 2)", 1, repeats=True) for name in ("add", "mul")},
    **{name: _numbers(f"{name}(1, 2)", 2, repeats=True) for name in ("sub", "div")},
    **{name: _numbers(f"{name}(1, 2)", 2) for name in ("mod", "quot", "rem", "pow")},
    **{name: _numbers(f"{name}(data.number)", 1) for name in ("inc", "dec", "abs", "floor", "ceil", "sqrt")},
    "count": Signature("count(data.list)", INT, [(LIST | OBJECT | STRING,)]),
    "first": Signature("first(data.list)", ANY, [(LIST,)]),
    "last": Signature("last(data.list)", ANY, [(LIST,)]),
    "nth": Signature("nth(data.list, 0)", ANY, [(LIST, NUMBER)]),
    "values": Signature('values(matched, "price")', LIST, [(LIST, STRING)]),
}
