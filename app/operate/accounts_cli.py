"""`flask account …`: make accounts, list them, change their plans, switch them off and on."""

from __future__ import annotations

import click

from app import manage
from app.operate.terminal import command, house, the_account
from app.words import PLANS

group = click.Group("account", help="Accounts: who owns everything.")


@group.command("create")
@click.argument("slug")
@click.option("--plan", type=click.Choice(list(PLANS)), default="trial", show_default=True)
@command
def create(slug: str, plan: str) -> None:
    """Make an account called SLUG (lower-case letters, digits and -)."""
    account_id = manage.create_account(house(), slug, PLANS[plan])
    click.echo(f"account={account_id}")
    click.echo(f"slug={slug}")
    click.echo(f"plan={plan}")


@group.command("list")
@command
def list_() -> None:
    """All accounts."""
    for account in manage.list_accounts(house()):
        state = f"disabled since {account.disabled_at:%Y-%m-%d %H:%M}Z" if account.disabled_at else "enabled"
        rate = f", {account.events_per_second} events/s" if account.events_per_second else ""
        ends = f", until {account.plan_ends_at:%Y-%m-%d}" if account.plan_ends_at else ""
        click.echo(f"{account.id}\t{account.slug}\t{account.plan}{rate}{ends}\t{state}")


@group.command("plan")
@click.argument("account")
@click.argument("plan", type=click.Choice(list(PLANS)))
@click.option("--events-per-second", type=click.IntRange(1), help="A rate of its own instead of the plan's.")
@command
def plan_(account: str, plan: str, events_per_second: int | None) -> None:
    """Put ACCOUNT (slug or id) on PLAN from now on."""
    found = the_account(account)
    manage.change_plan(house(), found.id, PLANS[plan], events_per_second)
    click.echo(f"{found.slug} is on the plan {plan} now")


@group.command("disable")
@click.argument("account")
@command
def disable(account: str) -> None:
    """Refuse all events of ACCOUNT (slug or id) from now on."""
    found = the_account(account)
    manage.switch_account(house(), found.id, on=False)
    click.echo(f"{found.slug} is disabled; `flask account enable {found.slug}` undoes it")


@group.command("enable")
@click.argument("account")
@command
def enable(account: str) -> None:
    """Take events of ACCOUNT (slug or id) again."""
    found = the_account(account)
    manage.switch_account(house(), found.id, on=True)
    click.echo(f"{found.slug} is enabled")


@group.command("signing-secret")
@click.argument("account")
@command
def signing_secret(account: str) -> None:
    """Print the secret with which receivers verify the calls of ACCOUNT's workflows (Standard Webhooks)."""
    click.echo(manage.signing_secret(house(), the_account(account).id))
