"""Deliveries: write, list, find, delete. Every statement has a range of (account_id, id), or an index."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
import sqlalchemy as sa
from psycopg2.extensions import connection as RawConnection

from app.core.ids import first_id_at
from app.db.connection import PgConnection, delete_batch, execute, fetch_all, prepare, run_sql
from app.db.job_queue import MAP, enqueue
from app.db.shared_sql import MAX_COUNTED, count_of, delete_by_ids, find_owners

# What becomes of a delivery.
ACCEPTED, DUPLICATE, PARTLY, UNMAPPED, UNVERIFIED = "accepted", "duplicate", "partly", "unmapped", "unverified"
# Those that `source replay` maps again.
WAITING = (UNMAPPED, PARTLY)
# Bodies make rows large.
_MAX_DELETED = 1_000
_encoder = msgspec.json.Encoder()


class DeliveryProblem(msgspec.Struct, frozen=True):
    """What could not be mapped or verified: the item (from 0; None: the whole delivery), a path in the document of the source,
    and why."""

    item: int | None
    path: str
    message: str


class NewDelivery(msgspec.Struct, frozen=True, omit_defaults=True):
    """A delivery to store. The fields are columns of the table. `result` is what it is unless all its events were stored before.

    With the id of a stored delivery, which is mapped again, it replaces what became of that (`replayed_at`: when). Events that
    were stored before and that it does not have stay its events.
    """

    account_id: int
    id: UUID
    source_id: UUID
    source_version: int
    received_at: datetime
    method: str
    headers: Mapping[str, str]
    body: bytes
    verified: bool
    result: str
    request_id: str
    query: str | None = None
    content_encoding: str | None = None
    problems: tuple[DeliveryProblem, ...] | None = None
    replayed_at: datetime | None = None


def final_result(result: str, events: int, duplicates: int) -> str:
    """What becomes of a delivery with so many events, of which so many were stored before. `insert_deliveries` has the same in
    SQL."""
    return DUPLICATE if result == ACCEPTED and 0 < duplicates == events else result


_RECORD = (
    "id uuid, source_id uuid, source_version int, received_at timestamptz, method text, query text, headers jsonb, body text, "
    "content_encoding text, verified boolean, result text, problems jsonb, request_id text, replayed_at timestamptz"
)
# The columns of a NewDelivery that is JSON in the column `delivery`.
_READ = f"json_to_record(delivery) AS new ({_RECORD})"


def insert_deliveries(rows: str, body: str = "decode(body, 'base64')") -> str:
    """SQL that stores deliveries. `rows`: what follows FROM; `new` in it has the columns of a NewDelivery, and something has
    account_id, events (jsonb: ids) and duplicates. `body`: their body as bytea. It may be repeated."""
    return f"""
    INSERT INTO deliveries AS known (account_id, id, source_id, source_version, received_at, method, query, headers, body,
                            content_encoding, verified, result, events, duplicates, problems, request_id, replayed_at)
    SELECT account_id, new.id, source_id, source_version, new.received_at, method, query, headers, {body},
           content_encoding, verified,
           CASE WHEN result = 'accepted' AND duplicates > 0 AND duplicates = jsonb_array_length(events) THEN 'duplicate'
                ELSE result END,
           events, duplicates, problems, request_id, replayed_at
    FROM {rows}
    ON CONFLICT (account_id, id) DO UPDATE
        SET source_version = excluded.source_version, result = excluded.result, problems = excluded.problems,
            replayed_at = excluded.replayed_at, (events, duplicates) = (
                SELECT coalesce(jsonb_agg(one), '[]') || excluded.events, count(*) + excluded.duplicates
                FROM jsonb_array_elements(known.events) AS one
                WHERE one NOT IN (SELECT * FROM jsonb_array_elements(excluded.events))
            )
    """


_INSERT = insert_deliveries(
    f"(SELECT %s::bigint AS account_id, %s::json AS delivery, %s::jsonb AS events, %s AS duplicates) AS made, {_READ}"
)
_INSERT_IF_CURRENT = f"""
    (bigint, bigint, json, jsonb, boolean) AS
WITH known AS (SELECT id AS account_id, $3 AS delivery, $4 AS events, jsonb_array_length($4) AS duplicates
               FROM accounts WHERE id = $1 AND version = $2),
stored AS ({insert_deliveries(f"known, {_READ}")}),
job AS ({enqueue(MAP, "account_id || ':' || (delivery->>'id')", "known WHERE $5")})
SELECT EXISTS (SELECT FROM known)
"""


def insert_delivery(
    connection: RawConnection, delivery: NewDelivery, events: Sequence[UUID | None], duplicates: int
) -> None:
    """Store a delivery with the ids of its events in the caller's transaction."""
    execute(connection, _INSERT, (delivery.account_id, to_json(delivery), _ids_json(events), duplicates))


def insert_if_current(
    connection: PgConnection,
    account_version: int,
    delivery: NewDelivery,
    events: Sequence[UUID] = (),
    *,
    is_late: bool = False,
) -> bool:
    """Store a delivery without new events; `events` were stored before. `is_late`: with a job that maps it. False, and nothing is
    stored, when the account has another version."""
    prepare(connection, "insert_delivery", _INSERT_IF_CURRENT)
    values = (delivery.account_id, account_version, to_json(delivery), _ids_json(events), is_late)
    ((is_current,),) = fetch_all(connection, "EXECUTE insert_delivery (%s, %s, %s, %s, %s)", values)
    return bool(is_current)


def _ids_json(events: Sequence[UUID | None]) -> str:
    return _encoder.encode([one for one in events if one is not None]).decode()


def to_json(delivery: NewDelivery) -> str:
    """A delivery as the statements take it."""
    return _encoder.encode(delivery).decode()


# At most one a second and source, over all processes: a flood of requests with bad signatures must not fill the table.
_INSERT_SAMPLE = insert_deliveries(
    "(SELECT accounts.id AS account_id, CAST(:delivery AS json) AS delivery, CAST('[]' AS jsonb) AS events, 0 AS duplicates "
    "FROM accounts WHERE accounts.id = :account AND NOT EXISTS (SELECT FROM deliveries AS known "
    "WHERE known.account_id = :account AND known.source_id = CAST(:source AS uuid) AND known.result = 'unverified' "
    f"AND known.id > CAST(:after AS uuid))) AS made, {_READ}"
)


def insert_sample(connection: sa.Connection, delivery: NewDelivery) -> bool:
    """Store a delivery that was refused as unverified, unless one of its source was stored less than a second before, or is being
    stored by another process."""
    # A statement does not see what another transaction has not committed.
    lock = "SELECT pg_try_advisory_xact_lock(hashtextextended(:text, 0))"
    if not run_sql(connection, lock, {"text": f"unverified {delivery.source_id}"}).scalar():
        return False
    values = {
        "account": delivery.account_id,
        "source": str(delivery.source_id),
        "after": str(first_id_at(delivery.received_at - timedelta(seconds=1))),
        "delivery": to_json(delivery),
    }
    return run_sql(connection, _INSERT_SAMPLE, values).rowcount == 1


@dataclass(frozen=True, slots=True)
class DeliveryRow:
    """A stored delivery without its body, which has `body_bytes`. `source`: the name of its source."""

    id: UUID
    account_id: int
    source_id: UUID
    source: str | None
    source_version: int
    received_at: datetime
    method: str
    query: str | None
    headers: Mapping[str, str]
    body_bytes: int
    content_encoding: str | None
    verified: bool
    result: str
    events: Sequence[str]
    duplicates: int
    problems: Sequence[Mapping[str, Any]] | None
    request_id: str
    replayed_at: datetime | None


@dataclass(frozen=True, slots=True)
class DeliveryFilter:
    """Filters deliveries by their columns and by time (`since` inclusive, `until` exclusive); `before`: only smaller ids;
    `after`: only greater ids. `results`: any of these. None: all. `without_events`: only those without events."""

    source_id: UUID | None = None
    results: Sequence[str] | None = None
    request_id: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    before: UUID | None = None
    after: UUID | None = None
    without_events: bool = False


_CHANGED_NAMES = {"source": "sources.name AS source", "body_bytes": "octet_length(body) AS body_bytes"}
_SELECT = f"""
SELECT {", ".join(_CHANGED_NAMES.get(field.name, f"delivery.{field.name}") for field in fields(DeliveryRow))}
FROM deliveries AS delivery
LEFT JOIN sources ON sources.account_id = delivery.account_id AND sources.id = source_id
WHERE delivery.account_id = :account
"""
# The condition of the partial index deliveries_open_idx.
_OPEN = f"AND result IN ('{PARTLY}', '{UNMAPPED}', '{UNVERIFIED}') "
# Filters that are null are constants to the planner, which drops them. It finds by itself that `results` are those of
# deliveries_open_idx: were that condition here, too, it would expect far fewer rows than there are, and sort all of them.
_FILTER = """
    AND (CAST(:source_id AS uuid) IS NULL OR source_id = :source_id)
    AND (CAST(:results AS text[]) IS NULL OR result = ANY (:results))
    AND (CAST(:request_id AS text) IS NULL OR request_id = :request_id)
    AND (CAST(:first AS uuid) IS NULL OR delivery.id >= :first)
    AND (CAST(:beyond AS uuid) IS NULL OR delivery.id < :beyond)
    AND (CAST(:before AS uuid) IS NULL OR delivery.id < :before)
    AND (CAST(:after AS uuid) IS NULL OR delivery.id > :after)
    AND (NOT :without_events OR delivery.events = '[]')
"""


def find_latest_deliveries(
    connection: sa.Connection, account_id: int, wanted: DeliveryFilter, limit: int
) -> list[DeliveryRow]:
    """The deliveries that pass the filter, newest first."""
    return _find(connection, account_id, wanted, limit, "DESC")


def find_first_deliveries(
    connection: sa.Connection, account_id: int, wanted: DeliveryFilter, limit: int
) -> list[DeliveryRow]:
    """The deliveries that pass the filter, oldest first."""
    return _find(connection, account_id, wanted, limit, "ASC")


def _find(
    connection: sa.Connection, account_id: int, wanted: DeliveryFilter, limit: int, order: str
) -> list[DeliveryRow]:
    query = f"{_SELECT} {_FILTER} ORDER BY delivery.id {order} LIMIT :limit"
    values = {
        **asdict(wanted),
        "account": account_id,
        "limit": limit,
        "results": None if wanted.results is None else list(wanted.results),
        "first": None if wanted.since is None else first_id_at(wanted.since),
        "beyond": None if wanted.until is None else first_id_at(wanted.until),
    }
    values = {name: str(value) if isinstance(value, UUID) else value for name, value in values.items()}
    return [DeliveryRow(*row) for row in run_sql(connection, query, values)]


def find_delivery(connection: sa.Connection, account_id: int, delivery_id: UUID) -> DeliveryRow | None:
    """A delivery by its id."""
    row = run_sql(
        connection, _SELECT + "AND delivery.id = :id", {"account": account_id, "id": str(delivery_id)}
    ).one_or_none()
    return None if row is None else DeliveryRow(*row)


def find_accounts_with_delivery(connection: sa.Connection, delivery_id: UUID) -> list[int]:
    """The ids of the accounts that have a delivery of this id; almost always none or one."""
    return find_owners(connection, "deliveries", delivery_id)


@dataclass(frozen=True, slots=True)
class SourceCounts:
    """The deliveries of a source since a time: all of them, those not mapped or only in part, and those not verified. Each is at
    most MAX_COUNTED. `last_at`: when the last one arrived, also before that time."""

    total: int
    waiting: int
    unverified: int
    last_at: datetime | None


# Each part reads at most MAX_COUNTED entries of an index. Only deliveries_source_idx has the order of the last one: by ids alone,
# the last one of a quiet source would be found after all that came to others since.
_COUNTS = f"""
SELECT wanted.id,
    {count_of("deliveries WHERE account_id = :account AND source_id = wanted.id AND id >= :first")},
    coalesce(open.waiting, 0), coalesce(open.unverified, 0),
    (SELECT received_at FROM (
        SELECT source_id, received_at FROM deliveries WHERE account_id = :account
            AND (source_id, id) <= (wanted.id, CAST('ffffffff-ffff-ffff-ffff-ffffffffffff' AS uuid))
        ORDER BY source_id DESC, id DESC LIMIT 1) AS last WHERE source_id = wanted.id) AS last_at
FROM unnest(CAST(:sources AS uuid[])) AS wanted (id), LATERAL (
    SELECT count(*) FILTER (WHERE result <> 'unverified') AS waiting, count(*) FILTER (WHERE result = 'unverified') AS unverified
    FROM (SELECT result FROM deliveries WHERE account_id = :account AND source_id = wanted.id AND id >= :first {_OPEN}
          LIMIT :max_rows) AS one
) AS open
"""


def count_by_source(
    connection: sa.Connection, account_id: int, source_ids: Sequence[UUID], since: datetime
) -> dict[UUID, SourceCounts]:
    """The counts of these sources by their ids."""
    sources, first = list(map(str, source_ids)), str(first_id_at(since))
    values = {"account": account_id, "sources": sources, "first": first, "max_rows": MAX_COUNTED}
    return {row[0]: SourceCounts(*row[1:]) for row in run_sql(connection, _COUNTS, values)}


def find_body(connection: sa.Connection, account_id: int, delivery_id: UUID) -> bytes | None:
    """The body of a delivery as it arrived; None when there is no such delivery."""
    query = "SELECT body FROM deliveries WHERE account_id = :account AND id = :id"
    body = run_sql(connection, query, {"account": account_id, "id": str(delivery_id)}).scalar()
    return None if body is None else bytes(body)


def delete_older(connection: sa.Connection, account_id: int, before: datetime, limit: int = _MAX_DELETED) -> int:
    """Delete at most `limit` deliveries of an account from before a time; how many. Repeat while it deletes `limit`."""
    values = {"account": account_id, "first": str(first_id_at(before))}
    return delete_batch(connection, "deliveries", "account_id = :account AND id < :first", values, limit)


@dataclass(frozen=True, slots=True)
class DeliveryTexts:
    """All of a delivery in which a person may be named. `is_of_subject`: one of its events is about the subject."""

    id: UUID
    body: bytes
    content_encoding: str | None
    others: str
    is_of_subject: bool


def find_texts_after(
    connection: sa.Connection, account_id: int, subject: str, delivery_id: UUID | None, limit: int
) -> list[DeliveryTexts]:
    """The texts of the deliveries after one (None: from the oldest), oldest first."""
    query = (
        "SELECT id, body, content_encoding, concat_ws(' ', query, headers::text, problems::text, request_id) AS others, "
        "EXISTS (SELECT FROM jsonb_array_elements_text(events) AS made (id) JOIN events AS event ON "
        "event.account_id = delivery.account_id AND event.id = CAST(made.id AS uuid) WHERE distinct_id = :subject) AS is_mine "
        "FROM deliveries AS delivery WHERE account_id = :account AND (CAST(:after AS uuid) IS NULL OR id > :after) "
        "ORDER BY id LIMIT :limit"
    )
    after = None if delivery_id is None else str(delivery_id)
    rows = run_sql(connection, query, {"account": account_id, "subject": subject, "after": after, "limit": limit})
    return [DeliveryTexts(row.id, bytes(row.body), row.content_encoding, row.others, row.is_mine) for row in rows]


def delete_deliveries(connection: sa.Connection, account_id: int, delivery_ids: Sequence[UUID]) -> int:
    """Delete deliveries; how many."""
    return delete_by_ids(connection, "deliveries", account_id, delivery_ids)
