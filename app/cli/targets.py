"""`flask target …`: list and enable targets that were disabled because they responded with 410 Gone."""

from __future__ import annotations

import click

from app.cli.base import account_option, command, context, get_account
from app.services import integrations

group = click.Group("target", help="Targets of http steps, disabled after a response of 410 Gone.")


@group.command("list")
@account_option
@command
def list_(account: str | None) -> None:
    """List disabled targets, the latest first: since when, the URL without its query, the reason, the run."""
    for one in integrations.list_disabled_targets(context(), get_account(account).id):
        click.echo(f"{one.disabled_at:%Y-%m-%d %H:%M}Z\t{one.target}\t{one.reason}\trun {one.run_id}")


@group.command("enable")
@click.argument("target")
@account_option
@command
def enable(target: str, account: str | None) -> None:
    """Enable TARGET (as `flask target list` shows it) again."""
    found = get_account(account)
    integrations.enable_target(context(), found.id, target)
    click.echo(
        f"{found.slug}: {target} is enabled; workers notice within seconds, `flask run retry` retries failed runs"
    )
