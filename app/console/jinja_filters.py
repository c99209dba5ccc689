"""Filters of the templates."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec
from flask import g
from markupsafe import Markup, escape

from app.core.api_keys import shown_prefix
from app.core.durations import format_duration
from app.core.ids import utc_text
from app.core.printable import JOINERS
from app.db.shared_sql import MAX_COUNTED
from app.ingest.sources.trial import event_members

_INDEX = re.compile(r"\[(\d+)\]")


def show_time(at: datetime | None) -> Markup:
    """A `<time>` in UTC, which the script shows in the reader's zone."""
    if at is None:
        return Markup("–")
    exact = utc_text(at)
    return Markup('<time datetime="{}" title="{}">{}</time>').format(exact, exact, at.strftime("%Y-%m-%d %H:%M:%S UTC"))


_TIMES = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z)")


def show_times(text: str) -> Markup:
    """A text whose times, as `utc_text` writes them, become `<time>` elements."""
    parts = _TIMES.split(text)
    return Markup("").join(show_time(_read_time(part)) if number % 2 else part for number, part in enumerate(parts))


def _read_time(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None


# Characters of a text in a list.
_MAX_LISTED = 80
# The combining class of signs that join two consonants.
_VIRAMA = 9


def shorten(text: str, length: int = _MAX_LISTED) -> str:
    """A text as lists show it: without its end when it is long. The page to which the list leads has all of it. It is not cut
    within what is written as one letter or emoji."""
    if len(text) <= length:
        return text
    end = length - 1
    while end > 1 and _is_joined(text[end - 1], text[end]):
        end -= 1
    return text[:end] + "…"


def _is_joined(before: str, letter: str) -> bool:
    """Whether a character belongs to the one before: a vowel sign or another mark, and what a joiner or a virama joins."""
    is_mark = unicodedata.category(letter)[0] == "M" or letter in JOINERS
    return is_mark or before in JOINERS or unicodedata.combining(before) == _VIRAMA


def isolate(text: str) -> str:
    """A name for a title, where no element can isolate it: right-to-left letters do not reorder what is around them."""
    return f"\u2068{text}\u2069"


def show_count(number: int, noun: str) -> str:
    """`1 event`, `2 events`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def show_number(number: int) -> str:
    """`12,345`."""
    return f"{number:,}"


def show_seconds(seconds: float | None) -> str:
    """A short duration: `850 ms`, `4.2 s`, `12 minutes`."""
    if seconds is None:
        return "–"
    if seconds < 1:
        return f"{round(seconds * 1_000)} ms"
    return f"{seconds:.1f} s" if seconds < 100 else show_count(round(seconds / 60), "minute")


def show_total(counts: Sequence[int]) -> str:
    """The sum of counts that stop at MAX_COUNTED: with a `+` when one of them did."""
    return f"{sum(counts):,}{'+' if max(counts, default=0) >= MAX_COUNTED else ''}"


def show_step(path: str) -> str:
    """The path of a step as people count: `steps[1].then[0]` is `step 2, then 1`, and `steps[1].par[0][2]` is
    `step 2, block 1, 3`."""
    words = path.replace("steps", "step").replace("par[", "block[").replace("][", "], [").replace(".", ", ")
    return _INDEX.sub(lambda index: f" {int(index[1]) + 1}", words).replace("  ", " ")


# Characters of a JSON text that a page shows, and bytes of HTML of all of them together.
MAX_JSON, MAX_JSON_OF_PAGE = 20_000, 60_000


def show_json(value: Any) -> str:
    """A JSON text, or a value, indented; numbers stay as they were written. Cut at MAX_JSON characters, or where the page has no
    room left."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    try:
        shown: str = msgspec.json.format(text, indent=2)
    except (msgspec.DecodeError, RecursionError):
        shown = text
    left = g.get("json_left", MAX_JSON_OF_PAGE)
    cut = shown[:MAX_JSON]
    size = len(escape(cut).encode())
    limit = len(cut) if size <= left else len(cut) * left // size
    g.json_left = max(0, left - size)
    return shown if len(shown) <= limit else shown[:limit] + f"\n… ({len(shown):,} characters in all)"


def show_duration(duration: timedelta) -> str:
    """`120 ms`, `4.2 s`, `2 h 5 min`."""
    text = format_duration(duration)
    for unit, shown in (("ms", " ms"), ("m", " min"), ("s", " s"), ("h", " h"), ("d", " d"), ("w", " w")):
        text = re.sub(rf"(?<=\d){unit}(?=\d|$)", shown + " ", text)
    return text.strip()


FILTERS: Mapping[str, Callable[..., Any]] = {
    "time": show_time,
    "times": show_times,
    "short": shorten,
    "isolate": isolate,
    "number": show_number,
    "seconds": show_seconds,
    "count": show_count,
    "json": show_json,
    "members": event_members,
    "duration": show_duration,
    "total": show_total,
    "step": show_step,
    "key": shown_prefix,
}
