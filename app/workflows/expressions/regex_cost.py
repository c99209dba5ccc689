"""The cost of a regular expression of `matches`, in units of work: what it takes to compile it, and to search a character.

The engine compiles an expression at each call, and gives up at 10 MB of automaton, which takes about 0.1 s. It searches with
an automaton that it builds while it reads. Where that has too many states, it follows all positions of the expression at
each character. Syntax: https://docs.rs/regex/latest/regex/#syntax
"""

from __future__ import annotations

import re
from dataclasses import dataclass

# More units than an event has: what cannot be estimated.
_UNKNOWN_UNITS = 1_100_000
_MAX_COUNT = 1_000_000

_PART = re.compile(
    r"""(?P<unicode>\\(?:[wW]|[pP](?:\{[^}]*\}|.)))|(?P<digit>\\[dD])|(?P<space>\\[sSbB])
      |(?P<escape>\\(?:[xuU]\{[^}]*\}|.))
      |(?P<any>\.)|(?P<counted>\{\s*(?P<low>\d*)\s*(?:,\s*(?P<high>\d*)\s*)?\})|(?P<repeated>[*+?])
      |(?P<negated>\[\^\]?)|(?P<set>\[\]?)|(?P<end>\])|(?P<open>\((?:\?(?:P?<\w*>|[a-zA-Z-]*:?))?)|(?P<close>\))|(?P<other>.)""",
    re.VERBOSE | re.DOTALL,
)
_IGNORES_CASE = re.compile(r"\(\?[a-zA-Z]*i")
# White space and comments may stand between what is repeated and its count.
_IS_VERBOSE = re.compile(r"\(\?[a-zA-Z]*x")
# Units to compile one of them: character classes of Unicode are large automata.
_COMPILE = {"unicode": 2_500, "digit": 250, "space": 80, "negated": 60, "any": 80, "set": 0, "open": 0}
# Up to so many positions, the automaton has few enough states for any text. Beyond, each position takes units at each character.
_FEW_POSITIONS, _FEW, _EACH = 8, 1 / 16, 1 / 5
# Literal texts and alternatives of them always have a small automaton.
_LITERAL = 1 / 50
_NOT_LITERAL = frozenset(("unicode", "digit", "any", "negated", "set", "counted", "repeated"))
_SEARCH_AUTOMATON = 1 / 40_000


@dataclass(frozen=True, slots=True)
class RegexCost:
    """Units to compile an expression, and to search one character with it."""

    compile: int
    search: float


UNKNOWN = RegexCost(_UNKNOWN_UNITS, _UNKNOWN_UNITS)


# A character by its code in a text that is not raw, which may be a backslash.
_CODE_ESCAPE = re.compile(r"\\[xXuU0-7]")
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_ESCAPED = {"n": "\n", "r": "\r", "t": "\t", "v": "\v", "f": "\f", "a": "\a", "b": "\b"}


def literal_cost(kind: str | None, literal: str, *, is_alone: bool) -> RegexCost:
    """The cost of a regular expression as it stands in a CEL text: a token of a kind, the whole argument if `is_alone`."""
    if not is_alone or kind not in ("text", "raw"):
        return UNKNOWN
    pattern = literal.lstrip("rRbB")[1:-1]
    if kind == "text":
        if _CODE_ESCAPE.search(pattern.replace("\\\\", "")):
            return UNKNOWN
        pattern = _ESCAPE.sub(lambda escape: _ESCAPED.get(escape[1], escape[1]), pattern)
    return regex_cost(pattern)


def regex_cost(pattern: str) -> RegexCost:
    """The approximate maximum cost; counted repetitions multiply."""
    if _IS_VERBOSE.search(pattern) and "{" in pattern:
        return UNKNOWN
    meter = _Meter(8 if _IGNORES_CASE.search(pattern) else 1)
    for part in _PART.finditer(pattern):
        meter.add(part)
    return meter.cost()


class _Meter:
    """Adds up the parts of an expression. `groups` and `sets` hold the units and positions of each open bracket."""

    def __init__(self, factor: int) -> None:
        self.factor = factor
        self.groups = [(100 * factor, 0)]
        self.sets: list[int] = []
        self.last = (0, 0)
        self.is_literal = True

    def add(self, part: re.Match[str]) -> None:
        kind = part.lastgroup or ""
        self.is_literal &= kind not in _NOT_LITERAL
        units = _COMPILE.get(kind, 2 * self.factor)
        if kind in ("set", "negated"):
            self.sets.append(units)
        elif self.sets:
            self._add_to_set(kind, units)
        elif kind == "counted":
            self._repeat(max(1, _count(part["low"]), _count(part["high"])))
        elif kind == "open":
            self.groups.append((0, 0))
        elif kind == "close":
            self._put(self.groups.pop() if len(self.groups) > 1 else self.groups[0])
        elif kind != "repeated":
            self._put((units, 1))

    def _add_to_set(self, kind: str, units: int) -> None:
        if kind != "end":
            self.sets[-1] += units or 2
            return
        units = self.sets.pop()
        if self.sets:
            self.sets[-1] += units
        else:
            self._put((units, 1))

    def _put(self, part: tuple[int, int]) -> None:
        units, positions = self.groups[-1]
        self.groups[-1] = (units + part[0], positions + part[1])
        self.last = part

    def _repeat(self, count: int) -> None:
        units, positions = self.last
        self._put((units * (count - 1), positions * (count - 1)))
        self.last = (units * count, positions * count)

    def cost(self) -> RegexCost:
        units = min(_UNKNOWN_UNITS, sum(units for units, _ in self.groups) + sum(self.sets))
        positions = sum(positions for _, positions in self.groups)
        searched = _FEW if positions <= _FEW_POSITIONS else positions * _EACH
        search = _LITERAL if self.is_literal else searched
        return RegexCost(units, max(search, units * _SEARCH_AUTOMATON))


def _count(digits: str | None) -> int:
    """A number of repetitions, however many digits it has."""
    digits = (digits or "").lstrip("0")
    return int(digits) if len(digits) < len(str(_MAX_COUNT)) and digits else _MAX_COUNT if digits else 0
