"""`signalbox run failures`: failed runs, grouped by target and error."""

from __future__ import annotations

from dataclasses import asdict

import click

from app.cli.base import account_option, command, context, get_account, read_time_option, terminal_width
from app.cli.lists import json_line
from app.cli.program import with_remedies
from app.cli.terminal_text import counted, row
from app.core.ids import utc_text
from app.db.failures import FailureGroup
from app.db.inspection import NOTHING
from app.services import failures as service

_WIDTHS = (27, 27, 9, 12, 48, 16, 24)


@click.command("failures")
@click.option("--workflow", metavar="NAME", help="Only runs of this workflow.")
@click.option("--since", metavar="WHEN", default="7d", show_default=True, help="Only runs that failed since then.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
@account_option
@command
def failures(workflow: str | None, since: str, as_json: bool, account: str | None) -> None:
    """List what failed, grouped by target and error, the latest first. Columns: first and last failure, runs, subjects, target,
    class of error, workflows, latest error.

    `signalbox run list|retry --failed --since WHEN --target TARGET --error-class CLASS` chooses the runs of a line; `none` is a
    target or a class, too.
    """
    wanted_since = read_time_option("--since", since)
    assert wanted_since is not None
    found = service.find_failures(context(), get_account(account).id, wanted_since, workflow)
    for group in found.groups:
        click.echo(json_line(asdict(group)) if as_json else row(_cells(group), _WIDTHS, terminal_width()))
    if not found.is_complete:
        click.echo(
            f"These are the latest: at most {service.MAX_GROUPS} groups of {service.MAX_SCANNED:,} failed runs",
            err=True,
        )


def _cells(group: FailureGroup) -> tuple[object, ...]:
    return (
        utc_text(group.first_at),
        utc_text(group.last_at),
        counted(group.runs, "run"),
        counted(group.subjects, "subject"),
        group.target or NOTHING,
        group.error_class or NOTHING,
        ", ".join(group.workflows),
        with_remedies(group.error or ""),
    )
