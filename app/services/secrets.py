"""Secrets of accounts: values that sources and workflows read by their names.

Values are returned only to those who use them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from app.actions.integration_kinds import MASK
from app.actions.templates.render import secrets_read
from app.core.errors import Problem, ProblemType
from app.core.template_names import SECRET_NAME
from app.db import accounts, secrets, sources
from app.db.audit import Change
from app.services import audit, startup_checks
from app.services.context import AppContext
from app.workflows.secret_names import find_secret_names
from app.workflows.yaml_loader import Document, Mistake

# Secrets of an account; bytes of a value. A shorter value can be guessed, and could not be masked within other texts.
MAX_SECRETS = 100
MIN_CHARACTERS, MAX_BYTES = 8, 4_096


@dataclass(frozen=True, slots=True)
class Secret:
    """A secret without its value. `used_by`: what reads it, such as `workflow cart-rescue`."""

    name: str
    created_at: datetime
    updated_at: datetime
    used_by: tuple[str, ...]


def set_secret(context: AppContext, account_id: int, name: str, value: str, *, is_new: bool = False) -> bool:
    """Create a secret (True) or replace its value (False). Raises Problem, 409 with `is_new` when the account has it."""
    _check(name, value)
    startup_checks.check_settings(context)
    encrypted, now = context.secrets.encrypt(value), context.clock()
    with context.database.transaction() as connection:
        accounts.increment_version(connection, account_id)
        known = {row.name: row for row in secrets.list_secrets(connection, account_id)}
        if name not in known and len(known) >= MAX_SECRETS:
            raise Problem(ProblemType.CONFLICT, f"the account has {len(known)} secrets; {MAX_SECRETS} are allowed")
        if is_new and name in known:
            raise Problem(ProblemType.CONFLICT, f"the account has a secret {name} already")
        secrets.save_secret(connection, account_id, name, encrypted, now)
        before = {"value": MASK, "updated_at": known[name].updated_at} if name in known else None
        after = {"value": MASK, "updated_at": now}
        audit.record(connection, context, Change("secret.set", account_id, name, before, after))
    return name not in known


def list_secrets(context: AppContext, account_id: int, *, after: str = "", limit: int | None = None) -> list[Secret]:
    """An account's secrets by name, without their values: those after `after`, at most `limit` (None: all)."""
    with context.database.transaction() as connection:
        uses = _find_uses(connection, account_id)
        return [
            Secret(row.name, row.created_at, row.updated_at, uses.get(row.name, ()))
            for row in secrets.list_secrets(connection, account_id, after, limit)
        ]


def find_secret(context: AppContext, account_id: int, name: str) -> Secret:
    """A secret without its value. Raises Problem 404."""
    found = next((one for one in list_secrets(context, account_id) if one.name == name), None)
    if found is None:
        raise _no_secret(name)
    return found


def _no_secret(name: str) -> Problem:
    return Problem(ProblemType.NOT_FOUND, f"the account has no secret {name!r}")


def remove_secret(context: AppContext, account_id: int, name: str, *, force: bool = False) -> tuple[str, ...]:
    """Delete a secret; what read it. Raises Problem 404, and 409 while something reads it, unless `force`."""
    with context.database.transaction() as connection:
        accounts.increment_version(connection, account_id)
        if not secrets.remove_secret(connection, account_id, name):
            raise _no_secret(name)
        users = _find_uses(connection, account_id).get(name, ())
        if users and not force:
            raise Problem(ProblemType.CONFLICT, f"{name} is used by {', '.join(users)}")
        before = {"value": MASK, **({"used_by": users} if users else {})}
        audit.record(connection, context, Change("secret.remove", account_id, name, before))
    return users


def decrypt_secrets(context: AppContext, encrypted: Mapping[str, bytes], names: Iterable[str]) -> dict[str, str]:
    """The values of these of an account's encrypted secrets; names that the account does not have are left out. Raises
    SettingsError."""
    return {name: context.secrets.decrypt(encrypted[name]) for name in names if name in encrypted}


def find_values(context: AppContext, account_id: int, names: Iterable[str]) -> dict[str, str]:
    """The values of these of an account's secrets; names that the account does not have are left out. Raises SettingsError."""
    with context.database.transaction() as connection:
        encrypted = secrets.find_values(connection, account_id, names)
    return decrypt_secrets(context, encrypted, names)


def find_missing(
    connection: sa.Connection, account_id: int, document: Document, read: Iterable[tuple[str, str]]
) -> list[Mistake]:
    """The mistakes of a document that reads secrets, (path, name) each, which the account does not have. The account has to be
    locked, so that none of the others is removed before the document is enabled."""
    read = list(read)
    known = secrets.find_names(connection, account_id) if read else frozenset()
    return [document.mistake(path, f"the account has no secret {name}") for path, name in read if name not in known]


def _check(name: str, value: str) -> None:
    if not SECRET_NAME.fullmatch(name):
        message = (
            f"{name!r} is not a name of a secret: a capital letter, then up to 63 of A-Z, 0-9 and _, such as SHOPIFY"
        )
        raise Problem(ProblemType.VALIDATION_FAILED, message)
    if error := _value_error(value):
        raise Problem(ProblemType.VALIDATION_FAILED, f"the value {error}")


def _value_error(value: str) -> str | None:
    """What is wrong with a value; None if nothing is."""
    if value != value.strip():
        return "must not begin or end with spaces or line breaks"
    if len(value) < MIN_CHARACTERS:
        return f"must have at least {MIN_CHARACTERS} characters"
    if (size := len(value.encode("utf-8", "replace"))) > MAX_BYTES:
        return f"has {size:,} bytes; {MAX_BYTES:,} are allowed"
    if not all(one.isprintable() or one in "\t\r\n" for one in value):
        return "must be text without control characters"
    return None


def _find_uses(connection: sa.Connection, account_id: int) -> dict[str, tuple[str, ...]]:
    """What reads each secret that is read: enabled workflows, and sources. A disabled source verifies what is posted, too."""
    uses: dict[str, list[str]] = {}
    for workflow, document in secrets.find_workflows_with_secrets(connection, account_id):
        for name in sorted({name for _, name in find_secret_names(document)}):
            uses.setdefault(name, []).append(f"workflow {workflow}")
    for source in sources.list_sources(connection, account_id):
        for name in sorted(secrets_read(source.document)):
            uses.setdefault(name, []).append(f"source {source.name}")
    return {name: tuple(users) for name, users in uses.items()}
