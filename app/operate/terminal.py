"""What all commands share: the house they work on, and how they say that something is wrong."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import click
from flask import current_app
from flask.cli import with_appcontext

from app import manage
from app.journey import Journey
from app.settings import SettingsError
from app.store.accounts import AccountRow
from app.words import Problem, Unavailable

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
            raise click.ClickException(f"the database does not answer: {trouble}") from None
        except (Problem, SettingsError) as wrong:
            raise click.ClickException(str(wrong)) from None

    return run


def house() -> Journey:
    """The house."""
    found: Journey = current_app.extensions["journey"]
    return found


def the_account(name: str | None) -> AccountRow:
    """The account called `name` (slug or id); without a name the only one there is."""
    if name is not None:
        account = manage.find_account(house(), name)
        if account is None:
            raise click.ClickException(f"there is no account {name!r}; `flask account list` shows all")
        return account
    all_accounts = manage.list_accounts(house())
    if len(all_accounts) == 1:
        return all_accounts[0]
    if not all_accounts:
        raise click.ClickException("there is no account yet; make one with `flask account create SLUG`")
    slugs = ", ".join(account.slug for account in all_accounts)
    raise click.ClickException(f"there are several accounts ({slugs}); say which with --account")
