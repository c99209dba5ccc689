"""`signalbox secret …`: values that sources and workflows read by their names."""

from __future__ import annotations

import sys
from dataclasses import asdict

import click

from app.cli.base import account_option, command, context, get_account
from app.cli.lists import Page, json_line, list_options, print_list
from app.core.errors import Problem, ProblemType
from app.core.ids import utc_text
from app.services import secrets

group = click.Group("secret", help="Secrets: values that sources and workflows read as {{ secrets.NAME }}.")


@group.command("set")
@click.argument("name")
@account_option
@command
def set_(name: str, account: str | None) -> None:
    """Set the secret NAME to the text from standard input.

    A line break at the end is removed.

    NAME has capital letters, digits and _, such as SHOPIFY. On a terminal the value is prompted for and not shown. No command
    shows it again. A new value replaces the old one for workflows and sources within seconds.
    """
    found = get_account(account)
    is_new = secrets.set_secret(context(), found.id, name, _read_value(name))
    click.echo(f"{found.slug}: {name} is {'set' if is_new else 'changed'}; all processes use it within seconds")


def _read_value(name: str) -> str:
    if sys.stdin.isatty():
        value: str = click.prompt(name, hide_input=True, err=True)
        return value
    raw = sys.stdin.buffer.read(2 * secrets.MAX_BYTES)
    if len(raw) == 2 * secrets.MAX_BYTES:
        raise click.ClickException(f"the value is too long; {secrets.MAX_BYTES:,} bytes are allowed")
    try:
        return raw.decode("utf-8-sig").removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise click.ClickException("the value is not UTF-8") from None


@group.command("list")
@list_options
@account_option
@command
def list_(account: str | None, page: Page) -> None:
    """List the names of an account's secrets. Columns: name, first set, last set, what reads it."""
    account_id = get_account(account).id
    print_list(
        page,
        lambda after, limit: secrets.list_secrets(context(), account_id, after=after or "", limit=limit),
        cursor=lambda one: one.name,
        cells=lambda one: (
            one.name,
            f"set {utc_text(one.created_at)}",
            f"changed {utc_text(one.updated_at)}",
            ", ".join(one.used_by) or "not used",
        ),
        widths=(20, 31, 35),
        as_json=lambda one: json_line(asdict(one)),
    )


@group.command("remove")
@click.argument("name")
@click.option("--force", is_flag=True, help="Remove it even if it is in use.")
@account_option
@command
def remove(name: str, force: bool, account: str | None) -> None:
    """Delete the secret NAME, unless a source or workflow reads it.

    With --force it is deleted even if it is in use. Steps that read it then fail; sources that need it answer 503.
    """
    found = get_account(account)
    try:
        users = secrets.remove_secret(context(), found.id, name, force=force)
    except Problem as exc:
        if exc.type is not ProblemType.CONFLICT:
            raise
        raise click.ClickException(f"{exc}; --force removes it nevertheless") from None
    click.echo(f"{found.slug}: {name} is removed" + (f"; it was used by {', '.join(users)}" if users else ""))
