"""OAuth clients and their access tokens. Only hashes of secrets and tokens are stored; tokens are found by prefix."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from app.db.accounts import increment_version
from app.db.connection import run_sql


@dataclass(frozen=True, slots=True)
class ClientRow:
    """A client as listed."""

    account_id: int
    account: str
    id: str
    name: str
    created_at: datetime
    revoked_at: datetime | None
    last_used_at: datetime | None


@dataclass(frozen=True, slots=True)
class Credentials:
    """How an active client is verified, and its token if it has one."""

    account_id: int
    digest: bytes
    token_prefix: str | None
    token_expires_at: datetime | None


def insert_client(
    connection: sa.Connection, account_id: int, client_id: str, digest: bytes, name: str, now: datetime
) -> None:
    """Insert a client; `digest` is the hash of its secret."""
    run_sql(
        connection,
        "INSERT INTO clients (account_id, id, digest, name, created_at) VALUES (:account, :id, :digest, :name, :now)",
        {"account": account_id, "id": client_id, "digest": digest, "name": name, "now": now},
    )


def find_credentials(connection: sa.Connection, client_id: str, *, lock: bool = False) -> Credentials | None:
    """The credentials of a client that is not revoked; `lock` locks its row."""
    row = run_sql(
        connection,
        "SELECT account_id, digest, token_prefix, token_expires_at FROM clients "
        f"WHERE id = :id AND revoked_at IS NULL {'FOR UPDATE' if lock else ''}",
        {"id": client_id},
    ).one_or_none()
    return None if row is None else Credentials(row[0], bytes(row[1]), row[2], row[3])


def set_token(
    connection: sa.Connection, account_id: int, client_id: str, prefix: str, digest: bytes, expires_at: datetime
) -> None:
    """Replace the token of a client."""
    run_sql(
        connection,
        "UPDATE clients SET token_prefix = :prefix, token_digest = :digest, token_expires_at = :expires "
        "WHERE account_id = :account AND id = :id",
        {"account": account_id, "id": client_id, "prefix": prefix, "digest": digest, "expires": expires_at},
    )
    increment_version(connection, account_id)


def list_clients(connection: sa.Connection, account_id: int | None) -> list[ClientRow]:
    """The clients of an account, or of all accounts, oldest first."""
    rows = run_sql(
        connection,
        "SELECT account_id, slug, clients.id, clients.name, clients.created_at, revoked_at, last_used_at "
        "FROM clients JOIN accounts ON accounts.id = account_id "
        "WHERE :account IS NULL OR account_id = :account ORDER BY account_id, clients.created_at",
        {"account": account_id},
    )
    return [ClientRow(*row) for row in rows]


def revoke_client(connection: sa.Connection, client_id: str, now: datetime) -> bool:
    """Revoke a client and its token; False when no active client has this id."""
    account_id = run_sql(
        connection,
        "UPDATE clients SET revoked_at = :now WHERE id = :id AND revoked_at IS NULL RETURNING account_id",
        {"id": client_id, "now": now},
    ).scalar()
    if account_id is not None:
        increment_version(connection, account_id)
    return account_id is not None
