"""`signalbox key …` and `signalbox client …`: API keys, and OAuth clients, which get access tokens for the CxEngage routes."""

from __future__ import annotations

import re

import click

from app.cli.base import command, context, get_account, parse_option
from app.cli.formatting import visible
from app.core.durations import read_duration
from app.core.models import EVENTS_WRITE, SCOPES
from app.services import api_keys

group = click.Group("key", help="API keys, shown once and stored as a hash.")
client_group = click.Group("client", help="OAuth clients. Secrets are shown once and stored as hashes.")


@group.command("create")
@click.argument("account")
@click.option("--name", default="", help="A name to recognize it by.")
@click.option("--scopes", default=EVENTS_WRITE, show_default=True, help="Comma-separated.")
@click.option("--expires-in", metavar="DURATION", help="Such as 90d; by default the key never expires.")
@command
def create(account: str, name: str, scopes: str, expires_in: str | None) -> None:
    """Create a key for ACCOUNT (slug or id). It is printed now and never again."""
    found, wanted = get_account(account), _scopes(scopes)
    token = api_keys.create_key(
        context(), found.id, name, wanted, parse_option("--expires-in", read_duration, expires_in)
    )
    click.echo(f"account={found.id}")
    click.echo(f"token={token}")


def _scopes(text: str) -> tuple[str, ...]:
    wanted = tuple(dict.fromkeys(filter(None, re.split(r"[,\s]+", text))))
    unknown = [scope for scope in wanted if scope not in SCOPES]
    if unknown or not wanted:
        raise click.BadParameter(
            f"expected {', '.join(SCOPES)}; unknown: {', '.join(unknown) or 'an empty list'}", param_hint="--scopes"
        )
    return wanted


@group.command("list")
@click.argument("account", required=False)
@command
def list_(account: str | None) -> None:
    """List the keys of ACCOUNT, or of all accounts. The secret part is not shown."""
    for key in api_keys.list_keys(context(), get_account(account).id if account else None):
        used = f"last used {key.last_used_at:%Y-%m-%d %H:%M}Z" if key.last_used_at else "never used"
        state = "active"
        if key.revoked_at:
            state = f"revoked {key.revoked_at:%Y-%m-%d %H:%M}Z"
        elif key.expires_at:
            state = f"expires {key.expires_at:%Y-%m-%d %H:%M}Z"
        click.echo(f"{key.account}\tsb_{key.prefix}_…\t{key.name}\t{' '.join(key.scopes)}\t{state}\t{used}")


@group.command("revoke")
@click.argument("key")
@command
def revoke(key: str) -> None:
    """Revoke KEY. It is the prefix (the 8 characters after sb_), sb_PREFIX_…, or the whole key."""
    match = re.fullmatch(r"(?:sb_)?([0-9A-Za-z]{8})(?:_.*)?", key)
    if match is None or not api_keys.revoke_key(context(), match[1]):
        raise click.ClickException("no active key has this prefix; `signalbox key list` shows all")
    click.echo(f"sb_{match[1]}_… is revoked")


@client_group.command("create")
@click.argument("account")
@click.option("--name", default="", help="A name for the client.")
@click.option("--scopes", default=",".join(SCOPES), show_default=True, help="What its tokens may do at most.")
@command
def create_client(account: str, name: str, scopes: str) -> None:
    """Create a client for ACCOUNT (slug or id). Its secret is printed only now."""
    client_id, secret = api_keys.create_client(context(), get_account(account).id, name, _scopes(scopes))
    click.echo(f"client_id={client_id}")
    click.echo(f"client_secret={secret}")


@client_group.command("list")
@click.argument("account", required=False)
@command
def list_clients(account: str | None) -> None:
    """List the clients of ACCOUNT, or of all accounts. Secrets are not shown."""
    for client in api_keys.list_clients(context(), get_account(account).id if account else None):
        state = f"revoked {client.revoked_at:%Y-%m-%d %H:%M}Z" if client.revoked_at else "in force"
        used = f"last used {client.last_used_at:%Y-%m-%d %H:%M}Z" if client.last_used_at else "never used"
        click.echo(f"{client.account}\t{client.id}\t{visible(client.name)}\t{' '.join(client.scopes)}\t{state}\t{used}")


@client_group.command("revoke")
@click.argument("client_id", metavar="CLIENT_ID")
@command
def revoke_client(client_id: str) -> None:
    """Revoke CLIENT_ID and its access tokens."""
    if not api_keys.revoke_client(context(), client_id):
        raise click.ClickException("no client in force has this id; `signalbox client list` shows all")
    click.echo(f"{client_id} is revoked, and so are its tokens")
