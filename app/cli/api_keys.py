"""`flask key …`: make, list and revoke API keys."""

from __future__ import annotations

import re
from datetime import timedelta

import click

from app.cli.base import command, context, the_account
from app.core.durations import read_duration
from app.core.models import EVENTS_WRITE, SCOPES
from app.services import api_keys

group = click.Group("key", help="API keys: shown once, kept as a hash.")


@group.command("create")
@click.argument("account")
@click.option("--name", default="", help="What you call it.")
@click.option("--scopes", default=EVENTS_WRITE, show_default=True, help="Comma-separated.")
@click.option("--expires-in", metavar="DURATION", help="Such as 90d; without it the key stays in force.")
@command
def create(account: str, name: str, scopes: str, expires_in: str | None) -> None:
    """Make a key for ACCOUNT (slug or id). It is printed now and never again."""
    found = the_account(account)
    wanted = tuple(dict.fromkeys(filter(None, re.split(r"[,\s]+", scopes))))
    unknown = [scope for scope in wanted if scope not in SCOPES]
    if unknown or not wanted:
        raise click.BadParameter(
            f"it takes {', '.join(SCOPES)}; {', '.join(unknown) or 'nothing'} is unknown", param_hint="--scopes"
        )
    token = api_keys.create_key(context(), found.id, name, wanted, _lifetime(expires_in))
    click.echo(f"account={found.id}")
    click.echo(f"token={token}")


def _lifetime(text: str | None) -> timedelta | None:
    try:
        return None if text is None else read_duration(text)
    except ValueError as wrong:
        raise click.BadParameter(str(wrong), param_hint="--expires-in") from None


@group.command("list")
@click.argument("account", required=False)
@command
def list_(account: str | None) -> None:
    """The keys of ACCOUNT (slug or id), or of all accounts; never the keys themselves."""
    for key in api_keys.list_keys(context(), the_account(account).id if account else None):
        used = f"last used {key.last_used_at:%Y-%m-%d %H:%M}Z" if key.last_used_at else "never used"
        state = "in force"
        if key.revoked_at:
            state = f"revoked {key.revoked_at:%Y-%m-%d %H:%M}Z"
        elif key.expires_at:
            state = f"expires {key.expires_at:%Y-%m-%d %H:%M}Z"
        click.echo(f"{key.account}\tsb_{key.prefix}_…\t{key.name}\t{' '.join(key.scopes)}\t{state}\t{used}")


@group.command("revoke")
@click.argument("key")
@command
def revoke(key: str) -> None:
    """Revoke KEY: its prefix (the 8 characters after sb_), sb_PREFIX_…, or the whole key."""
    match = re.fullmatch(r"(?:sb_)?([0-9A-Za-z]{8})(?:_.*)?", key)
    if match is None or not api_keys.revoke_key(context(), match[1]):
        raise click.ClickException("no key in force has this prefix; `flask key list` shows all")
    click.echo(f"sb_{match[1]}_… is revoked")
