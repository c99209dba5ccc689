"""`signalbox key …` and `signalbox client …`: API keys, and OAuth clients, which get access tokens for the CxEngage routes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime

import click

from app.cli.base import command, context, get_account, parse_option
from app.cli.lists import Page, json_line, list_options, print_list
from app.core.durations import read_duration
from app.core.ids import utc_text
from app.core.models import ACCOUNT_SCOPES, CLIENT_SCOPES, EVENTS_WRITE, SCOPES
from app.db.api_keys import KeyRow
from app.services import api_keys

group = click.Group("key", help="API keys, shown once and stored as a hash.")
client_group = click.Group("client", help="OAuth clients. Secrets are shown once and stored as hashes.")


@group.command("create")
@click.argument("account")
@click.option("--name", default="", help="A name to recognize it by.")
@click.option(
    "--scopes",
    "--scope",
    multiple=True,
    default=[EVENTS_WRITE],
    show_default=True,
    help="Comma-separated, or given again.",
)
@click.option("--expires-in", metavar="DURATION", help="Such as 90d; by default the key never expires.")
@command
def create(account: str, name: str, scopes: Sequence[str], expires_in: str | None) -> None:
    """Create a key for ACCOUNT (slug or id). It is printed now and never again."""
    found, wanted = get_account(account), _scopes(scopes, SCOPES)
    key = api_keys.create_key(
        context(), found.id, name, wanted, parse_option("--expires-in", read_duration, expires_in)
    )
    click.echo(f"account={found.id}")
    click.echo(f"token={key}")


def _scopes(texts: Sequence[str], allowed: tuple[str, ...]) -> tuple[str, ...]:
    wanted = tuple(dict.fromkeys(filter(None, re.split(r"[,\s]+", ",".join(texts)))))
    unknown = [scope for scope in wanted if scope not in allowed]
    if unknown or not wanted:
        raise click.BadParameter(
            f"expected {', '.join(allowed)}; unknown: {', '.join(unknown) or 'an empty list'}", param_hint="--scopes"
        )
    return wanted


@group.command("list")
@click.argument("account", required=False)
@list_options
@command
def list_(account: str | None, page: Page) -> None:
    """List the keys of ACCOUNT, or of all accounts. Columns: account, key without its secret part, name, scopes, state, use."""
    owner = get_account(account).id if account else None
    print_list(
        page,
        lambda after, limit: api_keys.list_keys(context(), owner, after=after, limit=limit),
        cursor=lambda key: key.prefix,
        cells=lambda key: (
            key.account, f"sb_{key.prefix}_…", key.name, " ".join(key.scopes), state_of_key(key), _used(key.last_used_at)
        ),
        widths=(20, 13, 16, 24, 35),
        as_json=lambda key: json_line(asdict(key)),
    )  # fmt: skip


def state_of_key(key: KeyRow) -> str:
    """Whether a key is revoked, expired or active, and since when or until when."""
    if key.revoked_at:
        return f"revoked {utc_text(key.revoked_at)}"
    if key.expires_at:
        return f"{'expired' if key.expires_at <= context().clock() else 'expires'} {utc_text(key.expires_at)}"
    return "active"


def _used(at: datetime | None) -> str:
    return f"last used {utc_text(at)}" if at else "never used"


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
@click.option(
    "--scopes",
    "--scope",
    multiple=True,
    default=CLIENT_SCOPES,
    show_default=True,
    help="What its tokens may do at most.",
)
@command
def create_client(account: str, name: str, scopes: Sequence[str]) -> None:
    """Create a client for ACCOUNT (slug or id). Its secret is printed only now."""
    client_id, secret = api_keys.create_client(
        context(), get_account(account).id, name, _scopes(scopes, ACCOUNT_SCOPES)
    )
    click.echo(f"client_id={client_id}")
    click.echo(f"client_secret={secret}")


@client_group.command("list")
@click.argument("account", required=False)
@list_options
@command
def list_clients(account: str | None, page: Page) -> None:
    """List the clients of ACCOUNT, or of all accounts. Columns: account, id, name, scopes, state, use."""
    owner = get_account(account).id if account else None
    print_list(
        page,
        lambda after, limit: api_keys.list_clients(context(), owner, after=after, limit=limit),
        cursor=lambda client: client.id,
        cells=lambda client: (
            client.account,
            client.id,
            client.name,
            " ".join(client.scopes),
            f"revoked {utc_text(client.revoked_at)}" if client.revoked_at else "active",
            _used(client.last_used_at),
        ),
        widths=(20, 25, 16, 24, 35),
        as_json=lambda client: json_line(asdict(client)),
    )


@client_group.command("revoke")
@click.argument("client_id", metavar="CLIENT_ID")
@command
def revoke_client(client_id: str) -> None:
    """Revoke CLIENT_ID and its access tokens."""
    if not api_keys.revoke_client(context(), client_id):
        raise click.ClickException("no active client has this id; `signalbox client list` shows all")
    click.echo(f"{client_id} is revoked, and so are its tokens")
