"""Filters: one CEL expression that is true or false of an event. Shared ground for rooms that decide something.

Comes in: the text an author wrote, and later the names it may speak of. Goes out: a compiled `Filter`, or FilterError
with the place. Evaluation never raises for any event: what cannot be evaluated is false, with the reason in words.

What one evaluation may cost is bounded before it starts: by the length of the text, by the nesting of its brackets and
loops, and by how much of the event its loops would walk over (CEL copies a list each time it is mentioned).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any

import cel
from cel import stdlib

EVENT_NAMES = ("event", "distinct_id", "phone", "data", "received_at")
RUN_NAMES = ("run", "steps", "matched")

LONGEST = 2_048
DEEPEST = 32
DEEPEST_LOOP = 2
MOST_MATCHES = 5
# About 25 to 100 nanoseconds each: a filter that would do more is false for that event, with the reason.
MOST_WORK = 5_000_000

_LOOPS = frozenset(("all", "exists", "exists_one", "existsOne", "map", "filter"))
_COPYING_LOOPS = _LOOPS - {"all", "exists"}
_TYPES = frozenset(("int", "uint", "double", "bool", "string", "bytes", "list", "map", "null_type", "type"))
_BUILT_IN = frozenset(
    (
        *("size", "contains", "startsWith", "endsWith", "matches", "type", "dyn"),
        *("int", "uint", "double", "string", "bytes", "timestamp", "duration"),
        *("getFullYear", "getMonth", "getDate", "getDayOfMonth", "getDayOfWeek", "getDayOfYear"),
        *("getHours", "getMinutes", "getSeconds", "getMilliseconds"),
    )
)
# Written in Python, 4 microseconds a filter; the ones whose result can grow far beyond their arguments are left out.
_EXTRA: Mapping[str, Callable[..., Any]] = {
    name: stdlib.STDLIB_FUNCTIONS[name]
    for name in (
        *("bool", "min", "max", "sum"),
        *("charAt", "indexOf", "lastIndexOf", "substring", "split", "lowerAscii", "upperAscii", "trim"),
    )
}
_LARGEST_INTEGER, _SMALLEST_INTEGER = (1 << 63) - 1, -(1 << 63)

_TOKEN = re.compile(
    r"""(?P<space>\s+|//[^\n]*)
      | (?P<raw>(?:[bB]?[rR]|[rR][bB])(?:'''.*?'''|\"\"\".*?\"\"\"|'[^'\n]*'|"[^"\n]*"))
      | (?P<text>[bB]?(?:'''(?:\\.|[^\\])*?'''|\"\"\"(?:\\.|[^\\])*?\"\"\"|'(?:\\.|[^'\\\n])*'|"(?:\\.|[^"\\\n])*"))
      | (?P<word>[A-Za-z_]\w*)
      | (?P<number>\d[\w.]*)
      | (?P<sign>.)""",
    re.VERBOSE | re.DOTALL,
)
# It would write a line for each event on which a function of _EXTRA fails; the decision has the reason.
logging.getLogger("cel").setLevel(logging.CRITICAL)
_ERROR = re.compile(r"ERROR: <input>:(\d+):(\d+): (?:Syntax error: )?(.*)")


class FilterError(Exception):
    """A filter cannot be used: what is wrong, and where (`line` and `column` from 1, where they are known)."""

    def __init__(self, message: str, line: int | None = None, column: int | None = None) -> None:
        place = f" (line {line}, column {column} of the filter)" if line is not None else ""
        super().__init__(message + place)
        self.message = message
        self.line = line
        self.column = column


@dataclass(frozen=True, slots=True)
class _Shape:
    """What the text of a filter tells about its cost: how often it mentions a name or joins with +, how deep its loops
    nest, and whether what happens inside of one is `heavy` (copies a whole list each time). `bound` are the names that
    loops introduce, `paths` what the filter reads, such as data.price."""

    mentions: int
    joins: int
    commas: int
    loops: int
    heavy: bool
    bound: frozenset[str]
    paths: tuple[str, ...]

    def work(self, size: int, longest: int) -> int:
        """At most about how many small operations it takes to evaluate it over `size` values."""
        longest = max(longest * (1 + self.joins), self.commas + 1)
        exponent = self.loops if self.heavy else max(0, self.loops - 1)
        return int(size * (self.mentions + self.joins**2) * longest**exponent)


@dataclass(frozen=True, slots=True)
class Filter:
    """A compiled filter. Two filters are equal when their texts are."""

    text: str
    _program: cel.Program = field(repr=False, compare=False)
    _roots: tuple[str, ...] = field(repr=False, compare=False)
    _functions: Mapping[str, Callable[..., Any]] = field(repr=False, compare=False)
    _shape: _Shape = field(repr=False, compare=False)

    def holds(self, names: Mapping[str, Any]) -> tuple[bool, str | None]:
        """Whether it is true of `names`; when it is false for want of an answer, also why. Never raises.

        Names that several filters are asked about are better given as `Converted`, which does its work once.
        """
        values: dict[str, Any] = {}
        converted = names if isinstance(names, Converted) else Converted(names)
        try:
            tally = _Tally(letters=4 if self._functions else 64)
            for root in self._roots:
                values[root] = converted.value(root, tally)
            if (reason := self._too_much(tally)) is not None:
                return False, reason
            found = self._program.execute(cel.Context(values, dict(self._functions)) if self._functions else values)
        except (KeyboardInterrupt, SystemExit, GeneratorExit):
            raise
        except BaseException as wrong:  # a panic in the Rust engine surfaces as a BaseException
            return False, self._reason(wrong, values)
        if isinstance(found, bool):
            return found, None
        return False, f"the filter gives {_kind(found)}, neither true nor false"

    def _too_much(self, tally: _Tally) -> str | None:
        if self._shape.work(tally.size, tally.longest) <= MOST_WORK:
            return None
        loops = " with loops" if self._shape.loops else ""
        return f"the event is too large for a filter{loops} ({tally.size} values, the longest list has {tally.longest})"

    def _reason(self, wrong: BaseException, values: Mapping[str, Any]) -> str:
        text = str(wrong).split("\n")[0]
        if isinstance(wrong, KeyError):
            return f"{self._missing(str(wrong.args[0]) if wrong.args else '', values)} is missing"
        if isinstance(wrong, ZeroDivisionError):
            return "a division by zero"
        if isinstance(wrong, OverflowError):
            return "a number is too large"
        if isinstance(wrong, IndexError):
            return text[:200]
        if isinstance(wrong, TypeError) or "Undefined variable or function" in text:
            return f"values that do not go together{self._kinds(values)}"
        if isinstance(wrong, Exception):
            return text.removesuffix(". Check function arguments and their types.")[:200]
        return "the filter's engine cannot evaluate it on this event"

    def _missing(self, key: str, values: Mapping[str, Any]) -> str:
        """The path at which `key` was looked for and not found, where the text tells."""
        for path in self._shape.paths:
            value: Any = values
            names = path.split(".")
            for depth, name in enumerate(names):
                if not isinstance(value, dict) or name not in value:
                    if name == key:
                        return ".".join(names[: depth + 1])
                    break
                value = value[name]
        return key[:80]

    def _kinds(self, values: Mapping[str, Any]) -> str:
        kinds = []
        for path in self._shape.paths:
            value: Any = values
            for name in path.split("."):
                value = value.get(name, _MISSING) if isinstance(value, dict) else _MISSING
            if value is not _MISSING:
                kinds.append(f"{path} is {_kind(value)}")
        return f": {', '.join(kinds[:3])}" if kinds else ""


def compile_filter(text: str, *, also: Iterable[str] = ()) -> Filter:
    """Compile a filter over the names of an event, and those in `also` (of RUN_NAMES); raises FilterError."""
    if not text.strip():
        raise FilterError("the filter is empty")
    if len(text) > LONGEST:
        raise FilterError(f"the filter has {len(text)} characters; {LONGEST} are allowed")
    shape = _measure(text)
    try:
        program = cel.compile(text)
        variables, functions = program.variables(), program.functions()
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as wrong:
        raise _as_filter_error(wrong) from None
    allowed = (*EVENT_NAMES, *also)
    for name in variables:
        if name not in allowed and name not in shape.bound and name not in _TYPES:
            raise FilterError(f"{name} is not known here; a filter speaks of {', '.join(allowed)}", *_place(text, name))
    named = [name for name in functions if name.isidentifier()]
    for name in named:
        if name in _LOOPS or name == "has":
            raise FilterError(f"{name} is not used as it should be, such as data.items.exists(item, item.price > 10)")
        if name not in _BUILT_IN and name not in _EXTRA:
            raise FilterError(
                f"the function {name} is not known; known are {', '.join(sorted((*_BUILT_IN, *_EXTRA, *_LOOPS)))}",
                *_place(text, name),
            )
    roots = tuple(name for name in variables if name in allowed)
    return Filter(text, program, roots, {name: _EXTRA[name] for name in named if name in _EXTRA}, shape)


_MISSING = object()


class _Tally:
    """How large the values are that a filter reads; so many `letters` of a text count as one value."""

    __slots__ = ("letters", "longest", "size")

    def __init__(self, letters: int) -> None:
        self.letters = letters
        self.size = 0
        self.longest = 0


class Converted(Mapping[str, Any]):
    """Names, each of them converted to what CEL takes when a filter asks for it for the first time."""

    def __init__(self, names: Mapping[str, Any]) -> None:
        self._names = names
        self._known: dict[tuple[str, int], tuple[Any, int, int]] = {}

    def value(self, root: str, tally: _Tally) -> Any:
        """The converted value of `root`; its size is added to `tally`."""
        known = self._known.get((root, tally.letters))
        if known is None:
            own = _Tally(tally.letters)
            known = self._known[root, tally.letters] = (_convert(self._names.get(root), own), own.size, own.longest)
        tally.size += known[1]
        tally.longest = max(tally.longest, known[2])
        return known[0]

    def __getitem__(self, name: str) -> Any:
        return self._names[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _convert(value: Any, tally: _Tally) -> Any:
    """`value` in types that CEL takes: integers beyond 64 bit and decimals become floats."""
    tally.size += 1
    if isinstance(value, str):
        tally.size += len(value) // tally.letters
        return value
    if value is None or isinstance(value, bool | float | datetime | timedelta):
        return value
    if isinstance(value, int):
        return value if _SMALLEST_INTEGER <= value <= _LARGEST_INTEGER else _as_float(value)
    if isinstance(value, Mapping):
        tally.longest = max(tally.longest, len(value))
        return {str(name): _convert(member, tally) for name, member in value.items()}
    if isinstance(value, list | tuple):
        tally.longest = max(tally.longest, len(value))
        return [_convert(member, tally) for member in value]
    if isinstance(value, Decimal):
        return float(value)
    return value.isoformat() if isinstance(value, date) else str(value)


def _as_float(value: int) -> float:
    try:
        return float(value)
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    for kind, word in ((bool, "true or false"), (str, "text"), (int | float, "a number"), (list, "a list")):
        if isinstance(value, kind):
            return word
    return {dict: "an object", datetime: "a time", timedelta: "a duration"}.get(type(value), type(value).__name__)


def _measure(text: str) -> _Shape:
    """Walk over the words of a filter; raises FilterError for what is nested too deep or not allowed in a loop."""
    tokens = [match for match in _TOKEN.finditer(text) if match.lastgroup != "space"]
    words = [match.group() for match in tokens]
    depths = _loop_depths(text, tokens, words)
    _check_calls(text, tokens, words, depths)
    bound = frozenset(words[index + 1] for index in range(len(words) - 1) if _opens_loop(words, index))
    names = [
        index for index, token in enumerate(tokens) if token.lastgroup == "word" and words[index - 1 : index] != ["."]
    ]
    mentions = [index for index in names if words[index] not in bound]
    return _Shape(
        mentions=max(1, len(mentions) + (len(names) - len(mentions)) // 8),
        joins=words.count("+"),
        commas=words.count(","),
        loops=max(depths, default=0),
        heavy=any(depths[index] for index in mentions) or not _COPYING_LOOPS.isdisjoint(words),
        bound=bound,
        paths=tuple(dict.fromkeys(_path(words, index) for index in names if words[index + 1 : index + 2] != ["("])),
    )


def _loop_depths(text: str, tokens: list[re.Match[str]], words: list[str]) -> list[int]:
    """For each word, how many loops it stands in."""
    opened: list[bool] = []
    depths = []
    for index, word in enumerate(words):
        if word in (")", "]", "}"):
            del opened[-1:]
        elif word in ("(", "[", "{"):
            opened.append(_opens_loop(words, index))
            if len(opened) > DEEPEST:
                raise FilterError(f"the filter nests brackets deeper than {DEEPEST}", *_place_of(text, tokens[index]))
            if sum(opened) > DEEPEST_LOOP:
                raise FilterError(f"the filter nests loops deeper than {DEEPEST_LOOP}", *_place_of(text, tokens[index]))
        depths.append(sum(opened))
    return depths


def _check_calls(text: str, tokens: list[re.Match[str]], words: list[str], depths: list[int]) -> None:
    matches = 0
    for index, word in enumerate(words[:-1]):
        place = _place_of(text, tokens[index])
        if words[index + 1] == "{" and tokens[index].lastgroup == "word":
            raise FilterError(f"{word}{{…}} is not known here", *place)
        if word != "matches" or words[index + 1] != "(":
            continue
        # Each call compiles its regular expression anew: up to 0.1 s for one that is meant to hurt.
        matches += 1
        if depths[index]:
            raise FilterError(
                "matches cannot be used inside of all, exists, map or filter; take contains or startsWith", *place
            )
        if matches > MOST_MATCHES:
            raise FilterError(f"the filter calls matches more than {MOST_MATCHES} times", *place)


def _opens_loop(words: list[str], index: int) -> bool:
    """Whether the bracket at `index` opens a loop: `.all(`, `.exists(` and so on."""
    return words[index] == "(" and index > 1 and words[index - 1] in _LOOPS and words[index - 2] == "."


def _path(words: list[str], index: int) -> str:
    """The dotted path that begins at `index`, without a function called on its end."""
    names = [words[index]]
    while words[index + 1 : index + 2] == ["."] and "".join(words[index + 2 : index + 3]).isidentifier():
        if words[index + 3 : index + 4] == ["("]:
            break
        names.append(words[index + 2])
        index += 2
    return ".".join(names)


def _place(text: str, name: str) -> tuple[int | None, int | None]:
    found = next((match for match in _TOKEN.finditer(text) if match.group() == name), None)
    return (None, None) if found is None else _place_of(text, found)


def _place_of(text: str, token: re.Match[str]) -> tuple[int, int]:
    index = token.start()
    return text.count("\n", 0, index) + 1, index - text.rfind("\n", 0, index)


def _as_filter_error(wrong: BaseException) -> FilterError:
    match = _ERROR.search(str(wrong))
    if match is None:
        return FilterError(f"the filter cannot be read: {str(wrong)[:200]}")
    line, column, message = int(match[1]), int(match[2]), match[3]
    said = re.match(r"(?:mismatched|extraneous) input '(.*?)' expecting", message)
    if said:
        message = "something is missing at the end" if said[1] == "<EOF>" else f"{said[1]} is not expected here"
    elif message.startswith("token recognition error at: "):
        message = f"cannot read {message[29:-1]}; is a quote missing?"
    message = "".join(letter if letter.isprintable() else "?" for letter in message)
    return FilterError(message[:200], line, column)


@dataclass(frozen=True, slots=True)
class Comparison:
    """A part of a filter that has to be true for the whole to be true: the value at `path` compared with a constant."""

    path: str
    sign: str
    constant: str | int | float | bool


_COMPARISON = re.compile(
    r"""\s*(?P<path>data(?:\.[A-Za-z_]\w*)+|distinct_id|event|phone)\s*(?P<sign>==|>=|<=|>|<)\s*
        (?:(?P<number>-?\d+(?:\.\d+)?)|(?P<text>"[^"\\\n]*"|'[^'\\\n]*')|(?P<truth>true|false))\s*""",
    re.VERBOSE,
)


def comparisons_in(text: str) -> list[Comparison]:
    """The comparisons with constants that all have to hold for a compiled filter to be true; others are not listed.

    Those are the members of the outermost `&&`: where one of them is false the whole is false or cannot be evaluated.
    """
    parts, depth, part = [], 0, ""
    words = [match.group() for match in _TOKEN.finditer(text)]
    for index, word in enumerate(words):
        depth += (word in ("(", "[", "{")) - (word in (")", "]", "}"))
        pair = word + "".join(words[index + 1 : index + 2])
        if depth == 0 and (word == "?" or pair == "||"):
            return []
        if depth == 0 and pair == "&&":
            parts.append(part)
            part = ""
        elif depth > 0 or word != "&":
            part += word
    found = (_COMPARISON.fullmatch(each) for each in (*parts, part))
    return [Comparison(match["path"], match["sign"], _constant(match)) for match in found if match is not None]


def _constant(match: re.Match[str]) -> str | int | float | bool:
    if match["number"] is not None:
        return float(match["number"]) if "." in match["number"] else int(match["number"])
    return match["text"][1:-1] if match["text"] is not None else match["truth"] == "true"
