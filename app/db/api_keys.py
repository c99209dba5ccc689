"""API keys, and OAuth clients with their access tokens. Secrets are stored as hashes; keys and tokens are found by prefix."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from app.core.models import Key
from app.db.accounts import increment_version
from app.db.connection import run_sql


@dataclass(frozen=True, slots=True)
class KeyRow:
    """A key as it is listed, without its digest."""

    account_id: int
    account: str
    prefix: str
    name: str
    scopes: tuple[str, ...]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None


def insert_key(connection: sa.Connection, account_id: int, key: Key, name: str, now: datetime) -> None:
    """Store a new key."""
    run_sql(
        connection,
        "INSERT INTO keys (account_id, prefix, digest, name, scopes, created_at, expires_at) "
        "VALUES (:account, :prefix, :digest, :name, :scopes, :now, :expires)",
        {
            "account": account_id,
            "prefix": key.prefix,
            "digest": key.digest,
            "name": name,
            "scopes": list(key.scopes),
            "now": now,
            "expires": key.expires_at,
        },
    )
    increment_version(connection, account_id)


def list_keys(connection: sa.Connection, account_id: int | None) -> list[KeyRow]:
    """All keys of an account (None: of all accounts), oldest first."""
    rows = run_sql(
        connection,
        "SELECT account_id, slug AS account, prefix, keys.name, scopes, keys.created_at, expires_at, revoked_at, "
        "last_used_at FROM keys JOIN accounts ON accounts.id = account_id "
        "WHERE :account IS NULL OR account_id = :account ORDER BY account_id, keys.created_at",
        {"account": account_id},
    )
    return [KeyRow(**{**row._asdict(), "scopes": tuple(row.scopes)}) for row in rows]


def revoke_key(connection: sa.Connection, prefix: str, now: datetime) -> int | None:
    """Revoke the unrevoked key with this prefix; the id of its account, or None when there is no such key."""
    account_id: int | None = run_sql(
        connection,
        "UPDATE keys SET revoked_at = :now WHERE prefix = :prefix AND revoked_at IS NULL RETURNING account_id",
        {"prefix": prefix, "now": now},
    ).scalar()
    if account_id is not None:
        increment_version(connection, account_id)
    return account_id


def revoke_keys_named(connection: sa.Connection, account_id: int, name: str, now: datetime) -> None:
    """Revoke all keys of an account with this name."""
    run_sql(
        connection,
        "UPDATE keys SET revoked_at = :now WHERE account_id = :account AND name = :name AND revoked_at IS NULL",
        {"account": account_id, "name": name, "now": now},
    )
    increment_version(connection, account_id)


def revoke_keys_of_scope(connection: sa.Connection, account_id: int, scope: str, now: datetime) -> None:
    """Revoke all keys of an account whose only scope is `scope`."""
    run_sql(
        connection,
        "UPDATE keys SET revoked_at = :now "
        "WHERE account_id = :account AND scopes = CAST(:scopes AS text[]) AND revoked_at IS NULL",
        {"account": account_id, "scopes": [scope], "now": now},
    )
    increment_version(connection, account_id)


def record_key_use(connection: sa.Connection, prefix: str, minute: datetime) -> None:
    """Store the minute in which a key, or an OAuth client's access token, was last used."""
    for table, column in (("keys", "prefix"), ("clients", "token_prefix")):
        run_sql(
            connection,
            f"UPDATE {table} SET last_used_at = :minute "
            f"WHERE {column} = :prefix AND (last_used_at IS NULL OR last_used_at < :minute)",
            {"prefix": prefix, "minute": minute},
        )


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
