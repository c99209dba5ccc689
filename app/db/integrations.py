"""What an account sends with and where it must not send: integrations (encrypted), and targets that were disabled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa


@dataclass(frozen=True, slots=True)
class IntegrationRow:
    """An integration; `settings` are encrypted."""

    account_id: int
    kind: str
    settings: bytes
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class TargetRow:
    """A target that is not called until a person enables it again, and the run that found out."""

    target: str
    reason: str
    run_id: UUID
    disabled_at: datetime


@dataclass(frozen=True, slots=True)
class OutboundConfig:
    """All of an account that its calls to the outside take, read by one statement; secrets are encrypted."""

    signing_secret: bytes
    integrations: Mapping[str, bytes]
    disabled: Mapping[str, str]


# As many targets as an account can reasonably have lost; what is older is called once more and disabled again.
_WAY_OUT = """
SELECT signing_secret,
    (SELECT coalesce(jsonb_object_agg(kind, encode(settings, 'hex')), '{}') FROM integrations
     WHERE account_id = accounts.id) AS integrations,
    (SELECT coalesce(jsonb_object_agg(target, reason), '{}') FROM (
        SELECT target, reason FROM disabled_targets WHERE account_id = accounts.id ORDER BY disabled_at DESC LIMIT 1000
     ) AS latest) AS disabled
FROM accounts WHERE id = :account
"""


def find_outbound_config(connection: sa.Connection, account_id: int) -> OutboundConfig | None:
    """What the account's calls to the outside take now."""
    row = connection.execute(sa.text(_WAY_OUT), {"account": account_id}).one_or_none()
    if row is None:
        return None
    integrations = {kind: bytes.fromhex(settings) for kind, settings in row.integrations.items()}
    return OutboundConfig(bytes(row.signing_secret), integrations, row.disabled)


def list_integrations(connection: sa.Connection, account_id: int | None = None) -> list[IntegrationRow]:
    """The integrations of an account, or of all of them."""
    rows = connection.execute(
        sa.text(
            "SELECT account_id, kind, settings, created_at, updated_at FROM integrations "
            "WHERE :account IS NULL OR account_id = :account ORDER BY account_id, kind"
        ).bindparams(sa.bindparam("account", type_=sa.BigInteger)),
        {"account": account_id},
    )
    return [IntegrationRow(row.account_id, row.kind, bytes(row.settings), *row[3:]) for row in rows]


def lock_integration(connection: sa.Connection, account_id: int, kind: str) -> bytes | None:
    """The encrypted settings of one integration; until the transaction ends nobody else changes them."""
    settings = connection.execute(
        sa.text("SELECT settings FROM integrations WHERE account_id = :account AND kind = :kind FOR UPDATE"),
        {"account": account_id, "kind": kind},
    ).scalar()
    return None if settings is None else bytes(settings)


def save_integration(connection: sa.Connection, account_id: int, kind: str, settings: bytes, now: datetime) -> None:
    """Make an integration, or change what is there."""
    connection.execute(
        sa.text(
            "INSERT INTO integrations (account_id, kind, settings, created_at, updated_at) "
            "VALUES (:account, :kind, :settings, :now, :now) "
            "ON CONFLICT (account_id, kind) DO UPDATE SET settings = :settings, updated_at = :now"
        ),
        {"account": account_id, "kind": kind, "settings": settings, "now": now},
    )


def remove_integration(connection: sa.Connection, account_id: int, kind: str) -> bool:
    """Forget an integration; False when there is none."""
    removed = connection.execute(
        sa.text("DELETE FROM integrations WHERE account_id = :account AND kind = :kind"),
        {"account": account_id, "kind": kind},
    )
    return bool(removed.rowcount)


def replace_settings(connection: sa.Connection, row: IntegrationRow, settings: bytes) -> None:
    """Put another encryption of the same settings in place; what was changed since is left alone."""
    connection.execute(
        sa.text(
            "UPDATE integrations SET settings = :new WHERE account_id = :account AND kind = :kind AND settings = :old"
        ),
        {"account": row.account_id, "kind": row.kind, "old": row.settings, "new": settings},
    )


def list_signing_secrets(connection: sa.Connection) -> list[tuple[int, str, bytes]]:
    """(id, slug, encrypted signing secret) of all accounts."""
    rows = connection.execute(sa.text("SELECT id, slug, signing_secret FROM accounts ORDER BY id"))
    return [(row.id, row.slug, bytes(row.signing_secret)) for row in rows]


def replace_signing_secret(connection: sa.Connection, account_id: int, old: bytes, new: bytes) -> None:
    """Put another encryption of the same signing secret in place; one that was changed since is left alone."""
    connection.execute(
        sa.text("UPDATE accounts SET signing_secret = :new WHERE id = :id AND signing_secret = :old"),
        {"id": account_id, "old": old, "new": new},
    )


def disable_target(
    connection: sa.Connection, account_id: int, target: str, reason: str, run: UUID, now: datetime
) -> None:
    """Keep a target from being called; one that is disabled already keeps its first reason."""
    connection.execute(
        sa.text(
            "INSERT INTO disabled_targets (account_id, target, reason, run_id, disabled_at) "
            "VALUES (:account, :target, :reason, :run, :now) ON CONFLICT (account_id, target) DO NOTHING"
        ),
        {"account": account_id, "target": target, "reason": reason, "run": run, "now": now},
    )


def list_disabled_targets(connection: sa.Connection, account_id: int) -> list[TargetRow]:
    """The targets of an account that are disabled, the latest first."""
    rows = connection.execute(
        sa.text(
            "SELECT target, reason, run_id, disabled_at FROM disabled_targets "
            "WHERE account_id = :account ORDER BY disabled_at DESC, target"
        ),
        {"account": account_id},
    )
    return [TargetRow(*row) for row in rows]


def enable_target(connection: sa.Connection, account_id: int, target: str) -> bool:
    """Let a target be called again; False when it is not disabled."""
    removed = connection.execute(
        sa.text("DELETE FROM disabled_targets WHERE account_id = :account AND target = :target"),
        {"account": account_id, "target": target},
    )
    return bool(removed.rowcount)
