"""API keys, and OAuth clients with their access tokens. Secrets are stored as hashes; keys and tokens are found by prefix."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from app.core.models import Key
from app.db.accounts import increment_version
from app.db.connection import Database, run_sql


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


def list_keys(
    connection: sa.Connection, account_id: int | None, after: str | None = None, limit: int | None = None
) -> list[KeyRow]:
    """Keys of an account (None: of all accounts), oldest first: those after the key with the prefix `after`, at most `limit`
    (None: all)."""
    rows = run_sql(
        connection,
        "SELECT account_id, slug AS account, prefix, keys.name, scopes, keys.created_at, expires_at, revoked_at, "
        "last_used_at FROM keys JOIN accounts ON accounts.id = account_id "
        # Single values, of which an index can be searched; a row of a subquery filters after all rows are read.
        "WHERE (:account IS NULL OR account_id = :account) AND (:after IS NULL OR (account_id, keys.created_at, prefix) > "
        "((SELECT account_id FROM keys WHERE prefix = :after), (SELECT created_at FROM keys WHERE prefix = :after), :after)) "
        "ORDER BY account_id, keys.created_at, prefix LIMIT :limit",
        {"account": account_id, "after": after, "limit": limit},
    )
    return [KeyRow(**{**row._asdict(), "scopes": tuple(row.scopes)}) for row in rows]


def find_key(connection: sa.Connection, account_id: int, prefix: str) -> KeyRow | None:
    """A key of an account by its prefix."""
    row = run_sql(
        connection,
        "SELECT account_id, slug AS account, prefix, keys.name, scopes, keys.created_at, expires_at, revoked_at, "
        "last_used_at FROM keys JOIN accounts ON accounts.id = account_id "
        "WHERE account_id = :account AND prefix = :prefix",
        {"account": account_id, "prefix": prefix},
    ).one_or_none()
    return None if row is None else KeyRow(**{**row._asdict(), "scopes": tuple(row.scopes)})


def find_recent_accounts(connection: sa.Connection, since: datetime, limit: int) -> list[int]:
    """The ids of the accounts whose keys were used since then, the latest first."""
    rows = run_sql(
        connection,
        "SELECT account_id FROM keys WHERE last_used_at >= :since AND revoked_at IS NULL "
        "GROUP BY account_id ORDER BY max(last_used_at) DESC, account_id LIMIT :limit",
        {"since": since, "limit": limit},
    )
    return [account_id for (account_id,) in rows]


def revoke_key(connection: sa.Connection, prefix: str, now: datetime, owner: int | None = None) -> int | None:
    """Revoke the unrevoked key with this prefix, if it is of the account `owner` (None: of any); the id of its account, or None
    when there is no such key."""
    account_id: int | None = run_sql(
        connection,
        "UPDATE keys SET revoked_at = :now WHERE prefix = :prefix AND revoked_at IS NULL "
        "AND (CAST(:owner AS bigint) IS NULL OR account_id = :owner) RETURNING account_id",
        {"prefix": prefix, "now": now, "owner": owner},
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


def expire_keys_of_scope(connection: sa.Connection, account_id: int, scope: str, expires_at: datetime) -> None:
    """Let all keys of an account whose only scope is `scope` expire, at the latest at `expires_at`."""
    run_sql(
        connection,
        "UPDATE keys SET expires_at = least(expires_at, :expires) "
        "WHERE account_id = :account AND scopes = CAST(:scopes AS text[]) AND revoked_at IS NULL",
        {"account": account_id, "scopes": [scope], "expires": expires_at},
    )
    increment_version(connection, account_id)


# One index look-up for each prefix, whatever the planner knows about the tables.
_OWNERS = """
SELECT wanted.prefix, coalesce(
    (SELECT account_id FROM keys WHERE keys.prefix = wanted.prefix AND revoked_at IS NULL),
    (SELECT account_id FROM clients WHERE token_prefix = wanted.prefix AND revoked_at IS NULL),
    (SELECT access_tokens.account_id FROM access_tokens JOIN clients ON clients.id = client_id
     WHERE access_tokens.prefix = wanted.prefix AND revoked_at IS NULL))
FROM unnest(%s::text[]) AS wanted (prefix)
"""


def find_key_owners(database: Database, prefixes: Collection[str]) -> dict[str, int]:
    """The accounts of those prefixes that belong to an unrevoked key, or to an access token of an unrevoked client."""
    rows = database.fetch_all(_OWNERS, (list(prefixes),))
    return {prefix: account_id for prefix, account_id in rows if account_id is not None}


def record_key_use(connection: sa.Connection, prefix: str, minute: datetime) -> None:
    """Store the minute in which a key, or an OAuth client's access token, was last used."""
    of_client = (
        "id = (SELECT id FROM clients WHERE token_prefix = :prefix UNION ALL "
        "SELECT client_id FROM access_tokens WHERE prefix = :prefix)"
    )
    for table, condition in (("keys", "prefix = :prefix"), ("clients", of_client)):
        run_sql(
            connection,
            f"UPDATE {table} SET last_used_at = :minute "
            f"WHERE {condition} AND (last_used_at IS NULL OR last_used_at < :minute)",
            {"prefix": prefix, "minute": minute},
        )


@dataclass(frozen=True, slots=True)
class ClientRow:
    """A client as listed."""

    account_id: int
    account: str
    id: str
    name: str
    scopes: tuple[str, ...]
    created_at: datetime
    revoked_at: datetime | None
    last_used_at: datetime | None


@dataclass(frozen=True, slots=True)
class Client:
    """An active client: how it is verified, and the scopes that its tokens may have."""

    account_id: int
    id: str
    digest: bytes
    scopes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TokenRow:
    """An access token: its public prefix, and when it expires."""

    prefix: str
    expires_at: datetime


def insert_client(connection: sa.Connection, client: Client, name: str, now: datetime) -> None:
    """Insert a client."""
    run_sql(
        connection,
        "INSERT INTO clients (account_id, id, digest, name, scopes, created_at) "
        "VALUES (:account, :id, :digest, :name, :scopes, :now)",
        {
            "account": client.account_id,
            "id": client.id,
            "digest": client.digest,
            "name": name,
            "scopes": list(client.scopes),
            "now": now,
        },
    )


def find_client(connection: sa.Connection, client_id: str, *, lock: bool = False) -> Client | None:
    """A client that is not revoked; `lock` locks its row."""
    row = run_sql(
        connection,
        "SELECT account_id, digest, scopes FROM clients "
        f"WHERE id = :id AND revoked_at IS NULL {'FOR UPDATE' if lock else ''}",
        {"id": client_id},
    ).one_or_none()
    return None if row is None else Client(row.account_id, client_id, bytes(row.digest), tuple(row.scopes))


def find_client_ids(database: Database, ids: Collection[str]) -> set[str]:
    """Those ids that belong to a client that is not revoked."""
    rows = database.fetch_all("SELECT id FROM clients WHERE id = ANY (%s) AND revoked_at IS NULL", (list(ids),))
    return {client_id for (client_id,) in rows}


# The token with all scopes of its client is in `clients`, where earlier releases look for it; others are in `access_tokens`.


def find_token(connection: sa.Connection, client: Client, scopes: tuple[str, ...]) -> TokenRow | None:
    """The client's token with these scopes, in the order of SCOPES; it may have expired."""
    row = run_sql(
        connection,
        "SELECT token_prefix, token_expires_at FROM clients "
        "WHERE account_id = :account AND id = :id AND scopes = CAST(:scopes AS text[]) AND token_prefix IS NOT NULL "
        "UNION ALL SELECT prefix, expires_at FROM access_tokens "
        "WHERE account_id = :account AND client_id = :id AND scopes = CAST(:scopes AS text[])",
        {"account": client.account_id, "id": client.id, "scopes": list(scopes)},
    ).one_or_none()
    return None if row is None else TokenRow(*row)


def set_token(
    connection: sa.Connection, client: Client, scopes: tuple[str, ...], token: TokenRow, digest: bytes
) -> None:
    """Replace the client's token with these scopes."""
    has_all = (
        "UPDATE clients SET token_prefix = :prefix, token_digest = :digest, token_expires_at = :expires "
        "WHERE account_id = :account AND id = :id"
    )
    has_fewer = (
        "INSERT INTO access_tokens (account_id, client_id, scopes, prefix, digest, expires_at) "
        "VALUES (:account, :id, :scopes, :prefix, :digest, :expires) ON CONFLICT (account_id, client_id, scopes) "
        "DO UPDATE SET prefix = excluded.prefix, digest = excluded.digest, expires_at = excluded.expires_at"
    )
    run_sql(
        connection,
        has_all if scopes == client.scopes else has_fewer,
        {
            "account": client.account_id,
            "id": client.id,
            "scopes": list(scopes),
            "prefix": token.prefix,
            "digest": digest,
            "expires": token.expires_at,
        },
    )
    increment_version(connection, client.account_id)


_CLIENTS = (
    "SELECT account_id, slug, clients.id, clients.name, scopes, clients.created_at, revoked_at, last_used_at "
    "FROM clients JOIN accounts ON accounts.id = account_id "
)


def list_clients(
    connection: sa.Connection, account_id: int | None, after: str | None = None, limit: int | None = None
) -> list[ClientRow]:
    """Clients of an account (None: of all accounts), oldest first: those after the id `after`, at most `limit` (None: all)."""
    rows = run_sql(
        connection,
        _CLIENTS + "WHERE (:account IS NULL OR account_id = :account) "
        "AND (:after IS NULL OR (account_id, clients.created_at, clients.id) > "
        "(SELECT account_id, created_at, id FROM clients WHERE id = :after)) "
        "ORDER BY account_id, clients.created_at, clients.id LIMIT :limit",
        {"account": account_id, "after": after, "limit": limit},
    )
    return [_client_row(row) for row in rows]


def find_client_row(connection: sa.Connection, account_id: int, client_id: str) -> ClientRow | None:
    """A client of an account, also a revoked one."""
    query = _CLIENTS + "WHERE clients.id = :id AND account_id = :account"
    row = run_sql(connection, query, {"id": client_id, "account": account_id}).one_or_none()
    return None if row is None else _client_row(row)


def _client_row(row: Any) -> ClientRow:
    account_id, slug, id_, name, scopes, *dates = row
    return ClientRow(account_id, slug, id_, name, tuple(scopes), *dates)


def revoke_client(connection: sa.Connection, client_id: str, now: datetime) -> int | None:
    """Revoke a client and its tokens; the id of its account, or None when no active client has this id."""
    account_id: int | None = run_sql(
        connection,
        "UPDATE clients SET revoked_at = :now WHERE id = :id AND revoked_at IS NULL RETURNING account_id",
        {"id": client_id, "now": now},
    ).scalar()
    if account_id is not None:
        increment_version(connection, account_id)
    return account_id
