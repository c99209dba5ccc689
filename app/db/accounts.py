"""Accounts: create, find, change; and account snapshots, all that is needed to verify and match an account's events."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from app.core.ids import first_id_at
from app.core.models import EnabledWorkflow, Key, Plan
from app.db.connection import run_sql
from app.db.shared_sql import count_of


@dataclass(frozen=True, slots=True)
class AccountRow:
    """An account as it is listed."""

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
    unusable_phone: str
    time_zone: str


@dataclass(frozen=True, slots=True)
class AccountDetails:
    """New values of an account; None: unchanged. `key_attribute` and `event_attribute` are the attributes of a CxEngage event
    that hold its subject and its name. `unusable_phone` is REFUSE or STORE, `time_zone` a name that `find_zone` knows."""

    name: str | None = None
    key_attribute: str | None = None
    event_attribute: str | None = None
    unusable_phone: str | None = None
    time_zone: str | None = None


def create_account(
    connection: sa.Connection, slug: str, plan: Plan, signing_secret: bytes, now: datetime
) -> int | None:
    """Create an account; its id, or None when the slug is taken."""
    account_id: int | None = run_sql(
        connection,
        "INSERT INTO accounts (slug, plan, plan_ends_at, signing_secret, created_at) "
        "VALUES (:slug, :plan, :ends, :secret, :now) ON CONFLICT (slug) DO NOTHING RETURNING id",
        {"slug": slug, "plan": plan.name, "ends": _end(plan, now), "secret": signing_secret, "now": now},
    ).scalar()
    return account_id


def _end(plan: Plan, now: datetime) -> datetime | None:
    return None if plan.days is None else now + timedelta(days=plan.days)


def change_plan(connection: sa.Connection, account_id: int, plan: Plan, rate: int | None, now: datetime) -> None:
    """Put an account on a plan from now on; `rate` overrides its events per second."""
    run_sql(
        connection,
        "UPDATE accounts SET plan = :plan, events_per_second = :rate, plan_ends_at = :ends, version = version + 1 "
        "WHERE id = :id",
        {"id": account_id, "plan": plan.name, "rate": rate, "ends": _end(plan, now)},
    )


def update_account_details(connection: sa.Connection, account_id: int, details: AccountDetails) -> None:
    """Change the details of an account."""
    run_sql(
        connection,
        "UPDATE accounts SET name = coalesce(:name, name), key_attribute = coalesce(:key, key_attribute), "
        "event_attribute = coalesce(:event, event_attribute), unusable_phone = coalesce(:phone, unusable_phone), "
        "time_zone = coalesce(:zone, time_zone), version = version + 1 WHERE id = :id",
        {
            "id": account_id,
            "name": details.name,
            "key": details.key_attribute,
            "event": details.event_attribute,
            "phone": details.unusable_phone,
            "zone": details.time_zone,
        },
    )


def disable_account(connection: sa.Connection, account_id: int, disabled_at: datetime | None) -> None:
    """Disable an account (a timestamp) or enable it again (None)."""
    run_sql(
        connection,
        "UPDATE accounts SET disabled_at = :at, version = version + 1 WHERE id = :id",
        {"id": account_id, "at": disabled_at},
    )


def increment_version(connection: sa.Connection, account_id: int) -> None:
    """Make all snapshots of the account stale. Locks the account, so that changes to it are serialised."""
    run_sql(connection, "UPDATE accounts SET version = version + 1 WHERE id = :id", {"id": account_id})


def lock_account(connection: sa.Connection, account_id: int) -> None:
    """Lock the account against changes until the transaction ends. Does not block events."""
    run_sql(connection, "SELECT FROM accounts WHERE id = :id FOR NO KEY UPDATE", {"id": account_id})


_ROW = (
    "id, slug, plan, events_per_second, plan_ends_at, disabled_at, created_at, "
    "coalesce(name, slug), key_attribute, event_attribute, unusable_phone, time_zone"
)


def list_accounts(connection: sa.Connection, after: int, limit: int) -> list[AccountRow]:
    """At most `limit` accounts, oldest first: those after the id `after`."""
    query = f"SELECT {_ROW} FROM accounts WHERE id > :after ORDER BY id LIMIT :limit"
    rows = run_sql(connection, query, {"after": after, "limit": limit})
    return [AccountRow(*row) for row in rows]


def count_events(connection: sa.Connection, account_id: int, since: datetime, limit: int) -> int:
    """How many events an account has had since a time; at most `limit`, which bounds what is read."""
    query = f"SELECT {count_of('events WHERE account_id = :account AND id >= :first AND received_at >= :since')}"
    values = {"account": account_id, "first": first_id_at(since), "since": since, "max_rows": limit}
    return int(run_sql(connection, query, values).scalar_one())


def find_ending_plans(connection: sa.Connection, before: datetime) -> list[AccountRow]:
    """The accounts that are not disabled and whose plan ends, or has ended, before a time; the first to end first."""
    query = (
        f"SELECT {_ROW} FROM accounts WHERE plan_ends_at < :before AND disabled_at IS NULL ORDER BY plan_ends_at, id"
    )
    return [AccountRow(*row) for row in run_sql(connection, query, {"before": before})]


def find_account(connection: sa.Connection, name: str) -> AccountRow | None:
    """An account by its slug or its id; a slug wins."""
    row = run_sql(
        connection,
        f"SELECT {_ROW} FROM accounts WHERE slug = :name OR id::text = :name ORDER BY slug = :name DESC LIMIT 1",
        {"name": name},
    ).one_or_none()
    return None if row is None else AccountRow(*row)


def find_account_by_id(connection: sa.Connection, account_id: int) -> AccountRow | None:
    """An account by its id."""
    row = run_sql(connection, f"SELECT {_ROW} FROM accounts WHERE id = :id", {"id": account_id}).one_or_none()
    return None if row is None else AccountRow(*row)


def find_signing_secret(connection: sa.Connection, account_id: int) -> bytes | None:
    """The encrypted signing secret of an account; None when there is no such account."""
    secret = run_sql(connection, "SELECT signing_secret FROM accounts WHERE id = :id", {"id": account_id}).scalar()
    return None if secret is None else bytes(secret)


@dataclass(frozen=True, slots=True)
class AccountSnapshot:
    """An account with its unrevoked keys and enabled workflows. It is stale once the account's `version` has grown.

    `awaits`: names of the events that runs may wait for. `secrets`: the encrypted values by name.
    """

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
    unusable_phone: str
    keys: Mapping[str, Key]
    workflows: Sequence[EnabledWorkflow]
    awaits: frozenset[str]
    augments: tuple[AugmentSnapshot, ...] = ()
    sources: Sequence[SourceSnapshot] = ()
    secrets: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AugmentSnapshot:
    """An augment that is ready for use: a file (its `columns`, its number of bytes, and `upload`, which grows with each
    file) or an API (its `url` and `method`). `attributes`: those that it may add; None: all."""

    number: int
    url: str | None
    method: str
    attributes: Sequence[str] | None
    columns: Sequence[str] | None
    bytes: int
    upload: int


@dataclass(frozen=True, slots=True)
class SourceSnapshot:
    """The version of a source that is in use."""

    id: UUID
    name: str
    enabled: bool
    version: int
    document: Mapping[str, Any]


_SNAPSHOT = """
SELECT id, slug, version, plan, events_per_second, plan_ends_at, disabled_at,
    coalesce(name, slug) AS name, key_attribute, event_attribute, unusable_phone,
    (SELECT coalesce(array_agg(ARRAY[prefix, encode(digest, 'hex'), array_to_string(scopes, ' '),
                                     extract(epoch FROM expires_at)::text]), '{}')
     FROM keys WHERE account_id = accounts.id AND revoked_at IS NULL) AS keys,
    (SELECT coalesce(array_agg(ARRAY[token.prefix, encode(token.digest, 'hex'), array_to_string(token.scopes, ' '),
                                     extract(epoch FROM token.expires_at)::text, client.id]), '{}')
     FROM clients AS client, LATERAL (
        SELECT token_prefix AS prefix, token_digest AS digest, client.scopes, token_expires_at AS expires_at
        WHERE token_prefix IS NOT NULL
        UNION ALL SELECT prefix, digest, scopes, expires_at FROM access_tokens
        WHERE account_id = client.account_id AND client_id = client.id) AS token
     WHERE client.account_id = accounts.id AND revoked_at IS NULL) AS tokens,
    (SELECT coalesce(jsonb_agg(jsonb_build_array(workflow.id, name, version.version,
            (SELECT jsonb_object_agg(part.key, value) FROM jsonb_each(document) AS part WHERE part.key IN ('on', 'key', 'again')),
            enablement,
            (SELECT coalesce(jsonb_agg(event), '[]') FROM workflow_triggers AS found WHERE found.account_id = accounts.id
             AND found.workflow_id = workflow.id AND found.version = workflow.enabled_version)) ORDER BY name), '[]')
     FROM workflows AS workflow
     JOIN workflow_versions AS version ON version.account_id = workflow.account_id
        AND version.workflow_id = workflow.id AND version.version = workflow.enabled_version
     WHERE workflow.account_id = accounts.id) AS workflows,
    (SELECT coalesce(array_agg(DISTINCT name), '{}') FROM workflow_versions, unnest(awaits) AS name
     WHERE account_id = accounts.id) AS awaits,
    (SELECT jsonb_agg(jsonb_build_array(number, url, method, attributes, columns, bytes, upload) ORDER BY number)
     FROM augments WHERE account_id = accounts.id AND (url IS NOT NULL OR columns IS NOT NULL)) AS augments,
    (SELECT array_agg(ARRAY[secret.name, encode(value, 'escape')]) FROM secrets AS secret
     WHERE secret.account_id = accounts.id) AS secrets,
    (SELECT jsonb_agg(jsonb_build_array(source.id, name, enabled, latest_version, document) ORDER BY name)
     FROM sources AS source
     JOIN source_versions AS version ON version.account_id = source.account_id AND version.source_id = source.id
        AND version.version = latest_version
     WHERE source.account_id = accounts.id) AS sources
FROM accounts
"""


def find_account_snapshot(connection: sa.Connection, account_id: int) -> AccountSnapshot | None:
    """The current snapshot of an account; None when there is no such account."""
    return _snapshot(run_sql(connection, _SNAPSHOT + "WHERE id = :id", {"id": account_id}).one_or_none())


def find_account_version(connection: sa.Connection, account_id: int) -> int | None:
    """The version of the current snapshot; None when there is no such account."""
    version: int | None = run_sql(
        connection, "SELECT version FROM accounts WHERE id = :id", {"id": account_id}
    ).scalar()
    return version


def _snapshot(row: sa.Row[Any] | None) -> AccountSnapshot | None:
    if row is None:
        return None
    columns = row._asdict()
    keys, tokens, workflows, awaits, augments, secrets, sources = (
        columns.pop(name) for name in ("keys", "tokens", "workflows", "awaits", "augments", "secrets", "sources")
    )
    return AccountSnapshot(
        **columns,
        keys={key.prefix: key for key in [*map(_key, keys), *map(_token, tokens)]},
        workflows=[
            EnabledWorkflow(UUID(id_), name, version, document, enablement, frozenset(triggers))
            for id_, name, version, document, enablement, triggers in workflows
        ],
        awaits=frozenset(awaits),
        augments=tuple(AugmentSnapshot(*augment) for augment in augments or ()),
        secrets={name: value.encode() for name, value in secrets or ()},
        sources=tuple(SourceSnapshot(UUID(id_), *others) for id_, *others in sources or ()),
    )


def _key(fields: Sequence[str | None]) -> Key:
    prefix, digest, scopes, expires = fields
    return Key(
        prefix=prefix or "",
        digest=bytes.fromhex(digest or ""),
        scopes=tuple((scopes or "").split()),
        expires_at=_timestamp(expires),
    )


def _token(fields: Sequence[str]) -> Key:
    """An OAuth client's access token is a key."""
    prefix, digest, scopes, expires, client_id = fields
    return Key(prefix, bytes.fromhex(digest), tuple(scopes.split()), _timestamp(expires), client_id)


def _timestamp(epoch: str | None) -> datetime | None:
    return None if epoch is None else datetime.fromtimestamp(float(epoch), UTC)
