"""What all lists share: pages of bounded size, one JSON object per line, and how to get the next page."""

from __future__ import annotations

import functools
import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, TypeVar
from uuid import UUID

import click

from app.cli.base import context, parse_option, terminal_width
from app.cli.terminal_text import Widths, row, visible_json
from app.core.ids import utc_text
from app.services.context import AppContext

R = TypeVar("R")

# Rows in memory at a time: an event may be half a MiB.
_BATCH = 100
DEFAULT_LIMIT = 100


@dataclass(frozen=True, slots=True)
class Page:
    """The part of a list that is wanted: at most `limit` rows after the cursor `after` (None: from the beginning)."""

    limit: int
    after: str | None
    as_json: bool


def list_options(function: Callable[..., None]) -> Callable[..., None]:
    """The options of a list; `function` gets them as `page`."""

    @click.option(
        "--limit", type=click.IntRange(1), default=DEFAULT_LIMIT, show_default=True, help="Maximum number of lines."
    )
    @click.option(
        "--after", metavar="CURSOR", help="Continue after the last line of the previous page, which prints the cursor."
    )
    @click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
    @functools.wraps(function)
    def run(*args: Any, limit: int, after: str | None, as_json: bool, **options: Any) -> None:
        function(*args, page=Page(limit, after, as_json), **options)

    return run


def print_list(
    page: Page,
    find: Callable[[str | None, int], Sequence[R]],
    *,
    cursor: Callable[[R], object],
    cells: Callable[[R], Sequence[object]],
    widths: Widths,
    as_json: Callable[[R], str],
    empty: str = "",
) -> None:
    """Print a page of a list: lines of `cells`, or JSON.

    `find(after, count)` returns at most `count` rows after a cursor; `cursor` is that of a row. If there are more rows than
    wanted, a line on standard error says how to continue; `empty` says there that the list has no rows at all.
    """
    after, left, width = page.after, page.limit, terminal_width()
    while True:
        count = min(left, _BATCH)
        rows = find(after, count + 1)
        if empty and not rows and after is None:
            click.echo(empty, err=True)
        for one in rows[:count]:
            click.echo(as_json(one) if page.as_json else row(cells(one), widths, width))
        if len(rows) <= count:
            return
        after, left = str(cursor(rows[count - 1])), left - count
        if not left:
            click.echo(f"There are more; continue with --after {shlex.quote(after)}", err=True)
            return


def filtered(
    find: Callable[[AppContext, int, Any, int], Sequence[R]], account_id: int, wanted: Any
) -> Callable[[str | None, int], Sequence[R]]:
    """The `find` of print_list for what passes a filter, in the order of its ids; the filter has the cursor as `before`."""
    return lambda after, limit: find(
        context(), account_id, replace(wanted, before=parse_option("--after", read_id, after)), limit
    )


json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


def read_id(text: str) -> UUID:
    """The id in a cursor of events or runs. Raises ValueError."""
    return read_cursor(text, UUID)


def read_cursor(text: str, parse: Callable[[str], R]) -> R:
    """What `parse` makes of a cursor. Raises ValueError for one that the list has not printed."""
    try:
        return parse(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a cursor that this list has printed") from None


def json_line(fields: Mapping[str, Any]) -> str:
    """An object as one line of JSON; times are UTC with microseconds."""
    return visible_json(json.dumps(fields, ensure_ascii=False, default=_json_value))


def _json_value(value: object) -> str:
    return utc_text(value) if isinstance(value, datetime) else str(value)
