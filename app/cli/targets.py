"""`signalbox target …`: targets that are paused because they keep failing, or disabled because they answered 410 Gone."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial

import click

from app.cli.base import account_option, command, context, get_account, parse_option
from app.cli.lists import Page, json_line, list_options, print_list, read_cursor
from app.cli.program import paste
from app.cli.terminal_text import counted
from app.core.ids import utc_text
from app.db.circuits import TargetRow
from app.services import integrations, targets

group = click.Group("target", help="Targets that keep failing and are paused, or that are disabled by 410 Gone.")


@group.command("list")
@list_options
@account_option
@command
def list_(account: str | None, page: Page) -> None:
    """List targets that are failing or disabled.

    The latest first. Columns: since when, failing or disabled, the target, and why. A failing target is paused, and called again
    from time to time until it works. A disabled one is not called until it is enabled.
    """
    account_id = get_account(account).id
    print_list(
        page,
        lambda after, limit: targets.list_targets(
            context(),
            account_id,
            after=parse_option("--after", partial(read_cursor, parse=targets.read_cursor), after),
            limit=limit,
        ),
        cursor=targets.write_cursor,
        cells=lambda one: (utc_text(one.since), one.state, one.target, *_reason(one)),
        widths=(27, 8, 40),
        as_json=lambda one: json_line(asdict(one)),
    )


def _reason(one: TargetRow) -> tuple[str, str]:
    if one.retry_at is None:
        return str(one.reason), f"run {one.run_id}"
    held = f"{counted(one.runs_held or 0, 'run')} waiting"
    return f"failed {one.failures:,} times in a row, next call {utc_text(one.retry_at)}", held


@group.command("enable")
@click.argument("target")
@account_option
@command
def enable(target: str, account: str | None) -> None:
    """Enable the disabled TARGET again. `signalbox target list` shows it."""
    found = get_account(account)
    integrations.enable_target(context(), found.id, target)
    click.echo(
        f"{found.slug}: {target} is enabled; workers notice within seconds, "
        f"{paste('run', 'retry', '--failed', '--since', '1d')} retries failed runs"
    )
