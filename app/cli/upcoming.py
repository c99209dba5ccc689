"""`signalbox run upcoming`: runs that will continue, and workflows that will start without a further event."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial

import click

from app.cli.base import account_option, command, context, get_account, parse_option
from app.cli.lists import Page, json_line, list_options, print_list, read_cursor
from app.cli.terminal_text import parse_time
from app.core.ids import utc_text
from app.db.upcoming import Upcoming
from app.services import upcoming as upcoming_rows

_END = datetime.max.replace(tzinfo=UTC)


@click.command("upcoming")
@click.option("--from", "since", metavar="WHEN", help="Such as 1d (from now) or 2026-11-30. Default: now.")
@click.option("--until", metavar="WHEN", help="Such as 2d (from now) or 2026-12-01. Default: no end.")
@list_options
@account_option
@command
def upcoming(since: str | None, until: str | None, account: str | None, page: Page) -> None:
    """List runs that will continue and workflows that will start, earliest first.

    Runs continue after a wait or at their next attempt. Workflows start at the end of a `none` in their pattern, unless the event
    arrives before. Columns: when, goes on or starts, workflow, subject, and the run.
    """
    now = context().clock()
    start, end = (
        parse_option(option, lambda value: parse_time(value, now, is_ahead=True), text)
        for option, text in (("--from", since), ("--until", until))
    )
    account_id = get_account(account).id
    print_list(
        page,
        lambda after, limit: upcoming_rows.find_upcoming(
            context(),
            account_id,
            (start or now, end or _END),
            parse_option("--after", partial(read_cursor, parse=upcoming_rows.read_cursor), after),
            limit,
        ),
        cursor=upcoming_rows.write_cursor,
        cells=lambda one: (utc_text(one.at), _what(one), one.workflow, one.subject, one.run_id or ""),
        widths=(27, 7, 22, 16),
        as_json=lambda one: json_line({"at": one.at, "what": _what(one), **asdict(one)}),
    )


def _what(one: Upcoming) -> str:
    return "starts" if one.run_id is None else "goes on"
