"""OAuth clients and the access token that each of them has. Secrets are hashes here; tokens are found by their prefix."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from app.db.accounts import increment_version


@dataclass(frozen=True, slots=True)
class ClientRow:
    """A client as people list it."""

    account_id: int
    account: str
    id: str
    name: str
    created_at: datetime
    revoked_at: datetime | None
    last_used_at: datetime | None


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a client in force is verified by, and its token if it has one."""

    account_id: int
    digest: bytes
    token_prefix: str | None
    token_expires_at: datetime | None


def insert_client(
    connection: sa.Connection, account_id: int, client_id: str, digest: bytes, name: str, now: datetime
) -> None:
    """Keep a new client (the hash of its secret)."""
    connection.execute(
        sa.text(
            "INSERT INTO clients (account_id, id, digest, name, created_at) VALUES (:account, :id, :digest, :name, :now)"
        ),
        {"account": account_id, "id": client_id, "digest": digest, "name": name, "now": now},
    )


def find_credentials(connection: sa.Connection, client_id: str, *, lock: bool = False) -> Credentials | None:
    """A client that is not revoked; `lock`: nobody else changes it until the end of the transaction."""
    row = connection.execute(
        sa.text(
            "SELECT account_id, digest, token_prefix, token_expires_at FROM clients "  # noqa: S608
            f"WHERE id = :id AND revoked_at IS NULL {'FOR UPDATE' if lock else ''}"
        ),
        {"id": client_id},
    ).one_or_none()
    return None if row is None else Credentials(row[0], bytes(row[1]), row[2], row[3])


def set_token(
    connection: sa.Connection, account_id: int, client_id: str, prefix: str, digest: bytes, expires_at: datetime
) -> None:
    """Give a client another token in place of the one that it had."""
    connection.execute(
        sa.text(
            "UPDATE clients SET token_prefix = :prefix, token_digest = :digest, token_expires_at = :expires "
            "WHERE account_id = :account AND id = :id"
        ),
        {"account": account_id, "id": client_id, "prefix": prefix, "digest": digest, "expires": expires_at},
    )
    increment_version(connection, account_id)


def list_clients(connection: sa.Connection, account_id: int | None) -> list[ClientRow]:
    """All clients of an account, or of all of them, oldest first."""
    rows = connection.execute(
        sa.text(
            "SELECT account_id, slug, clients.id, clients.name, clients.created_at, revoked_at, last_used_at "
            "FROM clients JOIN accounts ON accounts.id = account_id "
            "WHERE :account IS NULL OR account_id = :account ORDER BY account_id, clients.created_at"
        ).bindparams(sa.bindparam("account", type_=sa.BigInteger)),
        {"account": account_id},
    )
    return [ClientRow(*row) for row in rows]


def revoke_client(connection: sa.Connection, client_id: str, now: datetime) -> bool:
    """Revoke a client with its token; False when there is none in force of this id."""
    account_id = connection.execute(
        sa.text("UPDATE clients SET revoked_at = :now WHERE id = :id AND revoked_at IS NULL RETURNING account_id"),
        {"id": client_id, "now": now},
    ).scalar()
    if account_id is not None:
        increment_version(connection, account_id)
    return account_id is not None
