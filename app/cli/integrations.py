"""`signalbox integration …`: the services that an account sends with."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

import click

from app.actions.integration_kinds import KINDS, Kind
from app.cli.base import account_option, command, context, get_account
from app.cli.lists import Page, json_line, list_options, print_list
from app.core.ids import utc_text
from app.services import integrations
from app.services.integrations import Integration

group = click.Group("integration", help="Integrations: the WhatsApp, Twilio, SendGrid and SMTP accounts to send with.")


@group.command("set")
@click.argument("kind", type=click.Choice(list(KINDS)))
@click.argument("values", nargs=-1, metavar="NAME=VALUE...")
@click.option("--from-stdin", is_flag=True, help="Read NAME=VALUE from standard input, one per line.")
@account_option
@command
def set_(kind: str, values: tuple[str, ...], from_stdin: bool, account: str | None) -> None:
    """Set up integration KIND, or change its fields.

    KIND is whatsapp, twilio, sendgrid or smtp. NAME=@FILE reads the value from a file, NAME= removes the field. On a terminal,
    missing fields are prompted for. Type secrets there or use --from-stdin: the command line ends up in the shell's history.
    """
    found, chosen = get_account(account), integrations.find_kind(kind)
    given = _read(values, files=True)
    _warn(chosen, given, values)
    if from_stdin:
        given |= _read(sys.stdin.read().splitlines(), files=False)
    elif sys.stdin.isatty():
        given |= _prompt(chosen, given, integrations.find_field_names(context(), found.id, chosen))
    integrations.set_integration(context(), found.id, chosen, given)
    click.echo(f"{found.slug}: {chosen.name} is set up; workers notice within seconds")


def _read(lines: Iterable[str], *, files: bool) -> dict[str, str]:
    """Lines of NAME=VALUE as a dict."""
    given = {}
    for line in filter(None, (line.strip() for line in lines)):
        name, sign, value = line.partition("=")
        if not sign:
            raise click.UsageError("expected NAME=VALUE, found a part without =")
        given[name.strip()] = _file(value[1:]) if files and value.startswith("@") else value.strip()
    return given


def _file(name: str) -> str:
    try:
        return Path(name).read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as exc:
        raise click.ClickException(f"{name} cannot be read: {getattr(exc, 'strerror', None) or 'not UTF-8'}") from None


def _warn(kind: Kind, given: dict[str, str], values: tuple[str, ...]) -> None:
    shown = {value.partition("=")[0].strip() for value in values if not value.partition("=")[2].startswith("@")}
    for name in shown:
        field = kind.field(name)
        if field is not None and field.secret and given[name]:
            click.echo(f"{name} is a secret and is now in the shell's history; use --from-stdin instead", err=True)


def _prompt(kind: Kind, given: dict[str, str], known: frozenset[str]) -> dict[str, str]:
    """Prompt for missing required fields, and for all fields when none is given or stored."""
    prompted = {}
    for field in kind.fields:
        wanted = field.required or (not given and not known)
        if wanted and field.name not in {*given, *known}:
            text = f"{field.name} ({field.description})" + ("" if field.required else ", optional")
            default = None if field.required else ""
            prompted[field.name] = click.prompt(
                text, hide_input=field.secret, default=default, show_default=False, err=True
            )
    return prompted


@group.command("list")
@list_options
@account_option
@command
def list_(account: str | None, page: Page) -> None:
    """List the integrations of an account. Secrets are masked. Columns: kind, created, changed, fields."""
    found = integrations.list_integrations(context(), get_account(account).id)
    print_list(
        page,
        lambda after, limit: [one for one in found if after is None or one.kind > after][:limit],
        cursor=lambda one: one.kind,
        cells=lambda one: (
            one.kind, f"set {utc_text(one.created_at)}", f"changed {utc_text(one.updated_at)}", _fields(one)
        ),
        widths=(10, 31, 35),
        as_json=lambda one: json_line(asdict(one)),
    )  # fmt: skip


def _fields(one: Integration) -> str:
    if one.fields is None:
        return "cannot be decrypted with ENCRYPTION_KEY"
    return " ".join(f"{name}={value}" for name, value in sorted(one.fields.items()))


@group.command("remove")
@click.argument("kind", type=click.Choice(list(KINDS)))
@account_option
@command
def remove(kind: str, account: str | None) -> None:
    """Delete the integration KIND with its credentials. Steps that need it fail from now on."""
    found, chosen = get_account(account), integrations.find_kind(kind)
    integrations.remove_integration(context(), found.id, chosen)
    click.echo(f"{found.slug}: {chosen.name} is removed")


@group.command("rotate")
@command
def rotate() -> None:
    """Encrypt all secrets with the first key of ENCRYPTION_KEY. Then the other keys can be removed."""
    rotated = integrations.rotate_secrets(context())
    click.echo(f"{rotated.count} secrets are encrypted with the first key")
    for name in rotated.undecryptable:
        click.echo(f"{name} cannot be decrypted with any key of ENCRYPTION_KEY and is unchanged", err=True)
    if rotated.undecryptable:
        sys.exit(1)
