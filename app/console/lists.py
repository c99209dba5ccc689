"""What pages with a list have in common: filters in the URL, a cursor, and the limit of a page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from typing import Generic, TypeVar
from uuid import UUID

from flask import abort, flash, request

from app.console.access import current_account
from app.console.jinja_filters import shorten
from app.core.exact_json import replace_unstorable
from app.core.time_zones import find_zone

Row = TypeVar("Row")
Cursor = TypeVar("Cursor")
PAGE = 50
# Characters of a filter.
_MAX_TEXT = 255
# Of what failed, how many the next page shows, and characters of one: they are in a cookie, which holds 4,096 bytes.
_MAX_FAILURES, _MAX_FAILURE = 5, 200


@dataclass(frozen=True, slots=True)
class Page(Generic[Row]):
    """The rows of a page, and the cursor of the next one (None: this is the last). `filters`: those of the URL. `searched`: how
    many rows a search has looked at, at most (None: it is a list)."""

    rows: Sequence[Row]
    next: str | None
    filters: dict[str, str]
    searched: int | None = None

    @property
    def is_first(self) -> bool:
        """Whether it begins with the newest row: only this one changes."""
        return "after" not in request.args


def read_page(
    find: Callable[[UUID | None, int], Sequence[Row]], cursor: Callable[[Row], UUID], filters: dict[str, str]
) -> Page[Row]:
    """A page of rows, newest first: those after the cursor `after` of the URL."""
    found = find(read_cursor(UUID), PAGE + 1)
    more = str(cursor(found[PAGE - 1])) if len(found) > PAGE else None
    return Page(found[:PAGE], more, filters)


def read_page_by_name(
    find: Callable[[str, int], Sequence[Row]], name: Callable[[Row], str], filters: dict[str, str]
) -> Page[Row]:
    """A page of rows by name: those after the name `after` of the URL."""
    found = find(request.args.get("after", "")[:_MAX_TEXT], PAGE + 1)
    return Page(found[:PAGE], name(found[PAGE - 1]) if len(found) > PAGE else None, filters)


def read_cursor(parse: Callable[[str], Cursor]) -> Cursor | None:
    """The cursor of the URL as `parse` reads it; None on the first page."""
    text = request.args.get("after")
    if text is None:
        return None
    try:
        return parse(text)
    except ValueError:
        abort(404)


def read_filters(*names: str) -> dict[str, str]:
    """The filters of the URL that have a value."""
    return {
        name: text for name in names if (text := replace_unstorable(request.args.get(name, "")).strip()[:_MAX_TEXT])
    }


def read_time(filters: dict[str, str], name: str) -> datetime | None:
    """A filter of a `datetime-local` field, in the account's time zone, as UTC; None when it is missing or unreadable."""
    try:
        return datetime.fromisoformat(filters.get(name, "")).replace(tzinfo=account_zone()).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def write_time(at: datetime) -> str:
    """A point in time as `read_time` reads it, to the minute."""
    return at.astimezone(account_zone()).strftime("%Y-%m-%dT%H:%M")


def account_zone() -> tzinfo:
    """The time zone of the account of the page; UTC where this machine does not know it."""
    try:
        return find_zone(current_account().time_zone)
    except ValueError:
        return UTC


def flash_failures(noun: str, failures: Sequence[tuple[UUID, str]]) -> None:
    """Let the next page say what failed, and why: the first of them, by their ids."""
    for failed, reason in failures[:_MAX_FAILURES]:
        flash(shorten(f"{noun} {failed}: {reason}", _MAX_FAILURE), "warning")
