"""`signalbox account …`: create, list, change, disable and enable accounts."""

from __future__ import annotations

from dataclasses import asdict

import click

from app.cli.base import command, context, get_account, parse_option
from app.cli.formatting import visible
from app.cli.lists import Page, json_line, list_options, print_list
from app.cli.program import paste
from app.core.ids import utc_text
from app.core.models import PLANS
from app.db.accounts import AccountDetails, AccountRow
from app.services import accounts

group = click.Group("account", help="Accounts, which own everything else.")


_name = click.option("--name", help="A name to display, besides the slug.")
_key_attribute = click.option(
    "--key-attribute", metavar="NAME", help="The attribute of CxEngage events that identifies the subject (key)."
)
_event_attribute = click.option(
    "--event-attribute", metavar="NAME", help="The attribute of CxEngage events that names the event (type)."
)


@group.command("create")
@click.argument("slug")
@click.option("--plan", type=click.Choice(list(PLANS)), default="trial", show_default=True)
@_name
@_key_attribute
@_event_attribute
@command
def create(slug: str, plan: str, name: str | None, key_attribute: str | None, event_attribute: str | None) -> None:
    """Create account SLUG. A slug has lower-case letters, digits and -."""
    details = AccountDetails(name, key_attribute, event_attribute)
    accounts.check_account_details(details)
    account_id = accounts.create_account(context(), slug, PLANS[plan])
    if details != AccountDetails():
        accounts.update_account_details(context(), account_id, details)
    click.echo(f"account={account_id}")
    click.echo(f"slug={slug}")
    click.echo(f"plan={plan}")


@group.command("list")
@list_options
@command
def list_(page: Page) -> None:
    """List all accounts, oldest first. Columns: id, slug, plan, state."""
    print_list(
        page,
        lambda after, limit: accounts.list_accounts(
            context(), after=parse_option("--after", account_id, after) or 0, limit=limit
        ),
        cursor=lambda account: account.id,
        cells=account_cells,
        widths=(6, 24, 48),
        as_json=lambda account: json_line(asdict(account)),
    )


def account_id(text: str) -> int:
    """An account's id. Raises ValueError."""
    if not text.isdecimal() or len(text) > 18:
        raise ValueError(f"{text!r} is not the id of an account")
    return int(text)


def account_cells(account: AccountRow) -> tuple[object, ...]:
    """An account as the cells of a line."""
    rate = f", {account.events_per_second} events/s" if account.events_per_second else ""
    ends = f", until {utc_text(account.plan_ends_at)}" if account.plan_ends_at else ""
    state = f"disabled since {utc_text(account.disabled_at)}" if account.disabled_at else "enabled"
    return account.id, account.slug, f"{account.plan}{rate}{ends}", state


@group.command("change")
@click.argument("account")
@_name
@_key_attribute
@_event_attribute
@command
def change(account: str, name: str | None, key_attribute: str | None, event_attribute: str | None) -> None:
    """Change the given fields of ACCOUNT (slug or id). They apply from the next event on; all are printed."""
    found = get_account(account)
    accounts.update_account_details(context(), found.id, AccountDetails(name, key_attribute, event_attribute))
    found = get_account(account)
    click.echo(f"name={visible(found.name)}")
    click.echo(f"key-attribute={visible(found.key_attribute)}")
    click.echo(f"event-attribute={visible(found.event_attribute)}")


@group.command("plan")
@click.argument("account")
@click.argument("plan", type=click.Choice(list(PLANS)))
@click.option("--events-per-second", type=click.IntRange(1), help="The account's own rate, in place of the plan's.")
@command
def plan_(account: str, plan: str, events_per_second: int | None) -> None:
    """Put ACCOUNT (slug or id) on PLAN from now on."""
    found = get_account(account)
    accounts.change_plan(context(), found.id, PLANS[plan], events_per_second)
    click.echo(f"{found.slug} is on the plan {plan}")


@group.command("disable")
@click.argument("account")
@command
def disable(account: str) -> None:
    """Refuse all events of ACCOUNT (slug or id)."""
    found = get_account(account)
    accounts.switch_account(context(), found.id, on=False)
    click.echo(f"{found.slug} is disabled; {paste('account', 'enable', found.slug)} enables it again")


@group.command("enable")
@click.argument("account")
@command
def enable(account: str) -> None:
    """Accept events of ACCOUNT (slug or id) again."""
    found = get_account(account)
    accounts.switch_account(context(), found.id, on=True)
    click.echo(f"{found.slug} is enabled")


@group.command("signing-secret")
@click.argument("account")
@command
def signing_secret(account: str) -> None:
    """Print the secret that verifies ACCOUNT's calls. Receivers use it as Standard Webhooks describes."""
    click.echo(accounts.signing_secret(context(), get_account(account).id))
