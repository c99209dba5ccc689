"""The difference between two texts as rows of a table."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from app.core.pacing import pause_if_due

# Lines around a change, and rows of a table.
_CONTEXT, MAX_ROWS = 3, 1_000
# Lines of both texts together. With many equal lines difflib takes time by the square of them; beyond _EXACT it leaves out those
# that are frequent.
_EXACT, MAX_LINES = 1_000, 6_000
# Lines of the old text, and their positions in the new one, that are looked at: each takes about a tenth of a microsecond.
_MAX_LOOKS = 200_000


@dataclass(frozen=True, slots=True)
class Row:
    """A line: `old` and `new` are its numbers in the two texts (None: it is not in that one). `sign`: "+" (added), "-" (removed)
    or "" (the same). All are empty where lines are left out."""

    old: int | None
    new: int | None
    sign: str
    text: str


class _TooMuchWork(Exception):
    """The texts have too many equal lines, or too many changes, to be compared."""


class _Matcher(difflib.SequenceMatcher[str]):
    """Counts what it looks at, and raises _TooMuchWork. Other requests run in between."""

    def __init__(self, before: Sequence[str], after: Sequence[str]) -> None:
        super().__init__(None, before, after, autojunk=len(before) + len(after) > _EXACT)
        positions: Mapping[str, Sequence[int]] = self.b2j  # type: ignore[attr-defined]
        self._looks = list(accumulate((1 + len(positions.get(line, ())) for line in before), initial=0))
        self._left = _MAX_LOOKS

    def find_longest_match(
        self, alo: int = 0, ahi: int | None = None, blo: int = 0, bhi: int | None = None
    ) -> difflib.Match:
        pause_if_due()
        self._left -= self._looks[-1 if ahi is None else ahi] - self._looks[alo]
        if self._left < 0:
            raise _TooMuchWork
        return super().find_longest_match(alo, ahi, blo, bhi)


def compare(old: str, new: str) -> list[Row] | None:
    """The changed lines with those around them, at most MAX_ROWS; empty for equal texts, None when they are too long, or have too
    many changes between equal lines."""
    before, after = old.splitlines(), new.splitlines()
    if len(before) + len(after) > MAX_LINES:
        return None
    try:
        groups = list(_Matcher(before, after).get_grouped_opcodes(_CONTEXT))
    except _TooMuchWork:
        return None
    rows: list[Row] = []
    for group in groups:
        if rows:
            rows.append(Row(None, None, "", ""))
        for tag, begin, end, new_begin, new_end in group:
            if tag == "equal":
                pairs = zip(range(begin, end), range(new_begin, new_end), strict=True)
                rows += [Row(number + 1, other + 1, "", before[number]) for number, other in pairs]
            else:
                rows += [Row(number + 1, None, "-", before[number]) for number in range(begin, end)]
                rows += [Row(None, number + 1, "+", after[number]) for number in range(new_begin, new_end)]
    return rows[:MAX_ROWS]
