"""`signalbox account …`: create, list, change, disable and enable accounts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime

import click

from app.cli.base import command, context, get_account, parse_option
from app.cli.export import export
from app.cli.lists import Page, json_line, list_options, print_list
from app.cli.program import paste
from app.cli.retention import retention
from app.cli.terminal_text import format_relative, visible
from app.core.ids import utc_text
from app.core.models import DEFAULT_PLAN, PLANS, REFUSE, STORE
from app.db.accounts import AccountDetails, AccountRow
from app.services import accounts

group = click.Group("account", help="Accounts, which own everything else.")
group.add_command(export)
group.add_command(retention)


_OPTIONS = (
    click.option("--name", help="A name to display in addition to the slug."),
    click.option(
        "--key-attribute", metavar="NAME", help="The attribute of CxEngage events that identifies the subject (key)."
    ),
    click.option(
        "--event-attribute", metavar="NAME", help="The attribute of CxEngage events that names the event (type)."
    ),
    click.option(
        "--unusable-phone",
        type=click.Choice([REFUSE, STORE]),
        help="Store or refuse events with a good distinct_id and an unusable phone (refuse).",
    ),
    click.option(
        "--time-zone",
        metavar="ZONE",
        help="The time zone of times that are entered in the console, such as Asia/Kolkata (UTC).",
    ),
)


def _details(function: Callable[..., None]) -> Callable[..., None]:
    """The options of an account's details: the fields of AccountDetails."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


@group.command("create")
@click.argument("slug")
@click.option("--plan", type=click.Choice(list(PLANS)), default=DEFAULT_PLAN, show_default=True)
@_details
@command
def create(slug: str, plan: str, **details_given: str | None) -> None:
    """Create account SLUG. A slug has lower-case letters, digits and -."""
    account_id = accounts.create_account(context(), slug, PLANS[plan], AccountDetails(**details_given))
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
        cells=lambda account: account_cells(account, context().clock()),
        widths=(6, 24, 48),
        as_json=lambda account: json_line(asdict(account)),
    )


def account_id(text: str) -> int:
    """An account's id. Raises ValueError."""
    if not text.isdecimal() or len(text) > 18:
        raise ValueError(f"{text!r} is not the id of an account")
    return int(text)


def account_cells(account: AccountRow, now: datetime) -> tuple[object, ...]:
    """An account as the cells of a line. A plan that ends within 7 days, or has ended, is said in words."""
    rate = f", {account.events_per_second} events/s" if account.events_per_second else ""
    ends = ""
    if account.plan_ends_at is not None:
        ends = f", until {utc_text(account.plan_ends_at)}"
        if account.plan_ends_at <= now + accounts.ENDS_SOON:
            verb = "ended" if accounts.has_ended(account, now) else "ends"
            ends += f" ({verb} {format_relative(account.plan_ends_at, now)})"
    state = f"disabled since {utc_text(account.disabled_at)}" if account.disabled_at else "enabled"
    return account.id, account.slug, f"{account.plan}{rate}{ends}", state


@group.command("change")
@click.argument("account")
@_details
@command
def change(account: str, **details_given: str | None) -> None:
    """Change the given fields of ACCOUNT (slug or id). The changes apply from the next event on. All fields are printed."""
    found = get_account(account)
    accounts.update_account_details(context(), found.id, AccountDetails(**details_given))
    found = get_account(account)
    click.echo(f"name={visible(found.name)}")
    click.echo(f"key-attribute={visible(found.key_attribute)}")
    click.echo(f"event-attribute={visible(found.event_attribute)}")
    click.echo(f"unusable-phone={found.unusable_phone}")
    click.echo(f"time-zone={visible(found.time_zone)}")


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
    click.echo(accounts.show_signing_secret(context(), get_account(account).id))
