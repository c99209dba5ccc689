"""What accounts send with, and where they must not send: integrations, disabled targets. Each function is one transaction.

Comes in: the house and plain values. Goes out: frozen values; credentials only where something is about to be sent.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from app.actions.integration_kinds import KINDS, Kind
from app.core.config import SettingsError
from app.core.errors import Problem, ProblemType
from app.db import integrations
from app.db.integrations import OutboundConfig, TargetRow
from app.services.context import AppContext


@dataclass(frozen=True, slots=True)
class Integration:
    """An integration as it may be shown: secrets masked; `fields` is None when no key of ENCRYPTION_KEY opens it."""

    kind: str
    fields: Mapping[str, str] | None
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class Rotated:
    """How many secrets were encrypted anew, and which could not be opened."""

    count: int
    unopened: tuple[str, ...]


def kind_called(name: str) -> Kind:
    """A kind of integration; raises Problem 404."""
    if name not in KINDS:
        raise Problem(ProblemType.NOT_FOUND, f"there is no integration {name!r}; there are {', '.join(KINDS)}")
    return KINDS[name]


def set_integration(context: AppContext, account_id: int, kind: Kind, changes: Mapping[str, str]) -> None:
    """Set up an integration, or change the named fields of the one there is; an empty text takes a field away.

    Raises Problem 422 with all that is wrong with what would come out.
    """
    with context.database.transaction() as connection:
        stored = integrations.lock_integration(connection, account_id, kind.name)
        known = {} if stored is None else _opened(context, stored)
        fields = {name: text for name, text in {**known, **changes}.items() if text}
        if mistakes := kind.mistakes(fields):
            raise Problem(ProblemType.VALIDATION_FAILED, "; ".join(mistakes))
        sealed = context.secrets.encrypt(json.dumps(fields, ensure_ascii=False))
        integrations.save_integration(connection, account_id, kind.name, sealed, context.clock())


def fields_known(context: AppContext, account_id: int, kind: Kind) -> frozenset[str]:
    """The names of the fields that an integration has; none when there is no such integration."""
    with context.database.transaction() as connection:
        stored = integrations.lock_integration(connection, account_id, kind.name)
    return frozenset() if stored is None else frozenset(_opened(context, stored))


def list_integrations(context: AppContext, account_id: int) -> list[Integration]:
    """An account's integrations by kind, secrets masked."""
    with context.database.transaction() as connection:
        rows = integrations.list_integrations(connection, account_id)
    found = []
    for row in rows:
        try:
            fields = KINDS[row.kind].showable(_opened(context, row.settings)) if row.kind in KINDS else {}
        except SettingsError:
            fields = None
        found.append(Integration(row.kind, fields, row.created_at, row.updated_at))
    return found


def remove_integration(context: AppContext, account_id: int, kind: Kind) -> None:
    """Forget an integration with its credentials; raises Problem 404."""
    with context.database.transaction() as connection:
        removed = integrations.remove_integration(connection, account_id, kind.name)
    if not removed:
        raise Problem(ProblemType.NOT_FOUND, f"the account has no {kind.name} integration")


def rotate_secrets(context: AppContext) -> Rotated:
    """Encrypt all secrets of all accounts anew, with the first key of ENCRYPTION_KEY. May be broken off and run again;
    what somebody changes meanwhile stays as it is."""
    count, unopened = 0, []
    with context.database.transaction() as connection:
        for account_id, slug, stored in integrations.list_signing_secrets(connection):
            try:
                integrations.replace_signing_secret(connection, account_id, stored, context.secrets.rotate(stored))
                count += 1
            except SettingsError:
                unopened.append(f"signing secret of {slug}")
        for row in integrations.list_integrations(connection):
            try:
                integrations.replace_settings(connection, row, context.secrets.rotate(row.settings))
                count += 1
            except SettingsError:
                unopened.append(f"{row.kind} of account {row.account_id}")
    return Rotated(count, tuple(unopened))


def _opened(context: AppContext, sealed: bytes) -> dict[str, str]:
    fields: dict[str, str] = json.loads(context.secrets.decrypt(sealed))
    return fields


# For those who send


def find_outbound_config(context: AppContext, account_id: int) -> OutboundConfig:
    """What an account's calls to the outside take now, still encrypted."""
    with context.database.transaction() as connection:
        found = integrations.find_outbound_config(connection, account_id)
    if found is None:
        raise Problem(ProblemType.NOT_FOUND, "there is no such account")
    return found


def open_integration(context: AppContext, outbound: OutboundConfig, kind: str) -> dict[str, str] | None:
    """The fields of an integration, credentials in clear; None when there is none. Raises SettingsError."""
    return _opened(context, outbound.integrations[kind]) if kind in outbound.integrations else None


# Targets


def disable_target(context: AppContext, account_id: int, target: str, reason: str, run_id: UUID) -> None:
    """Keep a target from being called until a person enables it again."""
    with context.database.transaction() as connection:
        integrations.disable_target(connection, account_id, target, reason, run_id, context.clock())


def list_disabled_targets(context: AppContext, account_id: int) -> list[TargetRow]:
    """An account's disabled targets, the latest first."""
    with context.database.transaction() as connection:
        return integrations.list_disabled_targets(connection, account_id)


def enable_target(context: AppContext, account_id: int, target: str) -> None:
    """Let a target be called again; raises Problem 404."""
    with context.database.transaction() as connection:
        enabled = integrations.enable_target(connection, account_id, target)
    if not enabled:
        raise Problem(ProblemType.NOT_FOUND, f"{target} is not disabled; `flask target list` shows what is")
