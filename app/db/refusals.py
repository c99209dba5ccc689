"""Refused requests: write, list, find, record replays, delete. Every statement has a range of (account_id, id), or an index."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, fields
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from app.core.errors import ProblemType
from app.core.ids import first_id_at
from app.db.connection import delete_batch, run_sql
from app.db.shared_sql import delete_by_ids, find_owners

# How long refusals are kept unless their account has set a retention.
RETENTION = timedelta(days=7)
# The path of a delivery, whose last part is the token of its source.
SHOWN_HOOK = "/hooks/***"
# Bodies make rows large.
_MAX_DELETED = 1_000


@dataclass(frozen=True, slots=True)
class NewRefusal:
    """A refusal to store. The fields are the columns of the table: `errors` and `items` are JSON texts, `body` is compressed."""

    account_id: int
    id: UUID
    refused_at: datetime
    route: str
    key_prefix: str
    status: int
    type: str
    detail: str
    errors: str | None
    items: str | None
    request_id: str
    idempotency_key: str | None
    is_webhook_id: bool
    content_type: str | None
    content_encoding: str | None
    body: bytes | None
    body_bytes: int
    replayable: bool


@dataclass(frozen=True, slots=True)
class RefusalRow:
    """A stored refusal without its body. `not_kept`: how many refusals of the account followed that were not kept."""

    id: UUID
    account_id: int
    refused_at: datetime
    route: str
    key_prefix: str
    status: int
    type: str
    detail: str
    errors: Sequence[Mapping[str, Any]] | None
    items: Sequence[Mapping[str, Any]] | None
    request_id: str
    idempotency_key: str | None
    is_webhook_id: bool
    content_type: str | None
    content_encoding: str | None
    body_bytes: int
    replayable: bool
    not_kept: int
    replayed_at: datetime | None
    replayed_event_id: UUID | None


@dataclass(frozen=True, slots=True)
class RefusalFilter:
    """Filters refusals by their columns and by time (`since` inclusive, `until` exclusive); `before` and `after`: only smaller or
    larger ids. With `waiting`: only those that can be replayed and were not. `key_prefix` and `key_name`: of API keys and OAuth
    clients that have one of both. None: all."""

    status: int | None = None
    type: str | None = None
    key_prefix: str | None = None
    key_name: str | None = None
    route: str | None = None
    request_id: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    before: UUID | None = None
    after: UUID | None = None
    waiting: bool = False


_TYPES = {"account_id": "bigint", "id": "uuid", "refused_at": "timestamptz", "status": "smallint", "errors": "jsonb"}
_TYPES |= {
    "items": "jsonb",
    "is_webhook_id": "boolean",
    "body": "bytea",
    "body_bytes": "integer",
    "replayable": "boolean",
}
_NAMES = [field.name for field in fields(NewRefusal)]
_ARRAYS = ", ".join(f"CAST(:{name} AS {_TYPES.get(name, 'text')}[])" for name in _NAMES)
# Repeated when the response of the commit was lost. The account may have been deleted meanwhile.
_INSERT = f"""
INSERT INTO refusals ({", ".join(_NAMES)})
SELECT new.* FROM unnest({_ARRAYS}) AS new ({", ".join(_NAMES)}) JOIN accounts ON accounts.id = new.account_id
ON CONFLICT (account_id, id) DO NOTHING
"""
# What is not kept is counted by the latest row, behind which it came.
_COUNT_NOT_KEPT = """
UPDATE refusals SET not_kept = refusals.not_kept + dropped.count
FROM unnest(CAST(:accounts AS bigint[]), CAST(:counts AS integer[])) AS dropped (account_id, count)
WHERE refusals.account_id = dropped.account_id AND refusals.id = (
    SELECT latest.id FROM refusals AS latest WHERE latest.account_id = dropped.account_id ORDER BY latest.id DESC LIMIT 1
)
RETURNING refusals.account_id
"""


def insert_refusals(connection: sa.Connection, new: Sequence[NewRefusal]) -> None:
    """Insert refusals; those of deleted accounts, and those that are there, are left out."""
    columns = zip(*map(astuple, new), strict=True)
    values = {name: list(column) for name, column in zip(_NAMES, columns, strict=True)}
    run_sql(connection, _INSERT, {**values, "id": [str(one.id) for one in new]})


def count_not_kept(connection: sa.Connection, counts: Mapping[int, int]) -> set[int]:
    """Record how many refusals of accounts were not kept; the accounts for which it is recorded: those that have a refusal."""
    values = {"accounts": list(counts), "counts": list(counts.values())}
    return set(run_sql(connection, _COUNT_NOT_KEPT, values).scalars())


_SELECT = f"SELECT {', '.join(field.name for field in fields(RefusalRow))} FROM refusals WHERE account_id = :account "
# Filters that are null are constants to the planner, which drops them.
_FILTER = """
    AND (CAST(:status AS smallint) IS NULL OR status = :status)
    AND (CAST(:type AS text) IS NULL OR type = :type)
    AND (CAST(:key_prefix AS text) IS NULL OR key_prefix = :key_prefix
        OR key_prefix = ANY (ARRAY(
            SELECT prefix FROM keys WHERE account_id = :account AND name = :key_name
            UNION ALL SELECT token_prefix FROM clients WHERE account_id = :account AND name = :key_name
            UNION ALL SELECT prefix FROM access_tokens JOIN clients USING (account_id)
                WHERE account_id = :account AND client_id = clients.id AND name = :key_name)))
    AND (CAST(:route AS text) IS NULL OR route = :route)
    AND (CAST(:request_id AS text) IS NULL OR request_id = :request_id)
    AND (CAST(:first AS uuid) IS NULL OR id >= :first)
    AND (CAST(:beyond AS uuid) IS NULL OR id < :beyond)
    AND (CAST(:before AS uuid) IS NULL OR id < :before)
    AND (CAST(:after AS uuid) IS NULL OR id > :after)
    AND (NOT :waiting OR replayable AND replayed_at IS NULL AND type <> :never
        AND (content_encoding IS NULL OR content_encoding = 'gzip'))
"""


def find_latest_refusals(
    connection: sa.Connection, account_id: int, wanted: RefusalFilter, limit: int
) -> list[RefusalRow]:
    """The refusals that pass the filter, newest first."""
    query = _SELECT + _FILTER + "ORDER BY id DESC LIMIT :limit"
    values = {"account": account_id, "limit": limit, **_values(wanted)}
    return [RefusalRow(*row) for row in run_sql(connection, query, values)]


@dataclass(frozen=True, slots=True)
class WaitingRefusal:
    """A refusal that can be replayed and was not."""

    id: UUID
    type: str
    route: str


def find_first_waiting(
    connection: sa.Connection, account_id: int, wanted: RefusalFilter, limit: int | None
) -> list[WaitingRefusal]:
    """The refusals that pass the filter, can be replayed and were not, oldest first; at most `limit` (None: all)."""
    query = f"SELECT id, type, route FROM refusals WHERE account_id = :account {_FILTER} ORDER BY id LIMIT :limit"
    values = {"account": account_id, "limit": limit, **_values(wanted), "waiting": True}
    return [WaitingRefusal(*row) for row in run_sql(connection, query, values)]


def _values(wanted: RefusalFilter) -> dict[str, Any]:
    return {
        **asdict(wanted),
        "first": None if wanted.since is None else str(first_id_at(wanted.since)),
        "beyond": None if wanted.until is None else str(first_id_at(wanted.until)),
        "before": None if wanted.before is None else str(wanted.before),
        "after": None if wanted.after is None else str(wanted.after),
        "never": ProblemType.ACCOUNT_MISMATCH.slug,
    }


def find_refusal(connection: sa.Connection, account_id: int, refusal_id: UUID) -> RefusalRow | None:
    """A refusal by its id."""
    row = run_sql(connection, _SELECT + "AND id = :id", {"account": account_id, "id": str(refusal_id)}).first()
    return None if row is None else RefusalRow(*row)


def find_accounts_with_refusal(connection: sa.Connection, refusal_id: UUID) -> list[int]:
    """The ids of the accounts that have a refusal of this id; almost always none or one."""
    return find_owners(connection, "refusals", refusal_id)


def find_body(connection: sa.Connection, account_id: int, refusal_id: UUID) -> bytes | None:
    """The body of a refusal as it was sent; None when it is not kept."""
    query = "SELECT body, body_bytes FROM refusals WHERE account_id = :account AND id = :id"
    row = run_sql(connection, query, {"account": account_id, "id": str(refusal_id)}).first()
    return None if row is None or row.body is None else unpack_body(row.body, row.body_bytes)


def unpack_body(packed: bytes | memoryview, size: int) -> bytes:
    """The body in a row, which has `size` bytes."""
    return zlib.decompressobj().decompress(packed, size) if size else b""


@dataclass(frozen=True, slots=True)
class RefusalTexts:
    """All texts of a refusal in which a person may be named: the body as it is kept, and the `explanation`, which are all others
    but those of `items`."""

    id: UUID
    route: str
    type: str
    detail: str
    items: Sequence[Mapping[str, Any]] | None
    replayable: bool
    body: bytes | None
    content_encoding: str | None
    explanation: str


def find_texts_after(
    connection: sa.Connection, account_id: int, refusal_id: UUID | None, limit: int
) -> list[RefusalTexts]:
    """The texts of the refusals after one (None: from the oldest), oldest first."""
    query = (
        "SELECT id, route, type, detail, items, replayable, body, body_bytes, content_encoding, "
        "concat_ws(' ', route, request_id, idempotency_key, detail, errors::text) AS explanation "
        "FROM refusals WHERE account_id = :account AND (CAST(:after AS uuid) IS NULL OR id > :after) ORDER BY id LIMIT :limit"
    )
    after = None if refusal_id is None else str(refusal_id)
    rows = run_sql(connection, query, {"account": account_id, "after": after, "limit": limit})
    return [
        RefusalTexts(
            row.id,
            row.route,
            row.type,
            row.detail,
            row.items,
            row.replayable,
            None if row.body is None else unpack_body(row.body, row.body_bytes),
            row.content_encoding,
            row.explanation,
        )
        for row in rows
    ]


def record_replay(
    connection: sa.Connection, account_id: int, refusal_id: UUID, replayed_at: datetime, event_id: UUID | None
) -> None:
    """Record that the body of a refusal was accepted, with its event, or the first one of several."""
    values = {"account": account_id, "id": str(refusal_id), "at": replayed_at}
    run_sql(
        connection,
        "UPDATE refusals SET replayed_at = :at, replayed_event_id = CAST(:event AS uuid) "
        "WHERE account_id = :account AND id = :id",
        {**values, "event": None if event_id is None else str(event_id)},
    )


def save_items(connection: sa.Connection, account_id: int, refusal_id: UUID, items_json: str) -> None:
    """Replace the items of a refusal."""
    run_sql(
        connection,
        "UPDATE refusals SET items = CAST(:items AS jsonb) WHERE account_id = :account AND id = :id",
        {"account": account_id, "id": str(refusal_id), "items": items_json},
    )


def replace_body(
    connection: sa.Connection, account_id: int, refusal_id: UUID, items_json: str, body: bytes, body_bytes: int
) -> None:
    """Replace the body of a refusal, which has `body_bytes` and is compressed here, by that of some items of it."""
    run_sql(
        connection,
        "UPDATE refusals SET items = CAST(:items AS jsonb), body = :body, body_bytes = :size, content_encoding = NULL "
        "WHERE account_id = :account AND id = :id",
        {"account": account_id, "id": str(refusal_id), "items": items_json, "body": body, "size": body_bytes},
    )


def delete_refusals(connection: sa.Connection, account_id: int, refusal_ids: Sequence[UUID]) -> int:
    """Delete refusals; how many."""
    return delete_by_ids(connection, "refusals", account_id, refusal_ids)


def delete_older(
    connection: sa.Connection, before: datetime, *, account_id: int | None = None, limit: int = _MAX_DELETED
) -> int:
    """Delete at most `limit` refusals from before a time, of one account or of all; how many. Repeat while it deletes `limit`."""
    if account_id is None:
        return delete_batch(connection, "refusals", "refused_at < :before", {"before": before}, limit)
    values = {"account": account_id, "first": str(first_id_at(before))}
    return delete_batch(connection, "refusals", "account_id = :account AND id < :first", values, limit)
