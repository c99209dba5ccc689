"""Text for terminals: control characters escaped, times read, columns aligned and cut."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

import msgspec
from wcwidth import clip, ljust, width

from app.core.durations import format_duration, read_duration
from app.core.printable import JOINERS

# Python calls them not printable.
_HARMLESS = JOINERS | {"\u00a0"}
_MIN_REST = 16
# Characters of a body that are shown.
_MAX_BODY = 20_000
_GAP = "  "

# The widths of a list's first columns on a terminal; the remaining cells take the rest of the line.
Widths = Sequence[int]


def visible(value: object) -> str:
    """`value` on one line, with characters escaped that could control a terminal or reverse the text."""
    text = str(value)
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char in _HARMLESS else repr(char)[1:-1] for char in text)


def visible_json(text: str) -> str:
    """JSON text with the same meaning, with characters escaped that could control a terminal."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char in _HARMLESS else _json_escape(char) for char in text)


def _json_escape(char: str) -> str:
    units = char.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[index]:02x}{units[index + 1]:02x}" for index in range(0, len(units), 2))


def cut(text: str, columns: int) -> str:
    """`text` in at most `columns` columns of a terminal, with an ellipsis for what is cut off."""
    return text if width(text) <= columns else clip(text, 0, columns - 1).rstrip() + "…"


def row(cells: Sequence[object], widths: Widths, terminal: int | None) -> str:
    """One line of a list: aligned and cut to `terminal` columns; whole and separated by tabs when that is None."""
    if terminal is None:
        return "\t".join(map(visible, cells))
    # A cell may be half a MiB; combining characters take no column.
    shown = [visible(str(cell)[: 4 * terminal]) for cell in cells]
    line = ""
    for cell, columns in zip(shown, widths, strict=False):
        line += ljust(cut(cell, columns), columns) + _GAP
    rest = _GAP.join(shown[len(widths) :])
    return (line + cut(rest, max(_MIN_REST, terminal - width(line)))).rstrip()


def field_line(name: str, value: object) -> str:
    """A line of a report: a name and what it has."""
    return f"{name:<11}{visible(value)}"


def body_lines(body: bytes, whole: str) -> Iterator[str]:
    """The lines of a body, JSON indented; of a long one the beginning, and that `whole`, a command, writes all of it."""
    try:
        text = msgspec.json.format(body, indent=2).decode()
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        text = body.decode(errors="backslashreplace")
    yield from (visible(line) for line in text[:_MAX_BODY].split("\n"))
    if len(text) > _MAX_BODY:
        yield f"… ({whole} writes all of it)"


def counted(count: int, noun: str) -> str:
    """A number and its noun: `1 run`, `1,200 runs`, `2 deliveries`."""
    plural = f"{noun[:-1]}ies" if noun.endswith("ry") else f"{noun}s"
    return f"{count:,} {noun if count == 1 else plural}"


def format_relative(at: datetime, now: datetime) -> str:
    """A time relative to now: `in 2h5m` or `3m ago`."""
    return f"in {format_duration(at - now)}" if at > now else f"{format_duration(now - at)} ago"


def parse_time(text: str, now: datetime, *, is_ahead: bool = False) -> datetime:
    """Read a duration back from now (`1h`; with `is_ahead`: from now on), or an ISO date or time (in UTC unless it has an
    offset). Raises ValueError."""
    try:
        duration = read_duration(text)
        return now + duration if is_ahead else now - duration
    except ValueError:
        pass
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        direction = "from now on" if is_ahead else "back from now"
        raise ValueError(
            f"{text!r} is neither a duration {direction} such as 90s, 1h or 2d, nor a time such as 2026-11-22T10:00Z"
        ) from None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)
