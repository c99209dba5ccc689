"""Queries for people: filtered lists of events and runs, and all details of one of them. Reads only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from app.core.ids import first_id_at, timestamp_of
from app.db.connection import limit_statements, run_sql
from app.db.event_queries import read_exactly, subject_at
from app.db.shared_sql import find_owners

# How long a statement of a person at a terminal may take.
MAX_SLOW_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """An event as stored. `data_json` and `extra_json` are what was sent, `augmented_json` is what augments added; all are
    exact JSON texts. Lists for people are without them."""

    id: UUID
    account_id: int
    event: str
    distinct_id: str
    phone: str | None
    data_json: str
    extra_json: str | None
    received_at: datetime
    decisions: Sequence[Mapping[str, Any]]
    idempotency_key: str | None
    warnings: Sequence[str]
    augmented_json: str | None = None
    occurred_at: datetime | None = None
    via: str | None = None


@dataclass(frozen=True, slots=True)
class RunRow:
    """A run; `account` and `workflow` are names. A block of a `par` has a `root_id` (the run that it belongs to) and a
    parent, whose step of ordinal `parent_ordinal` started it."""

    id: UUID
    account_id: int
    account: str
    workflow_id: UUID
    workflow: str
    version: int
    status: str
    at: str | None
    ordinal: int
    attempt: int
    turn: int
    match_key: str
    event_id: UUID
    matched: Sequence[UUID]
    distinct_id: str
    wake_at: datetime | None
    step_started_at: datetime | None
    error: str | None
    created_at: datetime
    updated_at: datetime
    finished_at: datetime | None
    root_id: UUID | None
    parent_id: UUID | None
    parent_ordinal: int | None
    error_target: str | None
    error_class: str | None


@dataclass(frozen=True, slots=True)
class StepDetails:
    """A step that a run has entered."""

    ordinal: int
    path: str
    name: str | None
    action: str
    status: str
    started_at: datetime
    finished_at: datetime | None
    output: Mapping[str, Any] | None
    error: str | None


@dataclass(frozen=True, slots=True)
class AttemptDetails:
    """One attempt at a step."""

    ordinal: int
    attempt: int
    outcome: str
    error_class: str | None
    error: str | None
    request: Mapping[str, Any] | None
    response: Mapping[str, Any] | None
    started_at: datetime
    finished_at: datetime


@dataclass(frozen=True, slots=True)
class RunTotals:
    """How many steps a run has entered, how many attempts it has made, and how long these took together."""

    steps: int
    attempts: int
    working: timedelta


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Filters events by name, subject, phone, and time (`since` inclusive, `until` exclusive); `before`: only events with a
    smaller id. None: all."""

    event: str | None = None
    subject: str | None = None
    phone: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    before: UUID | None = None


@dataclass(frozen=True, slots=True)
class RunFilter:
    """Filters runs by workflow, subject, and start (`since` inclusive, `until` exclusive). With `failed`: only failed runs, and
    both are compared with the time of failure. `target` and `error_class`: of failed runs (NOTHING: those without). `before`:
    only runs with a smaller id."""

    failed: bool = False
    workflow: str | None = None
    subject: str | None = None
    since: datetime | None = None
    before: UUID | None = None
    status: str | None = None
    until: datetime | None = None
    target: str | None = None
    error_class: str | None = None


def allow_slow_statements(connection: sa.Connection) -> None:
    """Raise the statement timeout of this transaction to a minute: a person at a terminal waits longer than a request."""
    limit_statements(connection, MAX_SLOW_SECONDS)


# Events

EVENT_COLUMNS = """
    id, account_id, event, distinct_id, phone, data::text, extra::text, received_at, coalesce(decisions, '[]'),
    idempotency_key, coalesce(warnings, '[]'), augmented::text, occurred_at, via
"""
# For lists, which do not show what was sent: a page of it may have 50 MB.
LISTED_EVENT_COLUMNS = EVENT_COLUMNS.replace("data::text, extra::text", "'{}', NULL").replace("augmented::text", "NULL")
_EVENTS = f"SELECT {EVENT_COLUMNS} FROM events WHERE account_id = :account "

# Filters that are null are constants to the planner, which drops them. Time is compared twice: received_at selects partitions,
# the id a range of an index.
EVENT_FILTER = """
    AND (CAST(:event AS text) IS NULL OR event = :event)
    AND (CAST(:subject AS text) IS NULL OR distinct_id = :subject)
    AND (CAST(:phone AS text) IS NULL OR phone = :phone)
    AND (CAST(:since AS timestamptz) IS NULL OR received_at >= :since AND id >= :first)
    AND (CAST(:until AS timestamptz) IS NULL OR received_at < :until AND id < :beyond)
    AND (CAST(:before AS uuid) IS NULL OR received_at <= :before_at AND id < :before)
"""


def _find_events(
    connection: sa.Connection, account_id: int, conditions: str, values: Mapping[str, Any], *, with_data: bool = True
) -> list[StoredEvent]:
    query = _EVENTS if with_data else _EVENTS.replace(EVENT_COLUMNS, LISTED_EVENT_COLUMNS)
    rows = run_sql(connection, query + conditions, {"account": account_id, **values})
    return [StoredEvent(*row) for row in rows]


def find_stored_event(connection: sa.Connection, account_id: int, event_id: UUID) -> StoredEvent | None:
    """An event by its id, which determines the partition."""
    values = {"id": event_id, "at": _timestamp_of(event_id)}
    return next(iter(_find_events(connection, account_id, "AND id = :id AND received_at = :at", values)), None)


def find_accounts_with_event(connection: sa.Connection, event_id: UUID) -> list[int]:
    """The ids of the accounts that have an event of this id; almost always none or one."""
    return find_owners(connection, "events", event_id, "received_at = :at", {"at": _timestamp_of(event_id)})


def _timestamp_of(event_id: UUID) -> datetime | None:
    """When the event of this id was received; None for an id that Signalbox has not made."""
    try:
        return timestamp_of(event_id)
    except OverflowError:
        return None


def find_latest_events(
    connection: sa.Connection, account_id: int, wanted: EventFilter, limit: int, *, with_data: bool = True
) -> list[StoredEvent]:
    """The events that pass the filter, newest first; on request without what was sent."""
    conditions = EVENT_FILTER + "ORDER BY id DESC LIMIT :limit"
    values = {"limit": limit, **filter_values(wanted)}
    return _find_events(connection, account_id, conditions, values, with_data=with_data)


def find_further_events(
    connection: sa.Connection, account_id: int, wanted: EventFilter, known: Iterable[UUID], limit: int
) -> list[StoredEvent]:
    """The events that pass the filter and are not among `known`, oldest first."""
    conditions = (
        "AND NOT EXISTS (SELECT FROM unnest(CAST(:known AS uuid[])) AS known (id) WHERE known.id = events.id) "
        "ORDER BY id LIMIT :limit"
    )
    values = {"limit": limit, "known": [str(one) for one in known], **filter_values(wanted)}
    return _find_events(connection, account_id, EVENT_FILTER + conditions, values)


def find_events_after(
    connection: sa.Connection, account_id: int, wanted: EventFilter, after: UUID, limit: int
) -> list[StoredEvent]:
    """The events that pass the filter and have ids above `after`, oldest first, without what was sent."""
    conditions = EVENT_FILTER + "AND received_at >= :after_at AND id > :after ORDER BY id LIMIT :limit"
    values = {"after": after, "after_at": _timestamp_of(after), "limit": limit, **filter_values(wanted)}
    return _find_events(connection, account_id, conditions, values, with_data=False)


def find_events_leading_to(
    connection: sa.Connection, event: StoredEvent, key: str, subject: str, names: Iterable[str] | None, limit: int
) -> list[StoredEvent]:
    """The event and earlier ones with the same subject under `key` (distinct_id, phone or a path into data), oldest first.
    Only these names (None: any), and only the latest `limit`."""
    root, *path = key.split(".")
    of_subject = {
        "distinct_id": "AND distinct_id = :subject ",
        "phone": "AND phone = :subject ",
        "data": f"AND {subject_at('CAST(:path AS text[])')} = :subject ",
    }[root]
    conditions = (
        "AND (CAST(:names AS text[]) IS NULL OR event = ANY (CAST(:names AS text[]))) "
        "AND id <= :id AND received_at <= :at ORDER BY id DESC LIMIT :limit"
    )
    values = {
        "subject": subject,
        "names": None if names is None else list(names),
        "id": event.id,
        "at": event.received_at,
        "limit": limit,
        **({"path": path} if path else {}),
    }
    return _find_events(connection, event.account_id, of_subject + conditions, values)[::-1]


def filter_values(wanted: EventFilter) -> dict[str, Any]:
    """The values of EVENT_FILTER."""
    return {
        **asdict(wanted),
        "first": None if wanted.since is None else first_id_at(wanted.since),
        "beyond": None if wanted.until is None else first_id_at(wanted.until),
        "before": None if wanted.before is None else str(wanted.before),
        "before_at": None if wanted.before is None else _timestamp_of(wanted.before),
    }


# Runs

_RUNS = """
SELECT run.id, run.account_id, account.slug, run.workflow_id, workflow.name, run.version, run.status, run.at, run.ordinal,
    run.attempt, run.turn, run.match_key, run.event_id, run.matched, run.distinct_id, run.wake_at, run.step_started_at,
    run.error, run.created_at, run.updated_at, run.finished_at, run.root_id, run.parent_id, run.parent_ordinal,
    run.error_target, run.error_class
FROM runs AS run
JOIN accounts AS account ON account.id = run.account_id
JOIN workflows AS workflow ON workflow.account_id = run.account_id AND workflow.id = run.workflow_id
WHERE run.account_id = :account
"""

RUN_STATUSES = ("running", "done", "failed", "cancelled", "exited")
# What filters failed runs that have no target, or no class of error.
NOTHING = "none"

# The id bounds what is read; it may have been made shortly before created_at. A subquery for the workflow, since Postgres would
# sort all its runs after a join.
_RUN_FILTER = f"""
    AND run.parent_id IS NULL
    AND (NOT :failed OR run.status = 'failed')
    AND (CAST(:status AS text) IS NULL OR run.status = :status)
    AND (CAST(:workflow AS text) IS NULL
        OR run.workflow_id = (SELECT id FROM workflows WHERE account_id = :account AND name = :workflow))
    AND (CAST(:subject AS text) IS NULL OR run.distinct_id = :subject)
    AND (CAST(:since AS timestamptz) IS NULL
        OR CASE WHEN :failed THEN run.finished_at >= :since ELSE run.created_at >= :since AND run.id >= :first END)
    AND (CAST(:until AS timestamptz) IS NULL
        OR CASE WHEN :failed THEN run.finished_at < :until ELSE run.created_at < :until AND run.id < :beyond END)
    AND (CAST(:before AS uuid) IS NULL OR run.id < :before)
    AND (CAST(:target AS text) IS NULL AND CAST(:error_class AS text) IS NULL OR run.status = 'failed')
    AND (CAST(:target AS text) IS NULL OR CASE WHEN :target = '{NOTHING}' THEN run.error_target IS NULL
        ELSE run.error_target = :target END)
    AND (CAST(:error_class AS text) IS NULL OR CASE WHEN :error_class = '{NOTHING}' THEN run.error_class IS NULL
        ELSE run.error_class = :error_class END)
"""
_CLOCKS = timedelta(hours=1)


def _find_runs(connection: sa.Connection, account_id: int, conditions: str, values: Mapping[str, Any]) -> list[RunRow]:
    rows = run_sql(connection, _RUNS + conditions, {"account": account_id, **values})
    return [RunRow(*row) for row in rows]


def find_run(connection: sa.Connection, account_id: int, run_id: UUID) -> RunRow | None:
    """A run by its id."""
    return next(iter(_find_runs(connection, account_id, "AND run.id = :id", {"id": run_id})), None)


def find_runs(connection: sa.Connection, account_id: int, run_ids: Sequence[UUID]) -> list[RunRow]:
    """Runs by their ids, newest first."""
    conditions = "AND run.id = ANY (CAST(:ids AS uuid[])) ORDER BY run.id DESC"
    return _find_runs(connection, account_id, conditions, {"ids": [str(one) for one in run_ids]})


def find_accounts_with_run(connection: sa.Connection, run_id: UUID) -> list[int]:
    """The ids of the accounts that have a run of this id; almost always none or one."""
    return find_owners(connection, "runs", run_id)


def find_latest_runs(connection: sa.Connection, account_id: int, wanted: RunFilter, limit: int) -> list[RunRow]:
    """The runs that pass the filter, newest first. Blocks are left out."""
    conditions = _RUN_FILTER + "ORDER BY run.id DESC LIMIT :limit"
    values = {
        **asdict(wanted),
        "first": None if wanted.since is None else first_id_at(wanted.since - _CLOCKS),
        "beyond": None if wanted.until is None else first_id_at(wanted.until + _CLOCKS),
        "before": None if wanted.before is None else str(wanted.before),
    }
    return _find_runs(connection, account_id, conditions, {"limit": limit, **values})


def find_runs_of_event(connection: sa.Connection, account_id: int, event_id: UUID) -> list[RunRow]:
    """The runs that an event started, oldest first."""
    conditions = "AND run.event_id = :event AND run.parent_id IS NULL ORDER BY run.id"
    return _find_runs(connection, account_id, conditions, {"event": event_id})


def find_blocks_of_run(connection: sa.Connection, account_id: int, run_id: UUID, limit: int) -> list[RunRow]:
    """The blocks that a run or a block started, without those inside them, in the order of their start; the first `limit`."""
    conditions = "AND run.parent_id = :run ORDER BY run.id LIMIT :limit"
    return _find_runs(connection, account_id, conditions, {"run": run_id, "limit": limit})


def find_totals_of_run(connection: sa.Connection, account_id: int, run_id: UUID) -> RunTotals:
    """The totals of a run, without those of its blocks."""
    found = run_sql(
        connection,
        "SELECT (SELECT count(*) FROM steps WHERE account_id = :account AND run_id = :run) AS steps, count(*) AS attempts, "
        "coalesce(sum(finished_at - started_at), interval '0') AS working "
        "FROM attempts WHERE account_id = :account AND run_id = :run",
        {"account": account_id, "run": run_id},
    )
    return RunTotals(**found.one()._mapping)


def find_steps_of_run(connection: sa.Connection, account_id: int, run_id: UUID, limit: int) -> list[StepDetails]:
    """The latest `limit` steps that a run has entered, in order. Numbers are exact."""
    found = run_sql(
        connection,
        "SELECT ordinal, path, name, action, status, started_at, finished_at, output::text, error FROM steps "
        "WHERE account_id = :account AND run_id = :run ORDER BY ordinal DESC LIMIT :limit",
        {"account": account_id, "run": run_id, "limit": limit},
    )
    return [StepDetails(**{**row._mapping, "output": _exactly(row.output)}) for row in found][::-1]


def find_attempts_of_run(connection: sa.Connection, account_id: int, run_id: UUID, limit: int) -> list[AttemptDetails]:
    """The latest `limit` attempts of a run, in order. Numbers are exact."""
    found = run_sql(
        connection,
        "SELECT ordinal, attempt, outcome, error_class, error, request::text, response::text, started_at, finished_at "
        "FROM attempts WHERE account_id = :account AND run_id = :run ORDER BY ordinal DESC, attempt DESC LIMIT :limit",
        {"account": account_id, "run": run_id, "limit": limit},
    )
    return [
        AttemptDetails(**{**row._mapping, "request": _exactly(row.request), "response": _exactly(row.response)})
        for row in found
    ][::-1]


def _exactly(text: str | None) -> Any:
    return None if text is None else read_exactly(text)
