"""Lines for people: text that is safe to print, moments and durations in words, cells that fit a terminal. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from wcwidth import clip, ljust, width

from app.core.durations import read_duration, write_duration

# Invisible, but part of how words and emoji are written.
_HARMLESS = frozenset("\u00a0\u200c\u200d")
_SHORTEST_REST = 16
_GAP = "  "

# A listing's columns: how wide each is on a terminal; what comes after them takes the rest of the line.
Widths = Sequence[int]


def visible(value: object) -> str:
    """`value` as one line in which nothing can move the cursor or turn the writing around: what would is spelled out."""
    return "".join(one if one.isprintable() or one in _HARMLESS else _spelled(one) for one in str(value))


def _spelled(letter: str) -> str:
    return repr(letter)[1:-1]


def visible_json(text: str) -> str:
    """JSON text that means the same, with every letter escaped that a terminal could obey."""
    return "".join(one if one.isprintable() or one in _HARMLESS else _escaped(one) for one in text)


def _escaped(letter: str) -> str:
    units = letter.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[index]:02x}{units[index + 1]:02x}" for index in range(0, len(units), 2))


def cut(text: str, columns: int) -> str:
    """`text` in at most `columns` columns of a terminal, with an ellipsis for what is cut off."""
    return text if width(text) <= columns else clip(text, 0, columns - 1).rstrip() + "…"


def row(cells: Sequence[object], widths: Widths, terminal: int | None) -> str:
    """One line of a listing: on a terminal of so many columns aligned and cut, elsewhere whole, with tabs between."""
    shown = [visible(cell) for cell in cells]
    if terminal is None:
        return "\t".join(shown)
    line = ""
    for cell, columns in zip(shown, widths, strict=False):
        line += ljust(cut(cell, columns), columns) + _GAP
    rest = _GAP.join(shown[len(widths) :])
    return (line + cut(rest, max(_SHORTEST_REST, terminal - width(line)))).rstrip()


def moment(at: datetime | None) -> str:
    """A moment to the second, in UTC; `-` for none."""
    return "-" if at is None else f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S}Z"


def exact_moment(at: datetime) -> str:
    """A moment to the millisecond, in UTC."""
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S.%f}"[:-3] + "Z"


def span(duration: timedelta) -> str:
    """A duration in its two largest units, such as `2h5m`; below ten seconds with fractions."""
    seconds = duration.total_seconds()
    if seconds < 1:
        return f"{max(0, round(seconds * 1000))} ms"
    if seconds < 10:
        return f"{seconds:.1f} s"
    return "".join(re.findall(r"\d+[a-z]", write_duration(seconds))[:2])


def distance(at: datetime, now: datetime) -> str:
    """How far away a moment is: `in 2h5m`, or `3m ago`."""
    return f"in {span(at - now)}" if at > now else f"{span(now - at)} ago"


def read_moment(text: str, now: datetime) -> datetime:
    """A moment as people give it: a duration back from now (`1h`), or an ISO date or time, in UTC unless it says else.

    Raises ValueError with what would be right.
    """
    try:
        return now - read_duration(text)
    except ValueError:
        pass
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(
            f"{text!r} is neither a duration back from now such as 90s, 1h or 2d, nor a time such as 2026-11-22T10:00Z"
        ) from None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)
