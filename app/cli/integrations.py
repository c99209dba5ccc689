"""`flask integration …`: set up what an account sends with; credentials go in encrypted and are never shown again."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

import click

from app.actions.integration_kinds import Kind
from app.cli.base import command, context, the_account
from app.services import integrations

group = click.Group("integration", help="Integrations: the WhatsApp, Twilio and SMTP accounts to send with.")
_account = click.option("--account", help="Slug or id; may be left out while there is only one account.")


@group.command("set")
@click.argument("kind")
@click.argument("values", nargs=-1, metavar="NAME=VALUE...")
@click.option("--from-stdin", is_flag=True, help="Read NAME=VALUE from standard input, one on each line.")
@_account
@command
def set_(kind: str, values: tuple[str, ...], from_stdin: bool, account: str | None) -> None:
    """Set up the integration KIND (whatsapp, twilio, sendgrid or smtp), or change the named fields of the one there is.

    NAME=@FILE takes the value from a file, NAME= takes the field away. On a terminal what is missing is asked for;
    secrets are better typed there, or read by --from-stdin, than written on a command line.
    """
    found, chosen = the_account(account), integrations.find_kind(kind)
    given = _read(values, files=True)
    _warn(chosen, given, values)
    if from_stdin:
        given |= _read(sys.stdin.read().splitlines(), files=False)
    elif sys.stdin.isatty():
        given |= _ask(chosen, given, integrations.find_field_names(context(), found.id, chosen))
    integrations.set_integration(context(), found.id, chosen, given)
    click.echo(f"{found.slug}: {chosen.name} is set up; workers use it within seconds")


def _read(lines: Iterable[str], *, files: bool) -> dict[str, str]:
    """NAME=VALUE as names with their values."""
    given = {}
    for line in filter(None, (line.strip() for line in lines)):
        name, sign, value = line.partition("=")
        if not sign:
            raise click.ClickException("expected NAME=VALUE; a part without = is none")
        given[name.strip()] = _file(value[1:]) if files and value.startswith("@") else value.strip()
    return given


def _file(name: str) -> str:
    try:
        return Path(name).read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as wrong:
        raise click.ClickException(
            f"{name} cannot be read: {getattr(wrong, 'strerror', None) or 'not UTF-8'}"
        ) from None


def _warn(kind: Kind, given: dict[str, str], values: tuple[str, ...]) -> None:
    shown = {value.partition("=")[0].strip() for value in values if not value.partition("=")[2].startswith("@")}
    for name in shown:
        field = kind.field(name)
        if field is not None and field.secret and given[name]:
            click.echo(
                f"{name} was on the command line, where the shell's history keeps it: better --from-stdin", err=True
            )


def _ask(kind: Kind, given: dict[str, str], known: frozenset[str]) -> dict[str, str]:
    """What is missing, typed by a person; without any field given, all of them are asked for."""
    answers = {}
    for field in kind.fields:
        wanted = field.required or (not given and not known)
        if wanted and field.name not in {*given, *known}:
            text = f"{field.name} ({field.description})" + ("" if field.required else ", optional")
            default = None if field.required else ""
            answers[field.name] = click.prompt(
                text, hide_input=field.secret, default=default, show_default=False, err=True
            )
    return answers


@group.command("list")
@_account
@command
def list_(account: str | None) -> None:
    """The integrations of an account; of their fields only what is no secret."""
    for one in integrations.list_integrations(context(), the_account(account).id):
        fields = "cannot be opened by ENCRYPTION_KEY"
        if one.fields is not None:
            fields = " ".join(f"{name}={value}" for name, value in sorted(one.fields.items()))
        click.echo(
            f"{one.kind}\tset {one.created_at:%Y-%m-%d %H:%M}Z\tchanged {one.updated_at:%Y-%m-%d %H:%M}Z\t{fields}"
        )


@group.command("remove")
@click.argument("kind")
@_account
@command
def remove(kind: str, account: str | None) -> None:
    """Forget the integration KIND with its credentials; steps that need it fail from now on."""
    found, chosen = the_account(account), integrations.find_kind(kind)
    integrations.remove_integration(context(), found.id, chosen)
    click.echo(f"{found.slug}: {chosen.name} is removed")


@group.command("rotate")
@command
def rotate() -> None:
    """Encrypt all secrets of all accounts anew, with the first key of ENCRYPTION_KEY; then the others can be dropped."""
    rotated = integrations.rotate_secrets(context())
    click.echo(f"{rotated.count} secrets are encrypted with the first key now")
    for name in rotated.undecryptable:
        click.echo(f"{name} cannot be opened by any key of ENCRYPTION_KEY and stays as it is", err=True)
    if rotated.undecryptable:
        sys.exit(1)
