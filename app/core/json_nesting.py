"""How deeply JSON text is nested, without parsing it: in pieces, between which other requests run.

What is found is right for valid JSON. Other text gets some answer, and is refused when it is parsed.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable, Iterator
from itertools import accumulate
from typing import NamedTuple

from app.core.pacing import pause_if_due

# Characters that are looked at in one piece, which takes about a millisecond.
_MAX_PIECE = 32 * 1024
_ESCAPES_AND_ONE = re.compile(r"\\*+.?", re.DOTALL)
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"?|[\[{]|[\]}]', re.DOTALL)
# Opening brackets are 1 and closing ones -1, as signed bytes; everything else is deleted.
_STEPS = bytes.maketrans(b"{[}]", b"\x01\x01\xff\xff")
_NO_BRACKETS = bytes(set(range(256)) - set(b"{[}]"))


class Piece(NamedTuple):
    """A part of a text. `in_string`: whether it begins inside a string. `depth`: where it begins; `lowest`, `highest`: in it."""

    start: int
    end: int
    in_string: bool
    depth: int
    lowest: int
    highest: int


def pieces(text: str, start: int = 0, size: int = _MAX_PIECE) -> Iterator[Piece]:
    """The text from `start` on, in pieces: the first one has `size` characters, each later one at most twice as many."""
    depth, in_string = 0, False
    while start < len(text):
        pause_if_due()
        # An escape is not cut in two.
        found = _ESCAPES_AND_ONE.match(text, min(start + size, len(text)))
        end = found.end() if found else len(text)
        plain = text[start:end].encode("utf-8", "replace").replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')
        steps = b"".join(plain[in_string::2]).translate(_STEPS, _NO_BRACKETS)
        depths = list(accumulate(array("b", steps), initial=depth))
        yield Piece(start, end, in_string, depth, min(depths), max(depths))
        in_string ^= len(plain) % 2 == 0
        start, depth, size = end, depths[-1], min(2 * size, _MAX_PIECE)


def find_bracket(text: str, piece: Piece, is_wanted: Callable[[int], bool]) -> int | None:
    """The position of the first bracket of a piece after which the depth is wanted."""
    quote, depth = '"' * piece.in_string, piece.depth
    for token in _TOKEN.finditer(quote + text[piece.start : piece.end]):
        pause_if_due()
        sign = token[0][0]
        if sign != '"':
            depth += 1 if sign in "[{" else -1
            if is_wanted(depth):
                return piece.start - len(quote) + token.start()
    return None


def find_end(text: str, start: int) -> int | None:
    """Where the object or array that begins at `start` ends; None when it does not."""
    for piece in pieces(text, start, 1024):
        if piece.lowest <= 0 and (end := find_bracket(text, piece, lambda depth: depth <= 0)) is not None:
            return end + 1
    return None
