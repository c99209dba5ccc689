"""`signalbox account retention`: how long an account keeps what is stored."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import click

from app.cli.base import command, confirm, context, get_account, yes_option
from app.cli.lists import json_line
from app.core.durations import RETENTION
from app.db.retention import KINDS
from app.services import retention as service

# What accounts cannot change: senders rely on it.
_FIXED = (("idempotency-keys", "keys that were used"), ("messages", "messages of the stream"))


def _keep_options(function: Callable[..., None]) -> Callable[..., None]:
    """An option for each kind of rows."""
    for kind in reversed(KINDS):
        function = click.option(f"--{kind.name}", metavar="DURATION", help=f"How long to keep {kind.rows}.")(function)
    return function


@click.command("retention")
@click.argument("account")
@_keep_options
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
@yes_option
@command
def retention(account: str, as_json: bool, yes: bool, **durations: str | None) -> None:
    """Show or change how long ACCOUNT (slug or id) keeps rows.

    A DURATION such as 90d is at least a day (audit: 30 days). `forever` deletes nothing; `default` is the setting of a new
    account. Workers delete older rows, except those that a running run needs.
    """
    found = get_account(account)
    given = {kind: text for kind, text in durations.items() if text is not None}
    change = service.read_change(given)
    for kind, error in change.errors.items():
        raise click.BadParameter(error, param_hint=f"--{kind}")
    if given:
        shorter = service.find_shortened(context(), found.id, change.keep, change.reset)
        if shorter and not yes:
            confirm(f"Delete what {found.slug} has, now and from now on: {', '.join(shorter)}?")
        service.change_retention(context(), found.id, found.slug, change.keep, change.reset)
    for one in service.find_retention(context(), found.id):
        _print(one.kind.name, one.keep, "default" if one.is_default else "account", one.kind.rows, as_json)
    for name, rows in _FIXED:
        _print(name, RETENTION, "fixed", rows, as_json)


def _print(name: str, keep: timedelta | None, set_by: str, rows: str, as_json: bool) -> None:
    if as_json:
        click.echo(json_line({"kind": name, "keep": service.write_keep(keep), "set_by": set_by, "rows": rows}))
    else:
        click.echo(f"{name:<17} {service.write_keep(keep):<9} {set_by:<8} {rows}")
