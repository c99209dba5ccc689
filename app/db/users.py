"""Users of the console, their roles and their sessions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa

from app.db.connection import run_sql

_ROW = "id, email, is_operator, created_at, password_changed_at, disabled_at"


@dataclass(frozen=True, slots=True)
class UserRow:
    """A user without the password."""

    id: UUID
    email: str
    is_operator: bool
    created_at: datetime
    password_changed_at: datetime
    disabled_at: datetime | None


@dataclass(frozen=True, slots=True)
class Membership:
    """A user's role in an account, with the names of both."""

    account_id: int
    account: str
    account_name: str
    email: str
    role: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class SessionRow:
    """A browser that is signed in."""

    id: UUID
    created_at: datetime
    seen_at: datetime
    address: str
    agent: str


def insert_user(connection: sa.Connection, user: UserRow, password_hash: str) -> bool:
    """Add a user; False when the email address is taken."""
    added = run_sql(
        connection,
        "INSERT INTO users (id, email, password_hash, is_operator, created_at, password_changed_at) "
        "VALUES (:id, :email, :hash, :operator, :now, :now) ON CONFLICT (email) DO NOTHING RETURNING id",
        {
            "id": user.id,
            "email": user.email,
            "hash": password_hash,
            "operator": user.is_operator,
            "now": user.created_at,
        },
    )
    return added.scalar() is not None


def find_user(connection: sa.Connection, email: str, *, lock: bool = False) -> UserRow | None:
    """A user by the email address in lower case."""
    query = f"SELECT {_ROW} FROM users WHERE email = :email" + (" FOR UPDATE" if lock else "")
    row = run_sql(connection, query, {"email": email}).one_or_none()
    return None if row is None else UserRow(*row)


def find_password_hash(connection: sa.Connection, user_id: UUID) -> str | None:
    """The hash of a user's password; None when there is no such user."""
    found: str | None = run_sql(connection, "SELECT password_hash FROM users WHERE id = :id", {"id": user_id}).scalar()
    return found


def list_users(connection: sa.Connection, after: str, limit: int | None) -> list[UserRow]:
    """Users by email address: those after `after`, at most `limit`."""
    query = f"SELECT {_ROW} FROM users WHERE email > :after ORDER BY email LIMIT :limit"
    return [UserRow(*row) for row in run_sql(connection, query, {"after": after, "limit": limit})]


def set_password(connection: sa.Connection, user_id: UUID, password_hash: str, now: datetime) -> None:
    """Replace a user's password."""
    run_sql(
        connection,
        "UPDATE users SET password_hash = :hash, password_changed_at = :now WHERE id = :id",
        {"id": user_id, "hash": password_hash, "now": now},
    )


def set_password_hash(connection: sa.Connection, user_id: UUID, password_hash: str) -> None:
    """Store the same password with a newer hash."""
    run_sql(connection, "UPDATE users SET password_hash = :hash WHERE id = :id", {"id": user_id, "hash": password_hash})


def set_disabled(connection: sa.Connection, user_id: UUID, at: datetime | None) -> None:
    """Disable a user (a timestamp) or enable it again (None)."""
    run_sql(connection, "UPDATE users SET disabled_at = :at WHERE id = :id", {"id": user_id, "at": at})


def set_operator(connection: sa.Connection, user_id: UUID, *, is_operator: bool) -> None:
    """Make a user an operator, or no longer one."""
    run_sql(
        connection, "UPDATE users SET is_operator = :operator WHERE id = :id", {"id": user_id, "operator": is_operator}
    )


def delete_user(connection: sa.Connection, user_id: UUID) -> None:
    """Delete a user with all roles and sessions."""
    run_sql(connection, "DELETE FROM users WHERE id = :id", {"id": user_id})


# Roles

_MEMBERSHIP = """
SELECT account_id, slug, coalesce(name, slug), email, role, memberships.created_at
FROM memberships JOIN accounts ON accounts.id = account_id JOIN users ON users.id = user_id
"""


def list_memberships(connection: sa.Connection, user_id: UUID) -> list[Membership]:
    """The roles of a user, by account."""
    query = _MEMBERSHIP + "WHERE user_id = :id ORDER BY slug"
    return [Membership(*row) for row in run_sql(connection, query, {"id": user_id})]


def list_members(
    connection: sa.Connection, account_id: int, after: str = "", limit: int | None = None
) -> list[Membership]:
    """The roles in an account, by email address: those after `after`, at most `limit` (None: all)."""
    query = _MEMBERSHIP + "WHERE account_id = :id AND email > :after ORDER BY email LIMIT :limit"
    values = {"id": account_id, "after": after, "limit": limit}
    return [Membership(*row) for row in run_sql(connection, query, values)]


def find_member(connection: sa.Connection, account_id: int, email: str) -> Membership | None:
    """The role of a user in an account, by the email address."""
    query = _MEMBERSHIP + "WHERE account_id = :id AND email = :email"
    row = run_sql(connection, query, {"id": account_id, "email": email}).one_or_none()
    return None if row is None else Membership(*row)


def find_role(connection: sa.Connection, account_id: int, user_id: UUID) -> str | None:
    """The role of a user in an account."""
    found: str | None = run_sql(
        connection,
        "SELECT role FROM memberships WHERE account_id = :account AND user_id = :user",
        {"account": account_id, "user": user_id},
    ).scalar()
    return found


def set_role(connection: sa.Connection, account_id: int, user_id: UUID, role: str | None, now: datetime) -> None:
    """Give a user a role in an account, or none (None)."""
    values = {"account": account_id, "user": user_id, "role": role, "now": now}
    if role is None:
        run_sql(connection, "DELETE FROM memberships WHERE account_id = :account AND user_id = :user", values)
        return
    run_sql(
        connection,
        "INSERT INTO memberships (account_id, user_id, role, created_at) VALUES (:account, :user, :role, :now) "
        "ON CONFLICT (account_id, user_id) DO UPDATE SET role = excluded.role",
        values,
    )


# Sessions


def insert_session(connection: sa.Connection, user_id: UUID, digest: bytes, session: SessionRow) -> None:
    """Add a session; `digest` is of the text in its cookie."""
    run_sql(
        connection,
        "INSERT INTO user_sessions (digest, id, user_id, created_at, seen_at, address, agent) "
        "VALUES (:digest, :id, :user, :now, :now, :address, :agent)",
        {
            "digest": digest,
            "id": session.id,
            "user": user_id,
            "now": session.created_at,
            "address": session.address,
            "agent": session.agent,
        },
    )


def find_session(
    connection: sa.Connection, digest: bytes, oldest: Mapping[str, datetime]
) -> tuple[UserRow, SessionRow] | None:
    """A session and its user. `oldest`: sessions that were `created` or `seen` before have ended."""
    row = run_sql(
        connection,
        "SELECT users.id, email, is_operator, users.created_at, password_changed_at, disabled_at, "
        "session.id, session.created_at, seen_at, address, agent "
        "FROM user_sessions AS session JOIN users ON users.id = user_id "
        "WHERE digest = :digest AND session.created_at >= :created AND seen_at >= :seen AND disabled_at IS NULL",
        {"digest": digest, **oldest},
    ).one_or_none()
    return None if row is None else (UserRow(*row[:6]), SessionRow(*row[6:]))


def touch_session(connection: sa.Connection, session_id: UUID, now: datetime) -> None:
    """Note that a session was used."""
    run_sql(connection, "UPDATE user_sessions SET seen_at = :now WHERE id = :id", {"id": session_id, "now": now})


def list_sessions(
    connection: sa.Connection, user_id: UUID, oldest: Mapping[str, datetime], *, after: UUID | None, limit: int
) -> list[SessionRow]:
    """Sessions of a user, the last sign-in first, behind the one with the id `after`. `oldest`: as for `find_session`."""
    rows = run_sql(
        connection,
        "SELECT id, created_at, seen_at, address, agent FROM user_sessions WHERE user_id = :user AND created_at >= :created "
        "AND seen_at >= :seen AND (CAST(:after AS uuid) IS NULL OR id < :after) ORDER BY id DESC LIMIT :limit",
        {"user": user_id, "after": after, "limit": limit, **oldest},
    )
    return [SessionRow(*row) for row in rows]


def delete_sessions(
    connection: sa.Connection, user_id: UUID, *, only: UUID | None = None, keep: UUID | None = None
) -> int:
    """End sessions of a user: all, or `only` one, or all but the one to `keep`; how many there were."""
    ended = run_sql(
        connection,
        "DELETE FROM user_sessions WHERE user_id = :user AND (CAST(:only AS uuid) IS NULL OR id = :only) "
        "AND (CAST(:keep AS uuid) IS NULL OR id <> :keep)",
        {"user": user_id, "only": only, "keep": keep},
    )
    return int(ended.rowcount)


def delete_ended_sessions(connection: sa.Connection, oldest: Mapping[str, datetime]) -> int:
    """Delete the sessions that have ended by themselves; how many."""
    deleted = run_sql(
        connection, "DELETE FROM user_sessions WHERE created_at < :created OR seen_at < :seen", dict(oldest)
    )
    return int(deleted.rowcount)
