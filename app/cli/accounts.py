"""`flask account …`: make accounts, list them, change their plans, switch them off and on."""

from __future__ import annotations

import click

from app.cli.base import command, context, the_account
from app.cli.formatting import visible
from app.core.models import PLANS
from app.db.accounts import AccountDetails
from app.services import accounts

group = click.Group("account", help="Accounts: who owns everything.")


_name = click.option("--name", help="What people call it, beside the slug.")
_key_attribute = click.option(
    "--key-attribute", metavar="NAME", help="Which attribute of CxEngage events says whom they are about (key)."
)
_event_attribute = click.option(
    "--event-attribute", metavar="NAME", help="Which attribute of CxEngage events names them (type)."
)


@group.command("create")
@click.argument("slug")
@click.option("--plan", type=click.Choice(list(PLANS)), default="trial", show_default=True)
@_name
@_key_attribute
@_event_attribute
@command
def create(slug: str, plan: str, name: str | None, key_attribute: str | None, event_attribute: str | None) -> None:
    """Make an account called SLUG (lower-case letters, digits and -)."""
    details = AccountDetails(name, key_attribute, event_attribute)
    accounts.check_account_details(details)
    account_id = accounts.create_account(context(), slug, PLANS[plan])
    if details != AccountDetails():
        accounts.update_account_details(context(), account_id, details)
    click.echo(f"account={account_id}")
    click.echo(f"slug={slug}")
    click.echo(f"plan={plan}")


@group.command("list")
@command
def list_() -> None:
    """All accounts."""
    for account in accounts.list_accounts(context()):
        state = f"disabled since {account.disabled_at:%Y-%m-%d %H:%M}Z" if account.disabled_at else "enabled"
        rate = f", {account.events_per_second} events/s" if account.events_per_second else ""
        ends = f", until {account.plan_ends_at:%Y-%m-%d}" if account.plan_ends_at else ""
        click.echo(f"{account.id}\t{account.slug}\t{account.plan}{rate}{ends}\t{state}")


@group.command("change")
@click.argument("account")
@_name
@_key_attribute
@_event_attribute
@command
def change(account: str, name: str | None, key_attribute: str | None, event_attribute: str | None) -> None:
    """Change what is given about ACCOUNT (slug or id), and tell all of it. Counts for the next event on."""
    found = the_account(account)
    accounts.update_account_details(context(), found.id, AccountDetails(name, key_attribute, event_attribute))
    found = the_account(account)
    click.echo(f"name={visible(found.name)}")
    click.echo(f"key-attribute={visible(found.key_attribute)}")
    click.echo(f"event-attribute={visible(found.event_attribute)}")


@group.command("plan")
@click.argument("account")
@click.argument("plan", type=click.Choice(list(PLANS)))
@click.option("--events-per-second", type=click.IntRange(1), help="A rate of its own instead of the plan's.")
@command
def plan_(account: str, plan: str, events_per_second: int | None) -> None:
    """Put ACCOUNT (slug or id) on PLAN from now on."""
    found = the_account(account)
    accounts.change_plan(context(), found.id, PLANS[plan], events_per_second)
    click.echo(f"{found.slug} is on the plan {plan} now")


@group.command("disable")
@click.argument("account")
@command
def disable(account: str) -> None:
    """Refuse all events of ACCOUNT (slug or id) from now on."""
    found = the_account(account)
    accounts.switch_account(context(), found.id, on=False)
    click.echo(f"{found.slug} is disabled; `flask account enable {found.slug}` undoes it")


@group.command("enable")
@click.argument("account")
@command
def enable(account: str) -> None:
    """Take events of ACCOUNT (slug or id) again."""
    found = the_account(account)
    accounts.switch_account(context(), found.id, on=True)
    click.echo(f"{found.slug} is enabled")


@group.command("signing-secret")
@click.argument("account")
@command
def signing_secret(account: str) -> None:
    """Print the secret with which receivers verify the calls of ACCOUNT's workflows (Standard Webhooks)."""
    click.echo(accounts.signing_secret(context(), the_account(account).id))
