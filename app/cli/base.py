"""What all commands share: the house they work on, and how they say that something is wrong."""

from __future__ import annotations

import functools
import shutil
import sys
from collections.abc import Callable
from datetime import datetime
from typing import ParamSpec, TypeVar
from uuid import UUID

import click
from flask import current_app
from flask.cli import with_appcontext

from app.cli.formatting import read_moment
from app.core.config import DATA_DIRECTORY, SettingsError, embedded_database_url
from app.core.errors import NotMigrated, Problem, Unavailable
from app.db.accounts import AccountRow
from app.services import accounts
from app.services.context import AppContext

P = ParamSpec("P")
R = TypeVar("R")


def command(function: Callable[P, R]) -> Callable[P, R]:
    """Runs `function` inside the application; what people can mend leaves as one line and exit code 1."""

    @with_appcontext
    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except Unavailable as trouble:
            raise click.ClickException(why_not(trouble)) from None
        except (Problem, SettingsError) as wrong:
            raise click.ClickException(str(wrong)) from None

    return run


def why_not(trouble: Unavailable) -> str:
    """Why the database could not be asked, and what people can do about it."""
    if isinstance(trouble, NotMigrated):
        return f"the database is not up to date, run `flask migrate` ({trouble})"
    if "connection to server" not in str(trouble):
        return f"the database cannot be asked: {trouble}"
    if context().settings.database_url == embedded_database_url(DATA_DIRECTORY):
        return (
            "the embedded PostgreSQL of this folder is not running: start it with `make run`, or set DATABASE_URL to "
            "another one"
        )
    return f"the database does not answer: {trouble}"


def context() -> AppContext:
    """The house."""
    found: AppContext = current_app.extensions["context"]
    return found


def the_account(name: str | None) -> AccountRow:
    """The account called `name` (slug or id); without a name the only one there is."""
    if name is not None:
        account = accounts.find_account(context(), name)
        if account is None:
            raise click.ClickException(f"there is no account {name!r}; `flask account list` shows all")
        return account
    all_accounts = accounts.list_accounts(context())
    if len(all_accounts) == 1:
        return all_accounts[0]
    if not all_accounts:
        raise click.ClickException("there is no account yet; make one with `flask account create SLUG`")
    slugs = ", ".join(account.slug for account in all_accounts)
    raise click.ClickException(f"there are several accounts ({slugs}); say which with --account")


def the_owner(name: str | None, what: str, identifier: UUID, owners_of: Callable[[AppContext, UUID], list[int]]) -> int:
    """The id of the account called `name`; without a name the one that has the run or event (`what`) of this id."""
    if name is not None:
        return the_account(name).id
    owners = owners_of(context(), identifier)
    if len(owners) == 1:
        return owners[0]
    if not owners:
        raise click.ClickException(f"there is no {what} {identifier}")
    raise click.ClickException(f"several accounts have a {what} {identifier}; say which with --account")


def the_moment(option: str, text: str | None) -> datetime | None:
    """What people gave as `option`: a duration back from now, or a time."""
    try:
        return None if text is None else read_moment(text, context().clock())
    except ValueError as wrong:
        raise click.BadParameter(str(wrong), param_hint=option) from None


def terminal_width() -> int | None:
    """How many columns the terminal has; None when the output goes to a file or another program."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None
