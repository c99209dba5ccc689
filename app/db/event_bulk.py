"""Many events at once in Postgres: their rows column by column, with idempotency keys, runs and jobs, all in one transaction.

Comes in: what is to be written, on a connection that is in the caller's transaction. Goes out: which idempotency keys
stand for earlier events.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from psycopg2.extensions import connection as RawConnection

from app.core.durations import RETENTION
from app.core.models import Event, NewRun
from app.db.event_writes import EarlierEvent
from app.db.job_queue import enqueue_events, enqueue_runs

# Rows go to Postgres in portions of so many, or of about so many characters: memory does not grow with their number.
_PORTION = 1_000
_PORTION_SIZE = 1 << 20
_BETWEEN = "\x1e"
# Whole columns in place of rows: about as fast as COPY, which psycopg2 cannot do under gevent.
_INSERT = """
INSERT INTO events (account_id, id, received_at, event, distinct_id, phone, idempotency_key, decisions, data, extra, warnings)
SELECT %s, new.id, new.received_at, new.event, new.distinct_id, new.phone, new.idempotency_key, new.decisions::jsonb,
       new.data::jsonb, new.extra::jsonb, new.warnings::jsonb
FROM unnest(%s::uuid[], %s::timestamptz[], %s::text[], %s::text[], %s::text[], %s::text[],
            string_to_array(%s, E'\\x1e', ''), string_to_array(%s, E'\\x1e', ''), string_to_array(%s, E'\\x1e', ''),
            string_to_array(%s, E'\\x1e', ''))
    AS new (id, received_at, event, distinct_id, phone, idempotency_key, decisions, data, extra, warnings)
"""

# Name, subject, phone, data, extra, warnings and idempotency key of an event; JSON as text.
Facts = tuple[str, str, str | None, str, str | None, str | None, str | None]


@dataclass(frozen=True, slots=True)
class Claim:
    """An idempotency key that is to stand for an event, with the digest of what it came with."""

    key: str
    digest: bytes
    event_id: UUID
    received_at: datetime


class Rows:
    """Rows on their way into `events`: written in portions, the last one by `flush`. Where ids `may_be_there` their rows are
    left out; `written` counts the others."""

    def __init__(self, connection: RawConnection, account_id: int, *, may_be_there: bool = False) -> None:
        self.written = 0
        self._statement = _INSERT + ("ON CONFLICT DO NOTHING" if may_be_there else "")
        self._connection = connection
        self._account_id = account_id
        self._rows: list[tuple[str | None, ...]] = []
        self._size = 0

    def add(self, event_id: UUID, received_at: datetime, decisions: str | None, facts: Facts) -> None:
        """Write a row, now or with the next portion."""
        self._rows.append((str(event_id), received_at.isoformat(), decisions, *facts))
        self._size += len(facts[3]) + len(decisions or "")
        if len(self._rows) >= _PORTION or self._size >= _PORTION_SIZE:
            self.flush()

    def flush(self) -> None:
        """Write what is still here."""
        if not self._rows:
            return
        ids, moments, decisions, names, subjects, phones, data, extra, warnings, keys = zip(*self._rows, strict=True)
        self._rows, self._size = [], 0
        with self._connection.cursor() as cursor:
            cursor.execute(
                self._statement,
                (
                    self._account_id,
                    *map(_array, (ids, moments, names, subjects, phones, keys)),
                    *map(_joined, (decisions, data, extra, warnings)),
                ),
            )
            self.written += cursor.rowcount


def facts_of(event: Event) -> Facts:
    """What an event's row holds beside id, moment and decisions."""
    return (
        event.event,
        event.distinct_id,
        event.phone,
        event.data_json,
        event.extra_json,
        json.dumps(event.warnings, ensure_ascii=False) if event.warnings else None,
        event.idempotency_key,
    )


def _array(texts: Sequence[str | None]) -> str:
    """Texts as one array in Postgres' own notation."""
    return "{" + ",".join(["NULL" if text is None else _quoted(text) for text in texts]) + "}"


def _quoted(text: str) -> str:
    if "\\" in text or '"' in text:
        text = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'


def _joined(texts: Sequence[str | None]) -> str:
    """JSON texts with a character between them that JSON never has within; nothing for None."""
    return _BETWEEN.join([text or "" for text in texts])


def is_current(connection: RawConnection, account_id: int, account_version: int, batch: int) -> bool:
    """Whether the caller's copy of the account is the current one.

    Waits for an earlier transaction of the same `batch` (any number of its own), should there still be one.
    """
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", (batch,))
        cursor.execute("SELECT version = %s FROM accounts WHERE id = %s", (account_version, account_id))
        row = cursor.fetchone()
    return row is not None and bool(row[0])


def claim_keys(connection: RawConnection, account_id: int, claims: Iterable[Claim]) -> dict[str, EarlierEvent | None]:
    """Let idempotency keys (different ones) stand for events; those that stand for earlier ones, with these (None: that
    one has just been forgotten).

    The keys are taken in their order, so that two batches with the same keys never wait for each other in a circle. A key
    that is older than RETENTION but not swept yet is taken over as if it were not there.
    """
    ordered = sorted(claims, key=lambda claim: claim.key)
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO idempotency_keys AS known (account_id, key, digest, event_id, received_at) "
            "SELECT %s, key, digest, event_id, received_at "
            "FROM unnest(%s::text[], %s::bytea[], %s::uuid[], %s::timestamptz[]) WITH ORDINALITY "
            "AS claim (key, digest, event_id, received_at, number) ORDER BY number "
            "ON CONFLICT (account_id, key) DO UPDATE "
            "SET digest = excluded.digest, event_id = excluded.event_id, received_at = excluded.received_at "
            "WHERE known.received_at < excluded.received_at - %s RETURNING key",
            (
                account_id,
                [claim.key for claim in ordered],
                [claim.digest for claim in ordered],
                [str(claim.event_id) for claim in ordered],
                [claim.received_at for claim in ordered],
                RETENTION,
            ),
        )
        fresh = {row[0] for row in cursor}
        taken: dict[str, EarlierEvent | None] = {claim.key: None for claim in ordered if claim.key not in fresh}
        if taken:
            cursor.execute(
                "SELECT key, event_id, digest, received_at FROM idempotency_keys WHERE account_id = %s AND key = ANY (%s)",
                (account_id, list(taken)),
            )
            taken.update((row[0], EarlierEvent(UUID(str(row[1])), bytes(row[2]), row[3])) for row in cursor)
    return taken


def start_runs(connection: RawConnection, account_id: int, runs: Sequence[tuple[NewRun, str, datetime]]) -> None:
    """Create runs (with subject and moment) and their jobs."""
    for first in range(0, len(runs), _PORTION):
        portion = runs[first : first + _PORTION]
        with connection.cursor() as cursor:
            cursor.execute(
                "WITH new AS (SELECT * FROM unnest(%(ids)s::uuid[], %(workflows)s::uuid[], %(versions)s::int[], "
                "%(keys)s::text[], %(events)s::uuid[], %(event_moments)s::timestamptz[], %(matched)s::text[], "
                "%(subjects)s::text[], %(moments)s::timestamptz[]) AS new (id, workflow_id, version, "
                "match_key, event_id, event_at, matched, subject, now)), run AS ("
                "INSERT INTO runs (account_id, id, workflow_id, version, match_key, event_id, event_received_at, matched, "
                "distinct_id, status, at, wake_at, created_at, updated_at) "
                "SELECT %(account)s, id, workflow_id, version, match_key, event_id, event_at, matched::uuid[], subject, "
                "'running', 'steps[0]', now, now, now FROM new RETURNING account_id, id) " + enqueue_runs("run"),
                _run_values(account_id, portion),
            )


def _run_values(account_id: int, runs: Sequence[tuple[NewRun, str, datetime]]) -> Mapping[str, object]:
    return {
        "account": account_id,
        "ids": [str(run.id) for run, _, _ in runs],
        "workflows": [str(run.workflow_id) for run, _, _ in runs],
        "versions": [run.version for run, _, _ in runs],
        "keys": [run.match_key for run, _, _ in runs],
        "events": [str(run.event_id) for run, _, _ in runs],
        "event_moments": [run.event_received_at for run, _, _ in runs],
        "matched": ["{" + ",".join(map(str, run.matched)) + "}" for run, _, _ in runs],
        "subjects": [subject for _, subject, _ in runs],
        "moments": [moment for _, _, moment in runs],
    }


def enqueue_event_jobs(connection: RawConnection, account_id: int, event_ids: Sequence[UUID]) -> None:
    """Enqueue a job for each event that looks for runs which it wakes or ends."""
    with connection.cursor() as cursor:
        cursor.execute(
            enqueue_events("(SELECT %s AS account_id, unnest(%s::uuid[]) AS id) AS event"),
            (account_id, [str(event_id) for event_id in event_ids]),
        )
