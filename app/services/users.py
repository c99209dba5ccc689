"""The users of the console: their passwords, roles and sessions."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from app.core import passwords
from app.core.api_keys import digest_of
from app.core.errors import Problem, ProblemType
from app.core.ids import uuid7
from app.core.models import OWNER, ROLES
from app.db import accounts, users
from app.db.accounts import AccountRow
from app.db.audit import Change
from app.db.users import Membership, SessionRow, UserRow
from app.services import audit
from app.services.context import AppContext

# Of a user, in a list without pages.
MAX_SESSIONS_SHOWN = 100
# A session ends so long after the sign-in, and so long after its last request.
MAX_SESSION, MAX_IDLE = timedelta(days=30), timedelta(days=7)
_SEEN_EVERY = timedelta(minutes=1)
_EMAIL = re.compile(r"[^\s@]+@[^\s@]+")
_MAX_EMAIL, _MAX_AGENT = 254, 300


@dataclass(frozen=True, slots=True)
class SignedIn:
    """A user who is signed in, and the session."""

    user: UserRow
    session: SessionRow


def create_user(
    context: AppContext,
    email: str,
    password: str | None = None,
    *,
    is_operator: bool = False,
    role: tuple[AccountRow, str] | None = None,
) -> tuple[UserRow, str]:
    """Create a user, with a role in an account if one is given; the user and the password, a random one unless given. Raises
    Problem 409 and 422."""
    email, now = _clean_email(email), context.clock()
    password = _checked_password(password)
    user = UserRow(uuid7(now), email, is_operator, now, now, None)
    password_hash = passwords.hash_password(password)
    with context.database.transaction() as connection:
        if not users.insert_user(connection, user, password_hash):
            raise Problem(ProblemType.CONFLICT, f"there is a user {email!r} already")
        after: dict[str, Any] = {"is_operator": is_operator}
        if role is not None:
            users.set_role(connection, role[0].id, user.id, role[1], now)
            after["role"] = role[1]
        owner = None if role is None else role[0].id
        audit.record(connection, context, Change("user.create", owner, email, None, after))
    return user, password


def _clean_email(text: str) -> str:
    email = text.strip().lower()
    if not _EMAIL.fullmatch(email) or len(email) > _MAX_EMAIL or not email.isprintable():
        raise Problem(
            ProblemType.VALIDATION_FAILED,
            f"{text[:100]!r} is not an email address of at most {_MAX_EMAIL} characters, such as name@example.com",
        )
    return email


def _checked_password(password: str | None) -> str:
    if password is None:
        return passwords.make_password()
    if (fault := passwords.find_fault(password)) is not None:
        raise Problem(ProblemType.VALIDATION_FAILED, f"the password {fault}")
    return password


def find_user(context: AppContext, email: str, *, lock: bool = False) -> UserRow:
    """A user by the email address. `lock`: it does not change until the transaction of a request (`change_account`) ends. Raises
    Problem 404."""
    with context.database.transaction() as connection:
        return _existing(users.find_user(connection, email.strip().lower(), lock=lock), email)


def _existing(user: UserRow | None, email: str) -> UserRow:
    if user is None:
        raise Problem(ProblemType.NOT_FOUND, f"there is no user {email!r}")
    return user


def list_users(context: AppContext, *, after: str = "", limit: int | None = None) -> list[UserRow]:
    """Users by email address: those after `after`, at most `limit` (None: all)."""
    with context.database.transaction() as connection:
        return users.list_users(connection, after, limit)


@contextmanager
def _change(context: AppContext, email: str, account_id: int | None = None) -> Iterator[tuple[sa.Connection, UserRow]]:
    """A transaction that changes a user, who is locked; first the account, if given, as by requests of the management API.
    Raises Problem 404."""
    with context.database.transaction() as connection:
        if account_id is not None:
            accounts.lock_account(connection, account_id)
        yield connection, _existing(users.find_user(connection, email.strip().lower(), lock=True), email)


def set_password(context: AppContext, email: str, password: str | None = None, *, keep: UUID | None = None) -> str:
    """Set the password of a user, a random one unless given, and end all sessions but the one to `keep`. The password.
    Raises Problem 404 and 422."""
    password = _checked_password(password)
    password_hash = passwords.hash_password(password)
    with _change(context, email) as (connection, user):
        users.set_password(connection, user.id, password_hash, context.clock())
        ended = users.delete_sessions(connection, user.id, keep=keep)
        audit.record(connection, context, Change("user.password", None, user.email, None, {"ended_sessions": ended}))
    return password


def switch_user(context: AppContext, email: str, *, on: bool) -> None:
    """Enable or disable a user; the sessions of a disabled one end. Raises Problem 404."""
    with _change(context, email) as (connection, user):
        if (user.disabled_at is None) == on:
            return
        at = None if on else context.clock()
        users.set_disabled(connection, user.id, at)
        users.delete_sessions(connection, user.id)
        before, after = {"disabled_at": user.disabled_at}, {"disabled_at": at}
        change = Change("user.enable" if on else "user.disable", None, user.email, before, after)
        audit.record(connection, context, change)


def set_operator(context: AppContext, email: str, *, is_operator: bool) -> None:
    """Make a user an operator, or no longer one. Raises Problem 404."""
    with _change(context, email) as (connection, user):
        if user.is_operator == is_operator:
            return
        users.set_operator(connection, user.id, is_operator=is_operator)
        before, after = {"is_operator": user.is_operator}, {"is_operator": is_operator}
        audit.record(connection, context, Change("user.operator", None, user.email, before, after))


def delete_user(context: AppContext, email: str) -> None:
    """Delete a user. Raises Problem 404."""
    with _change(context, email) as (connection, user):
        users.delete_user(connection, user.id)
        before = {"is_operator": user.is_operator, "created_at": user.created_at}
        audit.record(connection, context, Change("user.delete", None, user.email, before))


# Roles


def set_role(context: AppContext, email: str, account: AccountRow, role: str | None) -> None:
    """Give a user a role in an account, or none (None). Raises Problem 404, 409 (an account keeps an owner if it has one) and
    422."""
    if role is not None and role not in ROLES:
        raise Problem(ProblemType.VALIDATION_FAILED, f"{role!r} is not a role; the roles are {', '.join(ROLES)}")
    # The account, too: two owners who remove each other at the same time would leave none.
    with _change(context, email, account.id) as (connection, user):
        before = users.find_role(connection, account.id, user.id)
        if before == role:
            return
        others = [one for one in users.list_members(connection, account.id) if one.email != user.email]
        if before == OWNER and others and not any(one.role == OWNER for one in others):
            raise Problem(
                ProblemType.CONFLICT,
                f"{user.email} is the last owner of {account.slug}; make another user its owner first",
            )
        users.set_role(connection, account.id, user.id, role, context.clock())
        change = Change("user.role", account.id, user.email, {"role": before}, {"role": role})
        audit.record(connection, context, change)


def list_memberships(context: AppContext, user: UserRow) -> list[Membership]:
    """The roles of a user, by account."""
    with context.database.transaction() as connection:
        return users.list_memberships(connection, user.id)


def list_members(
    context: AppContext, account_id: int, *, after: str = "", limit: int | None = None
) -> list[Membership]:
    """The roles in an account, by email address: those after `after`, at most `limit` (None: all)."""
    with context.database.transaction() as connection:
        return users.list_members(connection, account_id, after, limit)


def find_member(context: AppContext, account_id: int, email: str) -> Membership | None:
    """The role of a user in an account, by the email address."""
    with context.database.transaction() as connection:
        return users.find_member(connection, account_id, email.strip().lower())


def find_role(context: AppContext, user: UserRow, account_id: int) -> str | None:
    """The role of a user in an account; operators have that of an owner in all of them."""
    if user.is_operator:
        return OWNER
    with context.database.transaction() as connection:
        return users.find_role(connection, account_id, user.id)


# Sessions


def sign_in(context: AppContext, email: str, password: str, address: str, agent: str) -> tuple[SignedIn, str] | None:
    """Sign in: the user with the new session, and the secret text for its cookie. None for a wrong address or password and for
    a disabled user, after the same time."""
    now = context.clock()
    with context.database.transaction() as connection:
        user = users.find_user(connection, email.strip().lower())
        stored = None if user is None else users.find_password_hash(connection, user.id)
    # Outside a transaction, which would hold a connection meanwhile.
    is_right = passwords.verify_password(stored, password[: passwords.MAX_LENGTH + 1])
    if user is None or stored is None or not is_right or user.disabled_at is not None:
        return None
    new_hash = passwords.hash_password(password) if passwords.needs_rehash(stored) else None
    token = secrets.token_urlsafe(32)
    session = SessionRow(uuid7(now), now, now, address, _printable(agent))
    with context.database.transaction() as connection:
        current = users.find_user(connection, user.email, lock=True)
        if current is None or current.disabled_at or current.password_changed_at != user.password_changed_at:
            return None
        if new_hash is not None:
            users.set_password_hash(connection, user.id, new_hash)
        users.insert_session(connection, user.id, digest_of(token), session)
        after = {"session": str(session.id), "address": address}
        audit.record(connection, context, Change("user.sign-in", None, user.email, None, after))
    return SignedIn(user, session), token


def check_password(context: AppContext, user: UserRow, password: str) -> bool:
    """Whether this is the user's password."""
    with context.database.transaction() as connection:
        stored = users.find_password_hash(connection, user.id)
    return passwords.verify_password(stored, password[: passwords.MAX_LENGTH + 1])


def _printable(text: str) -> str:
    return "".join(character for character in text if character.isprintable())[:_MAX_AGENT]


def find_session(context: AppContext, token: str) -> SignedIn | None:
    """The user and session of a cookie; None when the session has ended. Notes the use, once a minute."""
    now = context.clock()
    with context.database.transaction() as connection:
        found = users.find_session(connection, digest_of(token), _oldest(now))
        if found is None:
            return None
        user, session = found
        if now - session.seen_at >= _SEEN_EVERY:
            users.touch_session(connection, session.id, now)
    return SignedIn(user, session)


def _oldest(now: datetime) -> dict[str, datetime]:
    return {"created": now - MAX_SESSION, "seen": now - MAX_IDLE}


def list_sessions(
    context: AppContext, user: UserRow, *, after: UUID | None = None, limit: int = MAX_SESSIONS_SHOWN
) -> list[SessionRow]:
    """The sessions of a user that have not ended, the last sign-in first, behind the one with the id `after`."""
    with context.database.transaction() as connection:
        return users.list_sessions(connection, user.id, _oldest(context.clock()), after=after, limit=limit)


def end_sessions(context: AppContext, user: UserRow, only: UUID | None = None) -> int:
    """End all sessions of a user, or one; how many there were."""
    with context.database.transaction() as connection:
        ended = users.delete_sessions(connection, user.id, only=only)
        if ended:
            after = {"ended_sessions": ended} if only is None else {"session": str(only)}
            audit.record(connection, context, Change("user.sign-out", None, user.email, None, after))
    return ended


def delete_ended_sessions(connection: sa.Connection, now: datetime) -> int:
    """Delete the sessions that have ended by themselves; how many. For housekeeping, in its transaction."""
    return users.delete_ended_sessions(connection, _oldest(now))
