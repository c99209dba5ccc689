"""Accounts, their keys, and the copy of both (with the enabled workflows) that a process keeps in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from app.core.models import SCOPES, EnabledWorkflow, Key, Plan


@dataclass(frozen=True, slots=True)
class AccountRow:
    """An account as people list it."""

    id: int
    slug: str
    plan: str
    events_per_second: int | None
    plan_ends_at: datetime | None
    disabled_at: datetime | None
    created_at: datetime
    name: str
    key_attribute: str
    event_attribute: str


@dataclass(frozen=True, slots=True)
class Description:
    """What an account is called, which attribute of its CxEngage events says whom they are about, and which one names
    them; None: as it is."""

    name: str | None = None
    key_attribute: str | None = None
    event_attribute: str | None = None


@dataclass(frozen=True, slots=True)
class AccountSnapshot:
    """All that verifying and matching an event takes, read by one statement: `version` says of when."""

    id: int
    slug: str
    version: int
    plan: str
    events_per_second: int | None
    plan_ends_at: datetime | None
    disabled_at: datetime | None
    name: str
    key_attribute: str
    event_attribute: str
    keys: Mapping[str, Key]
    workflows: Sequence[EnabledWorkflow]
    awaits: frozenset[str]
    augments: tuple[AugmentSnapshot, ...] = ()


@dataclass(frozen=True, slots=True)
class AugmentSnapshot:
    """An augment that has something to say: a file (its `columns`, how many rows and bytes, and its `upload`, which grows
    with each file) or an API (its `url`). `attributes`: what it may add; None: all it knows."""

    number: int
    url: str | None
    attributes: Sequence[str] | None
    columns: Sequence[str] | None
    rows: int
    bytes: int
    upload: int


@dataclass(frozen=True, slots=True)
class KeyRow:
    """A key as people list it; never the key itself."""

    account_id: int
    account: str
    prefix: str
    name: str
    scopes: tuple[str, ...]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None


_COPY = """
SELECT id, slug, version, plan, events_per_second, plan_ends_at, disabled_at,
    coalesce(name, slug) AS name, key_attribute, event_attribute,
    (SELECT coalesce(array_agg(ARRAY[prefix, encode(digest, 'hex'), array_to_string(scopes, ' '),
                                     extract(epoch FROM expires_at)::text, extract(epoch FROM revoked_at)::text]), '{}')
     FROM keys WHERE account_id = accounts.id AND revoked_at IS NULL) AS keys,
    (SELECT coalesce(array_agg(ARRAY[token_prefix, encode(token_digest, 'hex'), id,
                                     extract(epoch FROM token_expires_at)::text]), '{}')
     FROM clients WHERE account_id = accounts.id AND revoked_at IS NULL AND token_prefix IS NOT NULL) AS tokens,
    (SELECT coalesce(jsonb_agg(jsonb_build_array(workflow.id, name, version.version, document, enablement) ORDER BY name), '[]')
     FROM workflows AS workflow
     JOIN workflow_versions AS version ON version.account_id = workflow.account_id
        AND version.workflow_id = workflow.id AND version.version = workflow.enabled_version
     WHERE workflow.account_id = accounts.id) AS workflows,
    (SELECT coalesce(array_agg(DISTINCT name), '{}') FROM workflow_versions, unnest(awaits) AS name
     WHERE account_id = accounts.id) AS awaits,
    (SELECT jsonb_agg(jsonb_build_array(number, url, attributes, columns, rows, bytes, upload) ORDER BY number)
     FROM augments WHERE account_id = accounts.id AND (url IS NOT NULL OR columns IS NOT NULL)) AS augments
FROM accounts
"""


def find_account_by_key(connection: sa.Connection, prefix: str) -> AccountSnapshot | None:
    """The account that owns the unrevoked key, or the access token of an unrevoked client, with this prefix."""
    where = (
        "WHERE id = (SELECT account_id FROM keys WHERE prefix = :prefix AND revoked_at IS NULL UNION ALL "
        "SELECT account_id FROM clients WHERE token_prefix = :prefix AND revoked_at IS NULL)"
    )
    return _copy(connection.execute(sa.text(_COPY + where), {"prefix": prefix}).one_or_none())


def find_account_snapshot(connection: sa.Connection, account_id: int) -> AccountSnapshot | None:
    """The account as it is now."""
    return _copy(connection.execute(sa.text(_COPY + "WHERE id = :id"), {"id": account_id}).one_or_none())


def find_account_version(connection: sa.Connection, account_id: int) -> int | None:
    """The version that the account's copy should have; None when the account is gone."""
    version: int | None = connection.execute(
        sa.text("SELECT version FROM accounts WHERE id = :id"), {"id": account_id}
    ).scalar()
    return version


def _copy(row: sa.Row[Any] | None) -> AccountSnapshot | None:
    if row is None:
        return None
    columns = row._asdict()
    keys, tokens, workflows, awaits, augments = (
        columns.pop(name) for name in ("keys", "tokens", "workflows", "awaits", "augments")
    )
    return AccountSnapshot(
        **columns,
        keys={key.prefix: key for key in [*map(_key, keys), *map(_token, tokens)]},
        workflows=[EnabledWorkflow(UUID(id_), *rest) for id_, *rest in workflows],
        awaits=frozenset(awaits),
        augments=tuple(AugmentSnapshot(*augment) for augment in augments or ()),
    )


def _key(fields: Sequence[str | None]) -> Key:
    prefix, digest, scopes, expires, revoked = fields
    return Key(
        prefix=prefix or "",
        digest=bytes.fromhex(digest or ""),
        scopes=tuple((scopes or "").split()),
        expires_at=_moment(expires),
        revoked_at=_moment(revoked),
    )


def _token(fields: Sequence[str]) -> Key:
    """An access token is a key that may do all that there is."""
    prefix, digest, client_id, expires = fields
    return Key(prefix, bytes.fromhex(digest), SCOPES, _moment(expires), None, client_id)


def _moment(epoch: str | None) -> datetime | None:
    from datetime import UTC

    return None if epoch is None else datetime.fromtimestamp(float(epoch), UTC)


def create_account(
    connection: sa.Connection, slug: str, plan: Plan, signing_secret: bytes, now: datetime
) -> int | None:
    """Make an account; its id, or None when the slug is taken."""
    account_id: int | None = connection.execute(
        sa.text(
            "INSERT INTO accounts (slug, plan, plan_ends_at, signing_secret, created_at) "
            "VALUES (:slug, :plan, :ends, :secret, :now) ON CONFLICT (slug) DO NOTHING RETURNING id"
        ),
        {"slug": slug, "plan": plan.name, "ends": _end(plan, now), "secret": signing_secret, "now": now},
    ).scalar()
    return account_id


def _end(plan: Plan, now: datetime) -> datetime | None:
    return None if plan.days is None else now + timedelta(days=plan.days)


def change_plan(connection: sa.Connection, account_id: int, plan: Plan, rate: int | None, now: datetime) -> None:
    """Put an account on a plan from now on; `rate` overrides its events per second."""
    connection.execute(
        sa.text(
            "UPDATE accounts SET plan = :plan, events_per_second = :rate, plan_ends_at = :ends, version = version + 1 "
            "WHERE id = :id"
        ),
        {"id": account_id, "plan": plan.name, "rate": rate, "ends": _end(plan, now)},
    )


def describe_account(connection: sa.Connection, account_id: int, described: Description) -> None:
    """Change what is given about an account."""
    connection.execute(
        sa.text(
            "UPDATE accounts SET name = coalesce(:name, name), key_attribute = coalesce(:key, key_attribute), "
            "event_attribute = coalesce(:event, event_attribute), version = version + 1 WHERE id = :id"
        ),
        {
            "id": account_id,
            "name": described.name,
            "key": described.key_attribute,
            "event": described.event_attribute,
        },
    )


def disable_account(connection: sa.Connection, account_id: int, disabled_at: datetime | None) -> None:
    """Switch an account off (a moment) or on again (None)."""
    connection.execute(
        sa.text("UPDATE accounts SET disabled_at = :at, version = version + 1 WHERE id = :id"),
        {"id": account_id, "at": disabled_at},
    )


def grow_version(connection: sa.Connection, account_id: int) -> None:
    """Make every process's copy of the account stale. Also the lock that serialises changes to one account."""
    connection.execute(sa.text("UPDATE accounts SET version = version + 1 WHERE id = :id"), {"id": account_id})


def lock_account(connection: sa.Connection, account_id: int) -> None:
    """Keep others from changing the account until the transaction ends; events go on."""
    connection.execute(sa.text("SELECT FROM accounts WHERE id = :id FOR NO KEY UPDATE"), {"id": account_id})


_ROW = (
    "id, slug, plan, events_per_second, plan_ends_at, disabled_at, created_at, "
    "coalesce(name, slug), key_attribute, event_attribute"
)


def list_accounts(connection: sa.Connection) -> list[AccountRow]:
    """All accounts, oldest first."""
    rows = connection.execute(sa.text(f"SELECT {_ROW} FROM accounts ORDER BY id"))  # noqa: S608
    return [AccountRow(*row) for row in rows]


def find_account(connection: sa.Connection, name: str) -> AccountRow | None:
    """An account by its slug or its id; a slug wins."""
    row = connection.execute(
        sa.text(
            f"SELECT {_ROW} FROM accounts "  # noqa: S608
            "WHERE slug = :name OR id::text = :name ORDER BY slug = :name DESC LIMIT 1"
        ),
        {"name": name},
    ).one_or_none()
    return None if row is None else AccountRow(*row)


def find_signing_secret(connection: sa.Connection, account_id: int) -> bytes | None:
    """The account's encrypted signing secret."""
    secret = connection.execute(
        sa.text("SELECT signing_secret FROM accounts WHERE id = :id"), {"id": account_id}
    ).scalar()
    return None if secret is None else bytes(secret)


def insert_key(connection: sa.Connection, account_id: int, key: Key, name: str, now: datetime) -> None:
    """Keep a new key (its hash)."""
    connection.execute(
        sa.text(
            "INSERT INTO keys (account_id, prefix, digest, name, scopes, created_at, expires_at) "
            "VALUES (:account, :prefix, :digest, :name, :scopes, :now, :expires)"
        ),
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
    grow_version(connection, account_id)


def list_keys(connection: sa.Connection, account_id: int | None) -> list[KeyRow]:
    """All keys of an account, or of all of them, oldest first."""
    rows = connection.execute(
        sa.text(
            "SELECT account_id, slug AS account, prefix, name, scopes, keys.created_at, expires_at, revoked_at, last_used_at "
            "FROM keys JOIN accounts ON accounts.id = account_id "
            "WHERE :account IS NULL OR account_id = :account ORDER BY account_id, keys.created_at"
        ).bindparams(sa.bindparam("account", type_=sa.BigInteger)),
        {"account": account_id},
    )
    return [KeyRow(**{**row._asdict(), "scopes": tuple(row.scopes)}) for row in rows]


def revoke_key(connection: sa.Connection, prefix: str, now: datetime) -> int | None:
    """Revoke a key by its prefix; the owning account's id, or None when there is no such key in force."""
    account_id: int | None = connection.execute(
        sa.text("UPDATE keys SET revoked_at = :now WHERE prefix = :prefix AND revoked_at IS NULL RETURNING account_id"),
        {"prefix": prefix, "now": now},
    ).scalar()
    if account_id is not None:
        grow_version(connection, account_id)
    return account_id


def revoke_keys_named(connection: sa.Connection, account_id: int, name: str, now: datetime) -> None:
    """Revoke all keys of an account that carry this name."""
    connection.execute(
        sa.text(
            "UPDATE keys SET revoked_at = :now WHERE account_id = :account AND name = :name AND revoked_at IS NULL"
        ),
        {"account": account_id, "name": name, "now": now},
    )
    grow_version(connection, account_id)


def revoke_keys_of_scope(connection: sa.Connection, account_id: int, scope: str, now: datetime) -> None:
    """Revoke all keys of an account that may do this and nothing else."""
    connection.execute(
        sa.text(
            "UPDATE keys SET revoked_at = :now "
            "WHERE account_id = :account AND scopes = CAST(:scopes AS text[]) AND revoked_at IS NULL"
        ),
        {"account": account_id, "scopes": [scope], "now": now},
    )
    grow_version(connection, account_id)


def note_key_use(connection: sa.Connection, prefix: str, minute: datetime) -> None:
    """Remember when a key, or a client's access token, was last used."""
    for table, column in (("keys", "prefix"), ("clients", "token_prefix")):
        connection.execute(
            sa.text(
                f"UPDATE {table} SET last_used_at = :minute "  # noqa: S608
                f"WHERE {column} = :prefix AND (last_used_at IS NULL OR last_used_at < :minute)"
            ),
            {"prefix": prefix, "minute": minute},
        )
