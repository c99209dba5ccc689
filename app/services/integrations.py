"""Integrations, the outbound configuration and disabled targets of accounts.

Credentials are returned only to those who send.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from app.actions.integration_kinds import KINDS, Kind
from app.core.config import SettingsError
from app.core.errors import Problem, ProblemType
from app.db import accounts, integrations, secrets
from app.db.audit import Change
from app.db.integrations import OutboundConfig
from app.services import audit, startup_checks
from app.services.context import AppContext
from app.workflows.step_graph import walk_steps


@dataclass(frozen=True, slots=True)
class Integration:
    """An integration with masked secrets. `fields` is None when no key of ENCRYPTION_KEY decrypts it."""

    kind: str
    fields: Mapping[str, str] | None
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class Rotation:
    """How many secrets were encrypted again, and which could not be decrypted."""

    count: int
    undecryptable: tuple[str, ...]


def find_kind(name: str) -> Kind:
    """A kind of integration; raises Problem 404."""
    if name not in KINDS:
        raise Problem(ProblemType.NOT_FOUND, f"there is no integration {name!r}; there are {', '.join(KINDS)}")
    return KINDS[name]


def set_integration(
    context: AppContext,
    account_id: int,
    kind: Kind,
    changes: Mapping[str, str],
    *,
    is_new: bool = False,
) -> None:
    """Create an integration, or change the given fields of an existing one; an empty text removes a field.

    Raises Problem 422 with all errors of the resulting fields, and for another address without the secrets that are sent there;
    409 with `is_new` when the account has the integration.
    """
    startup_checks.check_settings(context)
    with context.database.transaction() as connection:
        # As each change whose state the management API compares with an ETag.
        accounts.lock_account(connection, account_id)
        stored = integrations.lock_integration(connection, account_id, kind.name)
        if is_new and stored is not None:
            raise Problem(ProblemType.CONFLICT, f"the account has a {kind.name} integration already")
        existing = {} if stored is None else _decrypt(context, stored)
        fields = {name: text for name, text in {**existing, **changes}.items() if text}
        if errors := kind.errors(fields):
            raise Problem(ProblemType.VALIDATION_FAILED, "; ".join(errors))
        if kept := kind.kept_secrets(existing, changes):
            raise Problem(ProblemType.VALIDATION_FAILED, f"another address needs {', '.join(kept)} again")
        if fields == existing:
            return
        encrypted = context.secrets.encrypt(json.dumps(fields, ensure_ascii=False))
        integrations.save_integration(connection, account_id, kind.name, encrypted, context.clock())
        before, after = map(kind.masked, audit.differences(existing, fields))
        audit.record(connection, context, Change("integration.set", account_id, kind.name, before, after))


def find_field_names(context: AppContext, account_id: int, kind: Kind) -> frozenset[str]:
    """The names of an integration's fields; none when the account has no such integration."""
    with context.database.transaction() as connection:
        stored = integrations.lock_integration(connection, account_id, kind.name)
    return frozenset() if stored is None else frozenset(_decrypt(context, stored))


def list_integrations(context: AppContext, account_id: int) -> list[Integration]:
    """An account's integrations by kind, with masked secrets."""
    with context.database.transaction() as connection:
        rows = integrations.list_integrations(connection, account_id)
    found = []
    for row in rows:
        try:
            fields = KINDS[row.kind].masked(_decrypt(context, row.settings)) if row.kind in KINDS else {}
        except SettingsError:
            fields = None
        found.append(Integration(row.kind, fields, row.created_at, row.updated_at))
    return found


def find_missing_kinds(context: AppContext, account_id: int, document: Mapping[str, Any]) -> list[str]:
    """The kinds of integrations that steps of a valid document send with, and that the account has not set up."""
    verbs = {verb for step in walk_steps(document["steps"]) for verb in step}
    needed = [kind.name for kind in KINDS.values() if not verbs.isdisjoint(kind.verbs)]
    with context.database.transaction() as connection:
        found = {row.kind for row in integrations.list_integrations(connection, account_id)}
    return [name for name in needed if name not in found]


def find_integration(context: AppContext, account_id: int, kind: Kind) -> Integration:
    """An account's integration, with masked secrets. Raises Problem 404."""
    found = next((one for one in list_integrations(context, account_id) if one.kind == kind.name), None)
    if found is None:
        raise _no_integration(kind)
    return found


def _no_integration(kind: Kind) -> Problem:
    return Problem(ProblemType.NOT_FOUND, f"the account has no {kind.name} integration")


def remove_integration(context: AppContext, account_id: int, kind: Kind) -> None:
    """Delete an integration with its credentials; raises Problem 404."""
    with context.database.transaction() as connection:
        accounts.lock_account(connection, account_id)
        if not integrations.remove_integration(connection, account_id, kind.name):
            raise _no_integration(kind)
        audit.record(connection, context, Change("integration.remove", account_id, kind.name))


def rotate_secrets(context: AppContext) -> Rotation:
    """Encrypt all secrets of all accounts again with the first key of ENCRYPTION_KEY. May be interrupted and run again;
    secrets that are changed at the same time are left as they are."""
    count, undecryptable = 0, []
    with context.database.transaction() as connection:
        for name, stored, replace in _list_encrypted(connection):
            try:
                replace(context.secrets.rotate(stored))
                count += 1
            except SettingsError:
                undecryptable.append(name)
        after = {"secrets": count, "undecryptable": len(undecryptable)}
        audit.record(connection, context, Change("integration.rotate", None, None, None, after))
    return Rotation(count, tuple(undecryptable))


def _list_encrypted(connection: sa.Connection) -> Iterator[tuple[str, bytes, Callable[[bytes], None]]]:
    """All that is stored encrypted: what it is, the stored bytes, and what replaces them."""
    for account_id, slug, stored in integrations.list_signing_secrets(connection):
        yield (
            f"signing secret of {slug}",
            stored,
            partial(integrations.replace_signing_secret, connection, account_id, stored),
        )
    for row in integrations.list_integrations(connection):
        yield (
            f"{row.kind} of account {row.account_id}",
            row.settings,
            partial(integrations.replace_settings, connection, row),
        )
    for account_id, name, stored in secrets.list_values(connection):
        yield (
            f"secret {name} of account {account_id}",
            stored,
            partial(secrets.replace_value, connection, account_id, name, stored),
        )


def _decrypt(context: AppContext, encrypted: bytes) -> dict[str, str]:
    fields: dict[str, str] = json.loads(context.secrets.decrypt(encrypted))
    return fields


# Outbound configuration


def find_outbound_config(context: AppContext, account_id: int) -> OutboundConfig:
    """The account's current outbound configuration, still encrypted."""
    with context.database.transaction() as connection:
        found = integrations.find_outbound_config(connection, account_id)
    if found is None:
        raise Problem(ProblemType.NOT_FOUND, "there is no such account")
    return found


def open_secret(context: AppContext, config: OutboundConfig, name: str) -> str | None:
    """The decrypted value of a secret; None when there is none. Raises SettingsError."""
    return context.secrets.decrypt(config.secrets[name]) if name in config.secrets else None


def open_integration(context: AppContext, config: OutboundConfig, kind: str) -> dict[str, str] | None:
    """The decrypted fields of an integration; None when there is none. Raises SettingsError."""
    return _decrypt(context, config.integrations[kind]) if kind in config.integrations else None


# Targets


def disable_target(context: AppContext, account_id: int, target: str, reason: str, run_id: UUID) -> None:
    """Disable a target until a person enables it again."""
    with context.database.transaction() as connection:
        if integrations.disable_target(connection, account_id, target, reason, run_id, context.clock()):
            after = {"reason": reason, "run": str(run_id)}
            audit.record(connection, context, Change("target.disable", account_id, target, None, after))


def enable_target(context: AppContext, account_id: int, target: str) -> None:
    """Enable a disabled target; raises Problem 404."""
    with context.database.transaction() as connection:
        if not integrations.enable_target(connection, account_id, target):
            raise Problem(ProblemType.NOT_FOUND, f"{target} is not disabled")
        audit.record(connection, context, Change("target.enable", account_id, target))
