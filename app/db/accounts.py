"""Accounts: create, find, change."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa

from app.core.models import Plan
from app.db.connection import run_sql


@dataclass(frozen=True, slots=True)
class AccountRow:
    """An account as it is listed."""

    id: int
    slug: str
    plan: str
    events_per_second: int | None
    plan_ends_at: datetime | None
    disabled_at: datetime | None
    created_at: datetime
    name: str
    key_attribute: str
    event_attribute: str


@dataclass(frozen=True, slots=True)
class AccountDetails:
    """New values of an account; None: unchanged. `key_attribute` and `event_attribute` are the attributes of a CxEngage event
    that hold its subject and its name."""

    name: str | None = None
    key_attribute: str | None = None
    event_attribute: str | None = None


def create_account(
    connection: sa.Connection, slug: str, plan: Plan, signing_secret: bytes, now: datetime
) -> int | None:
    """Create an account; its id, or None when the slug is taken."""
    account_id: int | None = run_sql(
        connection,
        "INSERT INTO accounts (slug, plan, plan_ends_at, signing_secret, created_at) "
        "VALUES (:slug, :plan, :ends, :secret, :now) ON CONFLICT (slug) DO NOTHING RETURNING id",
        {"slug": slug, "plan": plan.name, "ends": _end(plan, now), "secret": signing_secret, "now": now},
    ).scalar()
    return account_id


def _end(plan: Plan, now: datetime) -> datetime | None:
    return None if plan.days is None else now + timedelta(days=plan.days)


def change_plan(connection: sa.Connection, account_id: int, plan: Plan, rate: int | None, now: datetime) -> None:
    """Put an account on a plan from now on; `rate` overrides its events per second."""
    run_sql(
        connection,
        "UPDATE accounts SET plan = :plan, events_per_second = :rate, plan_ends_at = :ends, version = version + 1 "
        "WHERE id = :id",
        {"id": account_id, "plan": plan.name, "rate": rate, "ends": _end(plan, now)},
    )


def update_account_details(connection: sa.Connection, account_id: int, details: AccountDetails) -> None:
    """Change the details of an account."""
    run_sql(
        connection,
        "UPDATE accounts SET name = coalesce(:name, name), key_attribute = coalesce(:key, key_attribute), "
        "event_attribute = coalesce(:event, event_attribute), version = version + 1 WHERE id = :id",
        {"id": account_id, "name": details.name, "key": details.key_attribute, "event": details.event_attribute},
    )


def disable_account(connection: sa.Connection, account_id: int, disabled_at: datetime | None) -> None:
    """Disable an account (a timestamp) or enable it again (None)."""
    run_sql(
        connection,
        "UPDATE accounts SET disabled_at = :at, version = version + 1 WHERE id = :id",
        {"id": account_id, "at": disabled_at},
    )


def increment_version(connection: sa.Connection, account_id: int) -> None:
    """Make all snapshots of the account stale. Locks the account, so that changes to it are serialised."""
    run_sql(connection, "UPDATE accounts SET version = version + 1 WHERE id = :id", {"id": account_id})


def lock_account(connection: sa.Connection, account_id: int) -> None:
    """Lock the account against changes until the transaction ends. Does not block events."""
    run_sql(connection, "SELECT FROM accounts WHERE id = :id FOR NO KEY UPDATE", {"id": account_id})


_ROW = (
    "id, slug, plan, events_per_second, plan_ends_at, disabled_at, created_at, "
    "coalesce(name, slug), key_attribute, event_attribute"
)


def list_accounts(connection: sa.Connection) -> list[AccountRow]:
    """All accounts, oldest first."""
    rows = run_sql(connection, f"SELECT {_ROW} FROM accounts ORDER BY id")
    return [AccountRow(*row) for row in rows]


def find_account(connection: sa.Connection, name: str) -> AccountRow | None:
    """An account by its slug or its id; a slug wins."""
    row = run_sql(
        connection,
        f"SELECT {_ROW} FROM accounts WHERE slug = :name OR id::text = :name ORDER BY slug = :name DESC LIMIT 1",
        {"name": name},
    ).one_or_none()
    return None if row is None else AccountRow(*row)


def find_signing_secret(connection: sa.Connection, account_id: int) -> bytes | None:
    """The encrypted signing secret of an account; None when there is no such account."""
    secret = run_sql(connection, "SELECT signing_secret FROM accounts WHERE id = :id", {"id": account_id}).scalar()
    return None if secret is None else bytes(secret)
