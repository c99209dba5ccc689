"""`signalbox db …`: the roles of the database."""

from __future__ import annotations

from typing import TextIO

import click

from app.cli.base import command, context, get_account
from app.core.errors import MissingRight
from app.services import roles

group = click.Group("db", help="Roles of the database, for processes and people.")


@group.command("roles")
@click.option(
    "--account", "accounts", multiple=True, help="Slug or id: also a role that sees only its rows. Repeatable."
)
@click.option("--prefix", default=roles.PREFIX, show_default=True, help="How the names of the roles begin.")
@click.option("--dry-run", is_flag=True, help="Only print the SQL, for psql.")
@command
def roles_(accounts: tuple[str, ...], prefix: str, dry_run: bool) -> None:
    """Make the roles of the database, and grant them what they need.

    signalbox_processes is for web processes, workers and commands: no DDL. signalbox_read is for people: the tables without
    secrets, and the views of the schema ops. With --account, signalbox_account_ID sees only the rows of that account. Run it as
    the owner of the tables with CREATEROLE or as a superuser, and again after each upgrade. It sets no passwords.
    """
    account_ids = [get_account(name).id for name in accounts]
    changes = roles.plan_roles(context(), prefix, account_ids)
    if dry_run:
        click.echo("SET lock_timeout = '2s'; SET client_min_messages = warning;")
        for change in changes:
            click.echo(f"-- {change.summary}")
            for statement in change.statements:
                click.echo(f"{statement};")
        return
    try:
        for change in roles.make_roles(context(), prefix, changes):
            click.echo(change.summary)
    except MissingRight as exc:
        raise click.ClickException(
            f"{exc}: run it as the owner of the tables with CREATEROLE, or give the output of `signalbox db roles --dry-run` "
            "to psql as a superuser"
        ) from None


@group.command("password")
@click.argument("role")
@click.argument("file", type=click.File("r"), default="-")
@command
def password(role: str, file: TextIO) -> None:
    """Set the password of ROLE to the first line of FILE.

    Without FILE it is asked for on the terminal, or read from standard input. Only its hash is sent to the server.
    """
    if file.name == "<stdin>" and file.isatty():
        text = click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
    else:
        text = file.readline().rstrip("\r\n")
    if not text:
        raise click.ClickException("the password is empty")
    roles.set_password(context(), role, text)
    click.echo(f"{role}: the password is set")
