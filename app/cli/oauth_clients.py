"""`flask client …`: create, list and revoke OAuth clients, which get access tokens for the CxEngage routes."""

from __future__ import annotations

import click

from app.cli.base import command, context, get_account
from app.cli.formatting import visible
from app.services import api_keys

group = click.Group("client", help="OAuth clients. Secrets are shown once and stored as hashes.")


@group.command("create")
@click.argument("account")
@click.option("--name", default="", help="A name for the client.")
@command
def create(account: str, name: str) -> None:
    """Create a client for ACCOUNT (slug or id). Its secret is printed only now."""
    client_id, secret = api_keys.create_client(context(), get_account(account).id, name)
    click.echo(f"client_id={client_id}")
    click.echo(f"client_secret={secret}")


@group.command("list")
@click.argument("account", required=False)
@command
def list_(account: str | None) -> None:
    """List the clients of ACCOUNT (slug or id), or of all accounts, without their secrets."""
    for client in api_keys.list_clients(context(), get_account(account).id if account else None):
        state = f"revoked {client.revoked_at:%Y-%m-%d %H:%M}Z" if client.revoked_at else "in force"
        used = f"last used {client.last_used_at:%Y-%m-%d %H:%M}Z" if client.last_used_at else "never used"
        click.echo(f"{client.account}\t{client.id}\t{visible(client.name)}\t{state}\t{used}")


@group.command("revoke")
@click.argument("client_id", metavar="CLIENT_ID")
@command
def revoke(client_id: str) -> None:
    """Revoke CLIENT_ID and its access token."""
    if not api_keys.revoke_client(context(), client_id):
        raise click.ClickException("no client in force has this id; `flask client list` shows all")
    click.echo(f"{client_id} is revoked, and so is its token")
