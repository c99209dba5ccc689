"""The text of a filter: what it tells before it is evaluated. How much it may cost, what it reads, where its mistakes are.

Comes in: a CEL expression as its author wrote it. Goes out: its `Shape`, the comparisons that it makes with constants, or
FilterError with the place.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal

DEEPEST = 32
DEEPEST_LOOP = 2
MOST_MATCHES = 5

LOOPS = frozenset(("all", "exists", "exists_one", "existsOne", "map", "filter"))
_COPYING_LOOPS = LOOPS - {"all", "exists"}

_TOKEN = re.compile(
    r"""(?P<space>\s+|//[^\n]*)
      | (?P<raw>(?:[bB]?[rR]|[rR][bB])(?:'''.*?'''|\"\"\".*?\"\"\"|'[^'\n]*'|"[^"\n]*"))
      | (?P<text>[bB]?(?:'''(?:\\.|[^\\])*?'''|\"\"\"(?:\\.|[^\\])*?\"\"\"|'(?:\\.|[^'\\\n])*'|"(?:\\.|[^"\\\n])*"))
      | (?P<word>[A-Za-z_]\w*)
      | (?P<number>\d[\w.]*)
      | (?P<sign>.)""",
    re.VERBOSE | re.DOTALL,
)
_FRACTION = re.compile(r"\d+(?:\.\d+(?:[eE]\d+)?|[eE]\d+)")
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
class Shape:
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


def measure(text: str) -> Shape:
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
    return Shape(
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
    return words[index] == "(" and index > 1 and words[index - 1] in LOOPS and words[index - 2] == "."


def _path(words: list[str], index: int) -> str:
    """The dotted path that begins at `index`, without a function called on its end."""
    names = [words[index]]
    while words[index + 1 : index + 2] == ["."] and "".join(words[index + 2 : index + 3]).isidentifier():
        if words[index + 3 : index + 4] == ["("]:
            break
        names.append(words[index + 2])
        index += 2
    return ".".join(names)


def literals_in(text: str) -> tuple[Decimal, ...]:
    """The numbers with a point or an exponent that a filter writes."""
    words = (match.group() for match in _TOKEN.finditer(text) if match.lastgroup == "number")
    return tuple(Decimal(word) for word in words if _FRACTION.fullmatch(word))


def place(text: str, name: str) -> tuple[int | None, int | None]:
    """Line and column, from 1, at which a name stands for the first time."""
    found = next((match for match in _TOKEN.finditer(text) if match.group() == name), None)
    return (None, None) if found is None else _place_of(text, found)


def _place_of(text: str, token: re.Match[str]) -> tuple[int, int]:
    index = token.start()
    return text.count("\n", 0, index) + 1, index - text.rfind("\n", 0, index)


def as_filter_error(wrong: BaseException) -> FilterError:
    """What the compiler found, in our words."""
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
    operator: str
    constant: str | int | float | bool


_COMPARISON = re.compile(
    r"""\s*(?P<path>data(?:\.[A-Za-z_]\w*)+|distinct_id|event|phone)\s*(?P<operator>==|>=|<=|>|<)\s*
        (?:(?P<number>-?\d+(?:\.\d+)?)|(?P<text>"[^"\\\n]*"|'[^'\\\n]*')|(?P<truth>true|false))\s*""",
    re.VERBOSE,
)


def find_comparisons(text: str) -> list[Comparison]:
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
    return [Comparison(match["path"], match["operator"], _constant(match)) for match in found if match is not None]


def _constant(match: re.Match[str]) -> str | int | float | bool:
    if match["number"] is not None:
        return float(match["number"]) if "." in match["number"] else int(match["number"])
    return match["text"][1:-1] if match["text"] is not None else match["truth"] == "true"
