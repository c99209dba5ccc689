"""What all commands share: the app context, finding an account, reporting errors."""

from __future__ import annotations

import functools
import os
import pwd
import shutil
import sys
from collections.abc import Callable
from datetime import datetime
from typing import ParamSpec, TypeVar
from uuid import UUID

import click
from flask import current_app
from flask.cli import with_appcontext

from app.cli.program import UNAVAILABLE, paste, with_program
from app.cli.terminal_text import parse_time
from app.core.config import DATA_DIRECTORY, SettingsError, embedded_database_url
from app.core.errors import MissingRight, NotMigrated, Problem, Unavailable
from app.core.exact_json import replace_unstorable
from app.core.models import Actor
from app.db.accounts import AccountRow
from app.services import accounts
from app.services.context import AppContext

# How many accounts a message names, and characters of a user's name.
_MAX_SLUGS, _MAX_NAME = 10, 100

# Advice by the beginning of a message. Use cases do not name commands, because the console and the API show their messages, too.
_ADVICE = {
    "there is no workflow ": "`signalbox workflow list` shows all",
    "there is no source ": "`signalbox source list` shows all",
    "there is no user ": "`signalbox user list` shows all",
    "the account has no secret ": "`signalbox secret list` shows all",
}

P = ParamSpec("P")
R = TypeVar("R")

account_option = click.option("--account", help="Slug or id. Optional while there is only one account.")
# For commands that take the id of a run or an event.
owner_option = click.option("--account", help="Slug or id. Optional: the ids determine it.")
yes_option = click.option("--yes", is_flag=True, help="Do not ask for confirmation.")


class UnavailableError(click.ClickException):
    """The database or a server is unavailable: the same command may work later."""

    exit_code = UNAVAILABLE


def command(function: Callable[P, R]) -> Callable[P, R]:
    """Run `function` inside the application; an expected error becomes one line on standard error and exit code 1 or 3."""
    inside = with_appcontext(function)

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return inside(*args, **kwargs)
        except Unavailable as exc:
            raise UnavailableError(explain_unavailable(exc)) from None
        except (Problem, SettingsError) as exc:
            raise click.ClickException(with_program(_advised(str(exc)))) from None
        except click.ClickException as exc:
            if type(exc) is not click.ClickException:
                raise
            raise click.ClickException(with_program(exc.message)) from None

    return run


def _advised(message: str) -> str:
    """A message of a use case, with the command that lists what exists."""
    found = next((advice for beginning, advice in _ADVICE.items() if message.startswith(beginning)), None)
    return message if found is None else f"{message}; {found}"


def explain_unavailable(exc: Unavailable) -> str:
    """Why the database is unavailable and what to do about it, in one line."""
    if isinstance(exc, NotMigrated):
        return f"the database is not up to date, run {paste('migrate')} ({exc})"
    if isinstance(exc, MissingRight):
        return f"the role of DATABASE_URL lacks a right: {exc}"
    if "connection to server" not in str(exc):
        return f"the database is unavailable: {exc}"
    if context().settings.database_url == embedded_database_url(DATA_DIRECTORY):
        return (
            "the embedded PostgreSQL of this folder is not running: start it with `make run`, or set DATABASE_URL to "
            "another server"
        )
    return f"the database does not respond: {exc}"


def confirm(question: str) -> None:
    """Ask a question on the terminal; anything but yes ends the command."""
    try:
        if click.confirm(question, err=True):
            return
        reason = "nothing was changed"
    except click.Abort:
        click.echo(err=True)
        reason = "nothing was changed: there is no answer; --yes confirms without a question"
    raise click.ClickException(reason)


def context() -> AppContext:
    """The app context of the running command, for what its user changes."""
    found: AppContext = current_app.extensions["context"]
    return found.acting_as(Actor(user_name(), "cli"))


def user_name() -> str:
    """Who runs the program: SIGNALBOX_ACTOR, the user who called sudo, or the user of the process."""
    given = os.environ.get("SIGNALBOX_ACTOR") or os.environ.get("SUDO_USER")
    if given is None:
        try:
            given = pwd.getpwuid(os.getuid()).pw_name
        except KeyError:
            given = f"uid {os.getuid()}"
    return replace_unstorable(given)[:_MAX_NAME]


def get_account(name: str | None) -> AccountRow:
    """The account with this slug or id; without a name, the only account."""
    if name is not None:
        account = accounts.find_account(context(), name)
        if account is None:
            raise click.ClickException(f"account {name!r} not found; {paste('account', 'list')} shows all")
        return account
    found = accounts.list_accounts(context(), limit=_MAX_SLUGS + 1)
    if len(found) == 1:
        return found[0]
    if not found:
        raise click.ClickException(f"no account exists yet; create one with {paste('account', 'create', 'SLUG')}")
    slugs = ", ".join([account.slug for account in found[:_MAX_SLUGS]] + ["…"] * (len(found) > _MAX_SLUGS))
    raise click.ClickException(f"several accounts exist ({slugs}); choose one with --account")


def get_owner_id(
    name: str | None, what: str, identifier: UUID, owners_of: Callable[[AppContext, UUID], list[int]]
) -> int:
    """The id of the account with this slug or id; without a name, of the account that owns the run or event (`what`)."""
    if name is not None:
        return get_account(name).id
    owners = owners_of(context(), identifier)
    if len(owners) == 1:
        return owners[0]
    if not owners:
        raise click.ClickException(f"{what} {identifier} not found")
    raise click.ClickException(f"several accounts have {what} {identifier}; choose one with --account")


def parse_option(option: str, parse: Callable[[str], R], text: str | None) -> R | None:
    """The value of `option` as `parse` reads it; its ValueError becomes an error of the option."""
    try:
        return None if text is None else parse(text)
    except ValueError as exc:
        raise click.BadParameter(str(exc), param_hint=option) from None


def read_time_option(option: str, text: str | None) -> datetime | None:
    """The value of `option`: a duration back from now, or a time."""
    return parse_option(option, lambda value: parse_time(value, context().clock()), text)


def terminal_width() -> int | None:
    """The columns of the terminal; None when the output goes to a file or another program."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None
