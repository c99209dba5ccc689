"""The roles of processes and people in the database: makes them, and sets passwords."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from app.core.errors import Problem, ProblemType
from app.db import audit as db_audit
from app.db import roles
from app.db.roles import Change, KnownRole, Roles
from app.services import audit
from app.services.context import AppContext

PREFIX = "signalbox"
_PREFIX = re.compile(r"[a-z_][a-z0-9_]{0,31}", re.ASCII)


def plan_roles(context: AppContext, prefix: str, account_ids: Sequence[int]) -> list[Change]:
    """What has to be done so that the roles are as they should be. Raises Problem for a prefix that is no name, and for roles of
    another database or without row-level security; Unavailable."""
    if not _PREFIX.fullmatch(prefix):
        raise Problem(
            ProblemType.VALIDATION_FAILED, f"{prefix!r} is no prefix: use at most 32 lower-case letters, digits and _"
        )
    names = Roles(prefix)
    guarded = [names.accounts, *map(names.of_account, account_ids)]
    with context.database.transaction() as connection:
        database = roles.database_name(connection)
        known = roles.find_roles(connection, [names.processes, names.read, *guarded])
        for name, role in known.items():
            _check(name, role, database, is_guarded=name in guarded)
        return roles.plan(roles.inspect(connection, names, known.keys()), names, account_ids)


def _check(name: str, role: KnownRole, database: str, *, is_guarded: bool) -> None:
    if role.database not in (None, database):
        raise Problem(
            ProblemType.CONFLICT,
            f"the role {name} belongs to the database {role.database} on this server: choose another --prefix",
        )
    if is_guarded and role.bypasses:
        raise Problem(
            ProblemType.CONFLICT, f"the role {name} is a superuser or has BYPASSRLS: it would see all accounts"
        )


def make_roles(context: AppContext, prefix: str, changes: Sequence[Change]) -> Iterator[Change]:
    """Make changes one after the other, each in a transaction of its own; those that were made. The first one records them.
    Raises Unavailable, and Problem at the end when the roles of accounts can read a table without row-level security."""
    with context.database.transaction() as connection:
        is_superuser = roles.is_superuser(connection)
    for change in changes:
        if change.needs_superuser and not is_superuser:
            yield replace(change, summary=f"{change.summary}: left out, which takes a superuser")
            continue
        with context.database.transaction() as connection:
            roles.apply(connection, change)
            if change is changes[0]:
                after = {"changes": [each.summary for each in changes]}
                audit.record(connection, context, db_audit.Change("role.make", None, prefix, None, after))
        yield change
    with context.database.transaction() as connection:
        table = roles.find_unguarded(connection, Roles(prefix))
    if table is not None:
        raise Problem(
            ProblemType.CONFLICT,
            f"the roles of accounts can read all rows of {table}, because it was granted to PUBLIC or to {prefix}_account: "
            "revoke that",
        )


def set_password(context: AppContext, name: str, password: str) -> None:
    """Set the password of a role that was made here. Raises Problem 404 for another one; Unavailable."""
    with context.database.transaction() as connection:
        role = roles.find_roles(connection, [name]).get(name)
        if role is None or role.database != roles.database_name(connection):
            raise Problem(
                ProblemType.NOT_FOUND, f"{name!r} is no role that `signalbox db roles` has made for this database"
            )
        roles.set_password(connection, name, password)
        audit.record(connection, context, db_audit.Change("role.set-password", None, name))
