"""Which stored events are needed by runs: running ones, and those that a pending deadline will start. Retention deletes none of
them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa

from app.core.ids import first_id_at
from app.db.connection import run_sql
from app.db.event_queries import subject_at
from app.db.job_queue import ENABLED_PROGRESS


class _Reason(NamedTuple):
    """One reason to keep an event, as two queries without a list of columns. `of_event` looks through indexes for what needs the
    row `event`; `in_range` looks for what needs any event of a range of time, and scans no events."""

    of_event: str
    in_range: str


_STARTED_A_RUN = _Reason(
    "FROM runs AS run WHERE run.status = 'running' AND run.account_id = event.account_id AND run.event_id = event.id",
    "FROM runs AS run WHERE run.status = 'running' AND run.event_received_at >= :begin AND run.event_received_at < :end",
)
# The condition on the number of events is that of the index runs_matched_idx.
_MATCHED = _Reason(
    "FROM runs AS run WHERE run.status = 'running' AND cardinality(run.matched) > 1 "
    "AND run.matched @> ARRAY[event.id] AND run.account_id = event.account_id",
    "FROM runs AS run WHERE run.status = 'running' AND EXISTS (SELECT FROM unnest(run.matched) AS used (id) "
    "WHERE used.id >= :first AND used.id < :beyond)",
)
# A run that begins to wait for an event looks for those since its start.
_AWAITING = (
    "FROM runs AS run JOIN workflow_versions AS version ON version.account_id = run.account_id "
    "AND version.workflow_id = run.workflow_id AND version.version = run.version AND version.awaits <> '{}'"
)
_IS_AWAITED = (
    "run.status = 'running' AND run.account_id = event.account_id AND run.distinct_id = event.distinct_id "
    "AND run.event_id < event.id AND (event.event = ANY (version.awaits) OR '*' = ANY (version.awaits))"
)
_AWAITED = _Reason(
    f"{_AWAITING} WHERE {_IS_AWAITED}",
    f"{_AWAITING} JOIN events AS event ON {_IS_AWAITED} WHERE event.received_at >= :begin AND event.received_at < :end",
)
# The same where the key of the workflow is another field than distinct_id.
_BY_KEY = (
    "FROM keyed_events AS known JOIN runs AS run ON run.account_id = known.account_id AND run.subject = known.subject "
    "AND run.status = 'running' AND run.event_id < known.event_id"
)
_AWAITED_BY_KEY = _Reason(
    f"{_BY_KEY} WHERE known.account_id = event.account_id AND known.event_id = event.id",
    f"{_BY_KEY} WHERE known.received_at >= :begin AND known.received_at < :end",
)
# A pending deadline starts a run for the events that its pattern used. Other events of a pattern in progress are not needed: the
# event that completes it starts the run.
_PENDING = (
    f"FROM {ENABLED_PROGRESS}, jsonb_array_elements_text(progress -> 'deadline' -> 'used') AS used (number) "
    "WHERE deadline IS NOT NULL"
)
_SUBJECTS = (
    "ARRAY[event.distinct_id, event.phone] || ARRAY("
    f"SELECT {subject_at('(string_to_array(known.key, $$.$$))[2:]')} FROM unnest(CAST(:keys AS text[])) AS known (key))"
)
_OF_DEADLINE = _Reason(
    f"{_PENDING} AND progress.account_id = event.account_id AND progress.subject = ANY ({_SUBJECTS}) "
    "AND progress -> 'events' -> used.number ->> 0 = CAST(event.id AS text)",
    f"{_PENDING} AND CAST(progress -> 'events' -> used.number ->> 1 AS timestamptz) >= :begin "
    "AND CAST(progress -> 'events' -> used.number ->> 1 AS timestamptz) < :end",
)
_REASONS = (_STARTED_A_RUN, _MATCHED, _AWAITED, _AWAITED_BY_KEY, _OF_DEADLINE)

# A condition on the row `event`: nothing needs it. `:keys` are those of `find_keys_in_data`.
NOT_NEEDED = " AND ".join(f"NOT EXISTS (SELECT {reason.of_event})" for reason in _REASONS)


def are_events_needed(connection: sa.Connection, begin: datetime, end: datetime) -> bool:
    """Whether a run needs an event that was received from `begin` until before `end`: a running one, which would fail at its next
    step or miss an event that it waits for, or one that a pending deadline will start."""
    values = {"begin": begin, "end": end, "first": first_id_at(begin), "beyond": first_id_at(end)}
    # One query each, so that the cheap ones come first.
    return any(
        run_sql(connection, f"SELECT EXISTS (SELECT {reason.in_range})", values).scalar_one() for reason in _REASONS
    )


def find_keys_in_data(connection: sa.Connection, account_id: int) -> Sequence[str]:
    """The keys of an account's enabled workflows that are paths into `data`, such as `data.order_id`."""
    found: Any = run_sql(
        connection,
        "SELECT DISTINCT document ->> 'key' FROM workflows JOIN workflow_versions AS version "
        "ON version.account_id = workflows.account_id AND version.workflow_id = workflows.id "
        "AND version.version = enabled_version "
        "WHERE workflows.account_id = :account AND document ->> 'key' LIKE 'data.%'",
        {"account": account_id},
    ).scalars()
    return list(found)
