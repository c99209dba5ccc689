"""How long accounts keep what is stored, and the deletion of what is older, a bounded number of rows at a time.

Ids are UUIDv7: rows are found by ranges of `(account_id, id)` through the primary keys, the oldest first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

import sqlalchemy as sa

from app.core.durations import RETENTION
from app.core.ids import first_id_at
from app.db import audit, deliveries, refusals
from app.db.connection import Database, fetch_all, run_sql, unavailable_on_transient_errors
from app.db.needed_events import NOT_NEEDED
from app.db.shared_sql import find_accounts_with_rows


@dataclass(frozen=True, slots=True)
class Range:
    """The rows of an account that are older than `before`, after the id `after`; the first `limit` of them are looked at. `keys`:
    as `needed_events.find_keys_in_data` returns them."""

    account_id: int
    before: datetime
    after: UUID
    limit: int
    keys: Sequence[str]


class Batch(NamedTuple):
    """So many rows were looked at, the last of which has the id `last`, and so many of them were deleted."""

    seen: int
    last: UUID | None
    deleted: int


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of rows, in words `rows`, that accounts keep for a time of their choice, at least for `shortest`. `delete` deletes a
    batch. By default they keep them for `default` (None: for ever); then `name` is the table."""

    name: str
    rows: str
    delete: Callable[[sa.Connection, Range], Batch]
    default: timedelta | None = None
    shortest: timedelta = timedelta(days=1)

    def find_accounts(self, connection: sa.Connection) -> list[int]:
        """The accounts that have rows which are deleted although the account has set nothing."""
        return find_accounts_with_rows(connection, self.name) if self.default else []


_RESULT = "SELECT (SELECT count(*) FROM batch), (SELECT id FROM batch ORDER BY id DESC LIMIT 1), (SELECT count(*) FROM deleted)"
_IN_RANGE = "account_id = :account AND id > :after AND id < :beyond"

# The times of the batch select its partitions.
_DELETE_EVENTS = f"""
WITH batch AS (
    SELECT id, received_at FROM events WHERE {_IN_RANGE} AND received_at < :before ORDER BY id LIMIT :limit
), deleted AS (
    DELETE FROM events AS event WHERE account_id = :account AND id = ANY (ARRAY(SELECT id FROM batch))
        AND received_at >= (SELECT min(received_at) FROM batch) AND received_at <= (SELECT max(received_at) FROM batch)
        AND {NOT_NEEDED}
    RETURNING 1
)
{_RESULT}
"""

# A run is deleted with its blocks, and only when all of them have ended: the run reads their results.
_DELETE_RUNS = f"""
WITH batch AS (
    SELECT id, parent_id IS NULL AND status <> 'running' AND finished_at < :before AS is_expired FROM runs
    WHERE {_IN_RANGE} ORDER BY id LIMIT :limit
), deleted AS (
    DELETE FROM runs WHERE account_id = :account AND id = ANY (ARRAY(SELECT id FROM batch WHERE is_expired))
        AND status <> 'running' AND NOT EXISTS (SELECT FROM runs AS block WHERE block.account_id = :account
            AND block.root_id = runs.id AND block.status = 'running')
    RETURNING id
), block AS (
    DELETE FROM runs WHERE account_id = :account AND root_id = ANY (ARRAY(SELECT id FROM deleted)) RETURNING id
), deleted_steps AS (
    DELETE FROM steps WHERE account_id = :account
        AND run_id = ANY (ARRAY(SELECT id FROM deleted UNION ALL SELECT id FROM block))
), deleted_attempts AS (
    DELETE FROM attempts WHERE account_id = :account
        AND run_id = ANY (ARRAY(SELECT id FROM deleted UNION ALL SELECT id FROM block))
)
{_RESULT}
"""

# By runs, since the primary key begins with the run: its id is not later than its attempts.
_DELETE_ATTEMPTS = f"""
WITH batch AS (
    SELECT run_id AS id FROM attempts WHERE account_id = :account AND run_id > :after AND run_id < :beyond
    ORDER BY run_id LIMIT :limit
), ended AS (
    SELECT id FROM runs WHERE account_id = :account AND id = ANY (ARRAY(SELECT DISTINCT id FROM batch)) AND status <> 'running'
), deleted AS (
    DELETE FROM attempts WHERE account_id = :account AND run_id = ANY (ARRAY(SELECT id FROM ended)) AND finished_at < :before
    RETURNING 1
)
{_RESULT}
"""


def _delete(statement: str) -> Callable[[sa.Connection, Range], Batch]:
    def delete(connection: sa.Connection, rows: Range) -> Batch:
        values = {
            "account": rows.account_id,
            "before": rows.before,
            "beyond": first_id_at(rows.before),
            "after": rows.after,
            "limit": rows.limit,
            "keys": list(rows.keys),
        }
        return Batch(*run_sql(connection, statement, values).one())

    return delete


def _delete_refusals(connection: sa.Connection, rows: Range) -> Batch:
    deleted = refusals.delete_older(connection, rows.before, account_id=rows.account_id, limit=rows.limit)
    return Batch(deleted, rows.after, deleted)


def _delete_audit_log(connection: sa.Connection, rows: Range) -> Batch:
    deleted = audit.delete_older(connection, rows.account_id, rows.before, rows.limit)
    return Batch(deleted, rows.after, deleted)


def _delete_deliveries(connection: sa.Connection, rows: Range) -> Batch:
    deleted = deliveries.delete_older(connection, rows.account_id, rows.before, rows.limit)
    return Batch(deleted, rows.after, deleted)


EVENTS = Kind("events", "events with their decisions", _delete(_DELETE_EVENTS))
RUNS = Kind("runs", "runs that have ended, with their steps and attempts", _delete(_DELETE_RUNS))
# In the order in which they are shown.
KINDS = (
    EVENTS,
    RUNS,
    Kind("attempts", "attempts of runs that have ended: requests and responses", _delete(_DELETE_ATTEMPTS)),
    Kind("refusals", "refused requests", _delete_refusals, refusals.RETENTION),
    Kind("deliveries", "what was posted to sources", _delete_deliveries, RETENTION),
    Kind("audit", "who changed what", _delete_audit_log, shortest=timedelta(days=audit.MIN_RETENTION_DAYS)),
)


def find_retention(connection: sa.Connection, account_id: int) -> dict[str, timedelta | None]:
    """How long an account keeps the kinds for which it has set it; None: for ever."""
    query = "SELECT kind, keep FROM account_retention WHERE account_id = :account"
    return {row.kind: row.keep for row in run_sql(connection, query, {"account": account_id})}


def find_all_retention(connection: sa.Connection) -> dict[int, dict[str, timedelta | None]]:
    """The same of all accounts that have set any."""
    found: dict[int, dict[str, timedelta | None]] = {}
    for account_id, kind, keep in run_sql(connection, "SELECT account_id, kind, keep FROM account_retention"):
        found.setdefault(account_id, {})[kind] = keep
    return found


def set_retention(
    connection: sa.Connection, account_id: int, keep: Mapping[str, timedelta | None], now: datetime
) -> None:
    """Set how long an account keeps these kinds; None: for ever."""
    for kind, duration in keep.items():
        run_sql(
            connection,
            "INSERT INTO account_retention (account_id, kind, keep, changed_at) VALUES (:account, :kind, :keep, :now) "
            "ON CONFLICT (account_id, kind) DO UPDATE SET keep = excluded.keep, changed_at = excluded.changed_at",
            {"account": account_id, "kind": kind, "keep": duration, "now": now},
        )


def reset_retention(connection: sa.Connection, account_id: int, kinds: Sequence[str]) -> None:
    """Let an account keep these kinds as long as accounts do by default."""
    values = {"account": account_id, "kinds": list(kinds)}
    run_sql(connection, "DELETE FROM account_retention WHERE account_id = :account AND kind = ANY (:kinds)", values)


@contextmanager
def be_the_only_one(database: Database) -> Iterator[bool]:
    """Whether no other process is in such a block; no other will be until this one ends. Raises Unavailable."""
    with unavailable_on_transient_errors():
        connection = database.dedicated_connection()
    with closing(connection):
        with unavailable_on_transient_errors():
            rows: Any = fetch_all(connection, "SELECT pg_try_advisory_lock(hashtext('signalbox retention'))", ())
        yield rows[0][0]
