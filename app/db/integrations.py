"""Outbound configuration of accounts: integrations (encrypted) and disabled targets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa

from app.db.connection import run_sql


@dataclass(frozen=True, slots=True)
class IntegrationRow:
    """An integration; `settings` are encrypted."""

    account_id: int
    kind: str
    settings: bytes
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class OutboundConfig:
    """What an account's outgoing calls need, read by one statement; secrets are encrypted."""

    signing_secret: bytes
    integrations: Mapping[str, bytes]
    secrets: Mapping[str, bytes]
    disabled: Mapping[str, str]


# The latest 1,000 disabled targets. An older one is called again, and disabled again.
_OUTBOUND_CONFIG = """
SELECT signing_secret,
    (SELECT coalesce(jsonb_object_agg(kind, encode(settings, 'hex')), '{}') FROM integrations
     WHERE account_id = accounts.id) AS integrations,
    (SELECT coalesce(jsonb_object_agg(name, encode(value, 'escape')), '{}') FROM secrets
     WHERE account_id = accounts.id) AS secrets,
    (SELECT coalesce(jsonb_object_agg(target, reason), '{}') FROM (
        SELECT target, reason FROM disabled_targets WHERE account_id = accounts.id ORDER BY disabled_at DESC LIMIT 1000
     ) AS latest) AS disabled
FROM accounts WHERE id = :account
"""


def find_outbound_config(connection: sa.Connection, account_id: int) -> OutboundConfig | None:
    """The account's current outbound configuration."""
    row = run_sql(connection, _OUTBOUND_CONFIG, {"account": account_id}).one_or_none()
    if row is None:
        return None
    integrations = {kind: bytes.fromhex(settings) for kind, settings in row.integrations.items()}
    secrets = {name: value.encode() for name, value in row.secrets.items()}
    return OutboundConfig(bytes(row.signing_secret), integrations, secrets, row.disabled)


def list_integrations(connection: sa.Connection, account_id: int | None = None) -> list[IntegrationRow]:
    """The integrations of an account, or of all accounts."""
    rows = run_sql(
        connection,
        "SELECT account_id, kind, settings, created_at, updated_at FROM integrations "
        "WHERE :account IS NULL OR account_id = :account ORDER BY account_id, kind",
        {"account": account_id},
    )
    return [IntegrationRow(row.account_id, row.kind, bytes(row.settings), *row[3:]) for row in rows]


def lock_integration(connection: sa.Connection, account_id: int, kind: str) -> bytes | None:
    """The encrypted settings of an integration, locked until the transaction ends."""
    settings = run_sql(
        connection,
        "SELECT settings FROM integrations WHERE account_id = :account AND kind = :kind FOR UPDATE",
        {"account": account_id, "kind": kind},
    ).scalar()
    return None if settings is None else bytes(settings)


def save_integration(connection: sa.Connection, account_id: int, kind: str, settings: bytes, now: datetime) -> None:
    """Insert an integration, or update it."""
    run_sql(
        connection,
        "INSERT INTO integrations (account_id, kind, settings, created_at, updated_at) "
        "VALUES (:account, :kind, :settings, :now, :now) "
        "ON CONFLICT (account_id, kind) DO UPDATE SET settings = :settings, updated_at = :now",
        {"account": account_id, "kind": kind, "settings": settings, "now": now},
    )


def remove_integration(connection: sa.Connection, account_id: int, kind: str) -> bool:
    """Delete an integration; False when there is none."""
    removed = run_sql(
        connection,
        "DELETE FROM integrations WHERE account_id = :account AND kind = :kind",
        {"account": account_id, "kind": kind},
    )
    return bool(removed.rowcount)


def replace_settings(connection: sa.Connection, row: IntegrationRow, settings: bytes) -> None:
    """Replace the settings by the same settings with another encryption, unless they have changed since."""
    run_sql(
        connection,
        "UPDATE integrations SET settings = :new WHERE account_id = :account AND kind = :kind AND settings = :old",
        {"account": row.account_id, "kind": row.kind, "old": row.settings, "new": settings},
    )


def list_signing_secrets(connection: sa.Connection) -> list[tuple[int, str, bytes]]:
    """(id, slug, encrypted signing secret) of all accounts."""
    rows = run_sql(connection, "SELECT id, slug, signing_secret FROM accounts ORDER BY id")
    return [(row.id, row.slug, bytes(row.signing_secret)) for row in rows]


def replace_signing_secret(connection: sa.Connection, account_id: int, old: bytes, new: bytes) -> None:
    """Replace a signing secret by the same secret with another encryption, unless it has changed since."""
    run_sql(
        connection,
        "UPDATE accounts SET signing_secret = :new WHERE id = :id AND signing_secret = :old",
        {"id": account_id, "old": old, "new": new},
    )


def disable_target(
    connection: sa.Connection, account_id: int, target: str, reason: str, run: UUID, now: datetime
) -> bool:
    """Disable a target; False for one that is disabled already, which keeps its first reason."""
    inserted = run_sql(
        connection,
        "INSERT INTO disabled_targets (account_id, target, reason, run_id, disabled_at) "
        "VALUES (:account, :target, :reason, :run, :now) ON CONFLICT (account_id, target) DO NOTHING",
        {"account": account_id, "target": target, "reason": reason, "run": run, "now": now},
    )
    return bool(inserted.rowcount)


def enable_target(connection: sa.Connection, account_id: int, target: str) -> bool:
    """Enable a target; False when it is not disabled."""
    removed = run_sql(
        connection,
        "DELETE FROM disabled_targets WHERE account_id = :account AND target = :target",
        {"account": account_id, "target": target},
    )
    return bool(removed.rowcount)
