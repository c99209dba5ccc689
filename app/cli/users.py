"""`signalbox user …`: the people who sign in to the console."""

from __future__ import annotations

import sys
from dataclasses import asdict

import click

from app.cli.base import command, confirm, context, get_account, yes_option
from app.cli.lists import Page, json_line, list_options, print_list
from app.core.ids import utc_text
from app.core.models import ROLES, VIEWER
from app.db.users import UserRow
from app.services import users

group = click.Group("user", help="People who sign in to the console, their roles and sessions.")
password_option = click.option(
    "--password-stdin", is_flag=True, help="Read the password from standard input; by default a random one is printed."
)


def _read_password(from_stdin: bool) -> str | None:
    return sys.stdin.readline().rstrip("\r\n") if from_stdin else None


@group.command("create")
@click.argument("email")
@click.option("--member-of", metavar="ACCOUNT", help="Slug or id of an account that the user gets a role in.")
@click.option("--role", type=click.Choice(ROLES), default=VIEWER, show_default=True, help="The role in that account.")
@click.option("--operator", is_flag=True, help="All rights in all accounts.")
@password_option
@command
def create(email: str, member_of: str | None, role: str, operator: bool, password_stdin: bool) -> None:
    """Create a user who signs in with EMAIL. A random password is printed now and never again."""
    given_role = (get_account(member_of), role) if member_of else None
    given = _read_password(password_stdin)
    user, password = users.create_user(context(), email, given, is_operator=operator, role=given_role)
    click.echo(f"email={user.email}")
    if given is None:
        click.echo(f"password={password}")


@group.command("list")
@list_options
@command
def list_(page: Page) -> None:
    """List the users. Columns: email, id, since when, operator or the roles by account, state."""
    print_list(
        page,
        lambda after, limit: users.list_users(context(), after=after or "", limit=limit),
        cursor=lambda user: user.email,
        cells=lambda user: (
            user.email,
            utc_text(user.created_at),
            "operator" if user.is_operator else _roles(user),
            f"disabled {utc_text(user.disabled_at)}" if user.disabled_at else "active",
        ),
        widths=(30, 27, 30),
        as_json=lambda user: json_line(asdict(user)),
    )


def _roles(user: UserRow) -> str:
    return ", ".join(f"{one.account}: {one.role}" for one in users.list_memberships(context(), user)) or "no account"


@group.command("password")
@click.argument("email")
@password_option
@command
def password(email: str, password_stdin: bool) -> None:
    """Set a new password for EMAIL and end all sessions. A random one is printed now and never again."""
    given = _read_password(password_stdin)
    new = users.set_password(context(), email, given)
    click.echo("the password is changed, all sessions have ended" if given is not None else f"password={new}")


@group.command("role")
@click.argument("email")
@click.argument("account")
@click.argument("role", type=click.Choice((*ROLES, "none")))
@command
def set_role(email: str, account: str, role: str) -> None:
    """Give EMAIL a role in ACCOUNT, or none.

    An owner may do everything, an editor everything but what concerns keys, users and settings, a viewer reads.
    """
    found = get_account(account)
    users.set_role(context(), email, found, None if role == "none" else role)
    click.echo(f"{email} in {found.slug}: {role}")


@group.command("operator")
@click.argument("email")
@click.argument("state", type=click.Choice(("on", "off")))
@command
def operator(email: str, state: str) -> None:
    """Make EMAIL an operator, or no longer one.

    Operators have all rights in all accounts.
    """
    users.set_operator(context(), email, is_operator=state == "on")
    click.echo(f"{email}: operator {state}")


@group.command("disable")
@click.argument("email")
@command
def disable(email: str) -> None:
    """Disable EMAIL and end all sessions."""
    users.switch_user(context(), email, on=False)
    click.echo(f"{email} is disabled, all sessions have ended")


@group.command("enable")
@click.argument("email")
@command
def enable(email: str) -> None:
    """Enable EMAIL again."""
    users.switch_user(context(), email, on=True)
    click.echo(f"{email} is enabled")


@group.command("delete")
@click.argument("email")
@yes_option
@command
def delete(email: str, yes: bool) -> None:
    """Delete EMAIL with all roles and sessions. The audit log keeps the name."""
    users.find_user(context(), email)
    if not yes:
        confirm(f"Delete the user {email}?")
    users.delete_user(context(), email)
    click.echo(f"{email} is deleted")


@group.command("sessions")
@click.argument("email")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
@command
def sessions(email: str, as_json: bool) -> None:
    """List where EMAIL is signed in. Columns: since when, last used, address, browser."""
    for one in users.list_sessions(context(), users.find_user(context(), email)):
        cells = (utc_text(one.created_at), utc_text(one.seen_at), one.address, one.agent)
        click.echo(json_line(asdict(one)) if as_json else "  ".join(cells))


@group.command("sign-out")
@click.argument("email")
@command
def sign_out(email: str) -> None:
    """End all sessions of EMAIL."""
    ended = users.end_sessions(context(), users.find_user(context(), email))
    click.echo(f"{ended} session{'' if ended == 1 else 's'} ended")
