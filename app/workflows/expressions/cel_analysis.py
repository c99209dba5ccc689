"""Static analysis of a CEL text: what it reads, its comparisons with constants, and error positions."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from itertools import pairwise

from app.core.exact_json import line_and_column

MAX_DEPTH = 32
MAX_LOOP_DEPTH = 2
MAX_MATCHES_CALLS = 5

LOOPS = frozenset(("all", "exists", "exists_one", "existsOne", "map", "filter"))

_TOKEN = re.compile(
    r"""(?P<space>\s+|//[^\n]*)
      | (?P<raw>(?:[bB]?[rR]|[rR][bB])(?:'''.*?'''|\"\"\".*?\"\"\"|'[^'\n]*'|"[^"\n]*"))
      | (?P<text>[bB]?(?:'''(?:\\.|[^\\])*?'''|\"\"\"(?:\\.|[^\\])*?\"\"\"|'(?:\\.|[^'\\\n])*'|"(?:\\.|[^"\\\n])*"))
      | (?P<word>[A-Za-z_]\w*)
      | (?P<number>\d[\w.]*)
      | (?P<sign>.)""",
    re.VERBOSE | re.DOTALL,
)
PLAIN_TEXT = re.compile(r"""(["'])([^"'\\\n]*)\1""")
_FRACTION = re.compile(r"\d+(?:\.\d+(?:[eE]\d+)?|[eE]\d+)")
_ERROR = re.compile(r"ERROR: <input>:(\d+):(\d+): (?:Syntax error: )?(.*)")


class FilterError(ValueError):
    """An invalid filter. `line` and `column` count from 1 and are None if unknown."""

    def __init__(self, message: str, line: int | None = None, column: int | None = None) -> None:
        position = f" (line {line}, column {column} of the filter)" if line is not None else ""
        super().__init__(message + position)
        self.message = message
        self.line = line
        self.column = column


@dataclass(frozen=True, slots=True)
class Shape:
    """The names that the loops of a filter introduce, and what it reads, such as data.price."""

    loop_variables: frozenset[str]
    paths: tuple[str, ...]


def tokenize(text: str) -> list[re.Match[str]]:
    """The tokens of a text, without white space and comments."""
    return [match for match in _TOKEN.finditer(text) if match.lastgroup != "space"]


def measure(text: str) -> Shape:
    """Analyse the tokens of a filter. Raises FilterError if it nests too deeply or calls what a loop must not call."""
    tokens = tokenize(text)
    words = [match.group() for match in tokens]
    depths = _loop_depths(text, tokens, words)
    _check_calls(text, tokens, words, depths)
    loop_variables = frozenset(words[index + 1] for index in range(len(words) - 1) if opens_loop(words, index))
    names = [
        index for index, token in enumerate(tokens) if token.lastgroup == "word" and words[index - 1 : index] != ["."]
    ]
    return Shape(
        loop_variables=loop_variables,
        paths=tuple(dict.fromkeys(_path(words, index) for index in names if words[index + 1 : index + 2] != ["("])),
    )


def _loop_depths(text: str, tokens: list[re.Match[str]], words: list[str]) -> list[int]:
    """For each token, the number of loops around it."""
    opened: list[bool] = []
    depths = []
    for index, word in enumerate(words):
        if word in (")", "]", "}"):
            del opened[-1:]
        elif word in ("(", "[", "{"):
            opened.append(opens_loop(words, index))
            if len(opened) > MAX_DEPTH:
                raise FilterError(
                    f"the filter nests brackets deeper than {MAX_DEPTH}", *line_and_column(text, tokens[index].start())
                )
            if sum(opened) > MAX_LOOP_DEPTH:
                raise FilterError(
                    f"the filter nests loops deeper than {MAX_LOOP_DEPTH}",
                    *line_and_column(text, tokens[index].start()),
                )
        depths.append(sum(opened))
    return depths


def _check_calls(text: str, tokens: list[re.Match[str]], words: list[str], depths: list[int]) -> None:
    matches = 0
    for index, word in enumerate(words[:-1]):
        at = tokens[index].start()
        if words[index + 1] == "{" and tokens[index].lastgroup == "word" and word != "in":
            raise FilterError(f"{word}{{…}} is not supported", *line_and_column(text, at))
        if word != "matches" or words[index + 1] != "(":
            continue
        # Each call compiles its regular expression again, which takes up to 0.1 s for a hostile one.
        matches += 1
        if depths[index]:
            raise FilterError(
                "matches cannot be used inside of all, exists, map or filter; use contains or startsWith",
                *line_and_column(text, at),
            )
        if matches > MAX_MATCHES_CALLS:
            raise FilterError(
                f"the filter calls matches more than {MAX_MATCHES_CALLS} times", *line_and_column(text, at)
            )


def opens_loop(words: list[str], index: int) -> bool:
    """Whether the bracket at `index` opens a loop such as `.all(` or `.exists(`."""
    return words[index] == "(" and index > 1 and words[index - 1] in LOOPS and words[index - 2] == "."


def _path(words: list[str], index: int) -> str:
    """The dotted path that begins at `index`, without a function that is called on it."""
    names = [words[index]]
    while words[index + 1 : index + 2] == ["."] and "".join(words[index + 2 : index + 3]).isidentifier():
        if words[index + 3 : index + 4] == ["("]:
            break
        names.append(words[index + 2])
        index += 2
    return ".".join(names)


def find_literals(text: str) -> tuple[Decimal, ...]:
    """The number literals with a point or an exponent."""
    words = (match.group() for match in _TOKEN.finditer(text) if match.lastgroup == "number")
    return tuple(Decimal(word) for word in words if _FRACTION.fullmatch(word))


def rename_calls(text: str, names: Mapping[str, str]) -> str:
    """The text with other names for the functions that it calls. A new name has the length of the old one."""
    tokens, letters = tokenize(text), list(text)
    for token, following in pairwise(tokens):
        if following.group() == "(" and token.group() in names:
            letters[token.start() : token.end()] = names[token.group()]
    return "".join(letters)


def find_position(text: str, name: str) -> tuple[int | None, int | None]:
    """Line and column, from 1, of the first occurrence of a name."""
    found = next((match for match in _TOKEN.finditer(text) if match.group() == name), None)
    return (None, None) if found is None else line_and_column(text, found.start())


def to_filter_error(exc: BaseException) -> FilterError:
    """The compiler's error as a FilterError with a readable message."""
    match = _ERROR.search(str(exc))
    if match is None:
        return FilterError(f"the filter cannot be read: {str(exc)[:200]}")
    line, column, message = int(match[1]), int(match[2]), match[3]
    mismatch = re.match(r"(?:mismatched|extraneous) input '(.*?)' expecting", message)
    if mismatch:
        message = "unexpected end" if mismatch[1] == "<EOF>" else f"unexpected {mismatch[1]}"
    elif message.startswith("token recognition error at: "):
        message = f"cannot read {message[29:-1]}; is a quote missing?"
    message = "".join(letter if letter.isprintable() else "?" for letter in message)
    return FilterError(message[:200], line, column)


@dataclass(frozen=True, slots=True)
class Comparison:
    """A part of a filter that must be true for the filter to be true: the value at `path` compared with a constant."""

    path: str
    operator: str
    constant: str | int | float | bool


_COMPARISON = re.compile(
    r"""\s*(?P<path>data(?:\.[A-Za-z_]\w*)+|distinct_id|event|phone)\s*(?P<operator>==|>=|<=|>|<)\s*
        (?:(?P<number>-?\d+(?:\.\d+)?)|(?P<text>"[^"\\\n]*"|'[^'\\\n]*')|(?P<truth>true|false))\s*""",
    re.VERBOSE,
)


def find_comparisons(text: str) -> list[Comparison]:
    """The comparisons with constants that must all be true for a compiled filter to be true. There may be further ones.

    They are members of the outermost `&&`: if one of them is false, the filter is false or cannot be evaluated.
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
