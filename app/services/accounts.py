"""Creates, finds and changes accounts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime, timedelta

import sqlalchemy as sa

from app.core.encryption import make_signing_secret
from app.core.errors import Problem, ProblemType
from app.core.models import Plan
from app.core.printable import is_printable
from app.core.time_zones import find_zone
from app.db import accounts
from app.db.accounts import AccountDetails, AccountRow
from app.db.audit import Change
from app.services import audit, startup_checks
from app.services.context import AppContext

_SLUG = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
# How long before its end a plan ends soon.
ENDS_SOON = timedelta(days=7)
# Characters of a name or an attribute.
_MAX_LENGTH = 255
_NO_DETAILS = AccountDetails()
# Events that are counted at most.
COUNTED = 100_000
# What the audit log says of a new account.
_RECORDED = ("plan", "plan_ends_at", "name", "key_attribute", "event_attribute", "unusable_phone", "time_zone")


def create_account(context: AppContext, slug: str, plan: Plan, details: AccountDetails = _NO_DETAILS) -> int:
    """Create an account; its id. A slug is unique and not a number, which would look like an id. Raises Problem."""
    if not _SLUG.fullmatch(slug) or slug.isdigit():
        raise Problem(
            ProblemType.VALIDATION_FAILED,
            f"{slug!r} is not a slug: 1 to 63 of a-z, 0-9 and -, not beginning with -, and more than a number",
        )
    _check_details(details)
    startup_checks.check_settings(context)
    secret = context.secrets.encrypt(make_signing_secret())
    with context.database.transaction() as connection:
        account_id = accounts.create_account(connection, slug, plan, secret, context.clock())
        if account_id is None:
            raise Problem(ProblemType.CONFLICT, f"there is an account {slug!r} already")
        if details != _NO_DETAILS:
            accounts.update_account_details(connection, account_id, details)
        created = asdict(_lock_account(connection, account_id))
        after = {name: created[name] for name in _RECORDED}
        audit.record(connection, context, Change("account.create", account_id, slug, None, after))
    return account_id


def count_ending_plans(context: AppContext) -> tuple[int, int]:
    """How many accounts have a plan that ends within 7 days, and how many one that has ended."""
    now = context.clock()
    with context.database.transaction() as connection:
        found = accounts.find_ending_plans(connection, now + ENDS_SOON)
    ended = sum(has_ended(account, now) for account in found)
    return len(found) - ended, ended


def has_ended(account: AccountRow, now: datetime) -> bool:
    """Whether the account's plan has ended."""
    return account.plan_ends_at is not None and account.plan_ends_at <= now


def list_accounts(context: AppContext, *, after: int = 0, limit: int) -> list[AccountRow]:
    """At most `limit` accounts, oldest first: those after the id `after`."""
    with context.database.transaction() as connection:
        return accounts.list_accounts(connection, after, limit)


def find_account(context: AppContext, name: str, *, lock: bool = False) -> AccountRow | None:
    """An account by its slug or id. `lock`: it does not change until the transaction of a request (`change_account`) ends."""
    with context.database.transaction() as connection:
        found = accounts.find_account(connection, name)
        if found is None or not lock:
            return found
        accounts.lock_account(connection, found.id)
        return accounts.find_account_by_id(connection, found.id)


def count_latest_events(context: AppContext, account_id: int) -> tuple[int, int]:
    """How many events came within the last hour and the last 24 hours; COUNTED at most."""
    now = context.clock()
    with context.database.transaction() as connection:
        hour, day = (
            accounts.count_events(connection, account_id, now - timedelta(hours=hours), COUNTED) for hours in (1, 24)
        )
    return hour, day


def change_plan(context: AppContext, account_id: int, plan: Plan, events_per_second: int | None) -> None:
    """Put an account on a plan from now on."""
    with _change(context, account_id, "account.plan") as connection:
        accounts.change_plan(connection, account_id, plan, events_per_second, context.clock())


def switch_account(context: AppContext, account_id: int, *, on: bool) -> None:
    """Disable or enable an account."""
    with _change(context, account_id, "account.enable" if on else "account.disable") as connection:
        accounts.disable_account(connection, account_id, None if on else context.clock())


def show_signing_secret(context: AppContext, account_id: int) -> str:
    """The secret (whsec_…) that signs the account's outbound calls; the audit log says who has seen it. Raises Problem 404."""
    with context.database.transaction() as connection:
        account = accounts.find_account_by_id(connection, account_id)
        stored = accounts.find_signing_secret(connection, account_id)
        if account is None or stored is None:
            raise Problem(ProblemType.NOT_FOUND, "there is no such account")
        audit.record(connection, context, Change("account.show-signing-secret", account_id, account.slug))
    return context.secrets.decrypt(stored)


def update_account_details(context: AppContext, account_id: int, details: AccountDetails) -> None:
    """Change the details of an account; raises Problem 422 for an invalid text."""
    _check_details(details)
    with _change(context, account_id, "account.change") as connection:
        accounts.update_account_details(connection, account_id, details)


@contextmanager
def _change(context: AppContext, account_id: int, action: str) -> Iterator[sa.Connection]:
    """A transaction that changes an account, and records what has changed in it. Raises Problem 404."""
    with context.database.transaction() as connection:
        before = _lock_account(connection, account_id)
        yield connection
        after = _lock_account(connection, account_id)
        if before != after:
            changed = audit.differences(asdict(before), asdict(after))
            audit.record(connection, context, Change(action, account_id, after.slug, *changed))


def _lock_account(connection: sa.Connection, account_id: int) -> AccountRow:
    accounts.lock_account(connection, account_id)
    found = accounts.find_account_by_id(connection, account_id)
    if found is None:
        raise Problem(ProblemType.NOT_FOUND, f"there is no account {account_id}")
    return found


def _check_details(details: AccountDetails) -> None:
    for field, text in asdict(details).items():
        if text is not None and not (1 <= len(text) <= _MAX_LENGTH and is_printable(text)):
            raise Problem(
                ProblemType.VALIDATION_FAILED,
                f"the {field.replace('_', ' ')} must be 1 to {_MAX_LENGTH} printable characters",
            )
    if details.time_zone is not None:
        try:
            find_zone(details.time_zone)
        except ValueError as exc:
            raise Problem(ProblemType.VALIDATION_FAILED, str(exc)) from None
