"""`flask target …`: the URLs that answered 410 and are called no more, and how to call them again."""

from __future__ import annotations

import click

from app.cli.base import command, context, the_account
from app.services import integrations

group = click.Group("target", help="Targets of http steps that said to be gone and are disabled.")
_account = click.option("--account", help="Slug or id; may be left out while there is only one account.")


@group.command("list")
@_account
@command
def list_(account: str | None) -> None:
    """The disabled targets of an account, the latest first: since when, the URL without its query, why, and the run."""
    for one in integrations.list_disabled_targets(context(), the_account(account).id):
        click.echo(f"{one.disabled_at:%Y-%m-%d %H:%M}Z\t{one.target}\t{one.reason}\trun {one.run_id}")


@group.command("enable")
@click.argument("target")
@_account
@command
def enable(target: str, account: str | None) -> None:
    """Let TARGET (as `flask target list` shows it) be called again."""
    found = the_account(account)
    integrations.enable_target(context(), found.id, target)
    click.echo(f"{found.slug}: {target} is called again within seconds; `flask run retry` repeats what failed")
