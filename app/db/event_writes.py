"""Writes events: a single statement inserts one event, or those of concurrent requests, with idempotency keys, decisions, runs,
jobs and deliveries."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
import psycopg2
from psycopg2 import errors
from psycopg2.extensions import connection as RawConnection

from app.core.exact_json import replace_unstorable
from app.core.models import Decision, Event, NewRun
from app.db.connection import Database, PgConnection, fetch_all, prepare
from app.db.deliveries import DeliveryProblem, NewDelivery
from app.db.event_keys import EarlierEvent
from app.db.event_statements import INSERT_EVENTS, Parts, make_statement

# More workflows that did nothing with an event for the same reason have one decision.
MAX_SINGLE = 20
_encoder = msgspec.json.Encoder()


class EventRecord(msgspec.Struct, frozen=True):
    """An event with its decisions and new runs. It is written only if `account_version` is the account's current version.
    `job`: the kind of a job that is enqueued for the event (CORRELATE or MATCH). `delivery`: the delivery that it came with."""

    account_version: int
    event: Event
    decisions: Sequence[Decision]
    runs: Sequence[NewRun]
    job: str | None = None
    delivery: NewDelivery | None = None

    @property
    def idempotency_key(self) -> tuple[int, str] | None:
        """The account and its idempotency key; None without one."""
        key = self.event.idempotency_key
        return None if key is None else (self.event.account_id, key)


class RecordResult(msgspec.Struct, frozen=True):
    """Whether an event was recorded.

    `stale`: nothing was written, since the account snapshot is stale. `earlier`: nothing but the delivery was written, since the
    idempotency key stands for that event. Neither: the event is recorded.
    """

    stale: bool = False
    earlier: EarlierEvent | None = None


class _DecisionRow(msgspec.Struct, omit_defaults=True, gc=False):
    """A decision in the `decisions` column."""

    workflow: str
    version: int | None
    started: bool
    reason: str
    run: UUID | None = None
    contributing: bool = False
    workflows: Mapping[str, int | None] | None = None


def decisions_json(decisions: Sequence[Decision]) -> str | None:
    """The `decisions` column: a list of objects, one per workflow that looked at the event; None when none did. More than
    MAX_SINGLE workflows that did nothing for the same reason are one object, whose `workflows` has their versions by name."""
    if not decisions:
        return None
    groups = _find_groups(decisions) if len(decisions) > MAX_SINGLE else {}
    rows = [_row_of_decision(decision) for decision in decisions if not groups or _group_of(decision) not in groups]
    for reason, members in groups.items():
        versions = {decision.workflow: decision.version for decision in members}
        rows.append(
            _DecisionRow(f"{len(members)} workflows", None, False, replace_unstorable(reason), workflows=versions)
        )
    return to_json(rows)


def _row_of_decision(decision: Decision) -> _DecisionRow:
    return _DecisionRow(
        decision.workflow,
        decision.version,
        decision.started,
        # The reason may quote an unstorable character of a filter.
        replace_unstorable(decision.reason),
        decision.run_id,
        decision.contributing and not decision.started,
    )


def _find_groups(decisions: Sequence[Decision]) -> dict[str, list[Decision]]:
    """The decisions that become one object, by their reason."""
    groups: dict[str, list[Decision]] = {}
    for decision in decisions:
        if (reason := _group_of(decision)) is not None:
            groups.setdefault(reason, []).append(decision)
    return {reason: members for reason, members in groups.items() if len(members) > MAX_SINGLE}


def _group_of(decision: Decision) -> str | None:
    """The reason of a decision that may be grouped."""
    did_nothing = decision.workflow_id is not None and not decision.started and not decision.contributing
    return decision.reason if did_nothing else None


def warnings_json(event: Event) -> str | None:
    """The `warnings` column."""
    return to_json(event.warnings) if event.warnings else None


def to_json(value: Any) -> str:
    """JSON text. Raises ValueError when `value` contains a lone surrogate."""
    return _encoder.encode(value).decode()


# The events of concurrent requests


def _parts_of(records: Sequence[EventRecord]) -> Parts:
    return Parts(
        any(record.event.idempotency_key is not None for record in records),
        any(record.runs or record.job is not None for record in records),
        any(record.delivery is not None for record in records),
    )


def record_event(database: Database, record: EventRecord) -> RecordResult:
    """Write one event; it is committed when this returns.

    The statement is repeated after a lost connection. The event's id stays the same, so that an earlier commit whose
    response was lost is recognised. Raises Unavailable, or psycopg2.DataError for a value that Postgres cannot store.
    """

    def write(connection: PgConnection) -> RecordResult:
        try:
            return insert_event(connection, record)
        except errors.UniqueViolation:
            # Ids are unique: an earlier attempt was committed and its response was lost.
            if _find_written(connection, [record.event]):
                return RecordResult()
            raise

    return database.run_with_reconnect(write)


def insert_event(connection: PgConnection, record: EventRecord) -> RecordResult:
    """Write one event, in the connection's transaction if it has begun one."""
    (result,) = _insert_events(connection, [record])
    return result


def record_events(database: Database, records: Sequence[EventRecord]) -> list[RecordResult | Exception]:
    """Write many events in one transaction; they are committed when this returns.

    When the statement fails because of one event, each is written by itself: the results are what `record_event` returns or
    raises. So is an event that repeats the idempotency key of another one. Raises Unavailable.
    """
    keys: set[tuple[int, str]] = set()
    together, repeats = list[EventRecord](), set[int]()
    for number, record in enumerate(records):
        key = record.idempotency_key
        if key is not None and key in keys:
            repeats.add(number)
            continue
        together.append(record)
        if key is not None:
            keys.add(key)
    results = iter(_record_together(database, together))
    found = [None if number in repeats else next(results) for number in range(len(records))]
    return [
        _record_alone(database, record) if result is None else result
        for record, result in zip(records, found, strict=True)
    ]


def _record_together(database: Database, records: Sequence[EventRecord]) -> Sequence[RecordResult | Exception]:
    try:
        return database.run_with_reconnect(lambda connection: _insert_events(connection, records))
    except (psycopg2.Error, ValueError):
        # A ValueError comes from the driver: NUL or a lone surrogate.
        return [_record_alone(database, record) for record in records]


def _record_alone(database: Database, record: EventRecord) -> RecordResult | Exception:
    try:
        return record_event(database, record)
    except Exception as exc:
        return exc


class _JsonText:
    """JSON in UTF-8 as a parameter, in dollar quotes: nothing has to be escaped here, and read as escapes by the server. Between
    single quotes, each double quote inside of a JSON text would be."""

    _quote = b"$json$"

    def __init__(self, text: bytes) -> None:
        self._text = text

    def __conform__(self, protocol: object) -> _JsonText:
        """What psycopg2 calls to adapt a parameter."""
        return self

    def getquoted(self) -> bytes:
        """The literal."""
        quote = self._quote
        while quote in self._text:
            quote = f"$j{secrets.token_hex(8)}$".encode()
        return b"%b%b%b" % (quote, self._text, quote)


def _insert_events(connection: PgConnection, records: Sequence[EventRecord]) -> list[RecordResult]:
    rows = _JsonText(_encoder.encode(list(map(_row_of, records))))
    parts = _parts_of(records)
    found: dict[str, RecordResult] = {}
    if parts.keys:
        found = _insert_with_keys(connection, parts, rows)
    else:
        has_more = any(parts) or any(record.event.augmented_json is not None for record in records)
        name, statement = (parts.name, make_statement(parts)) if has_more else ("insert_events", INSERT_EVENTS)
        prepare(connection, name, statement)
        with connection.cursor() as cursor:
            cursor.execute(f"EXECUTE {name} (%s)", (rows,))
            if cursor.rowcount == len(records):
                return [RecordResult()] * len(records)
    ids = [str(record.event.id) for record in records]
    # Missing rows have a stale snapshot, unless an earlier attempt was committed and its response was lost.
    missing = [record.event for record, event_id in zip(records, ids, strict=True) if event_id not in found]
    if missing:
        found |= dict.fromkeys(_find_written(connection, missing), RecordResult())
    return [found.get(event_id) or RecordResult(stale=True) for event_id in ids]


def _insert_with_keys(connection: PgConnection, parts: Parts, rows: _JsonText) -> dict[str, RecordResult]:
    """What became of the events whose snapshot is current, by their ids."""
    prepare(connection, parts.name, make_statement(parts))
    results = {}
    for event_id, is_new, earlier_id, digest, at in fetch_all(connection, f"EXECUTE {parts.name} (%s)", (rows,)):
        # An earlier attempt was committed and its response was lost, where the key stands for this very event.
        if is_new or earlier_id == event_id:
            results[event_id] = RecordResult()
        elif earlier_id is None:
            results[event_id] = RecordResult(stale=True)
        else:
            results[event_id] = RecordResult(earlier=EarlierEvent(UUID(earlier_id), bytes(digest), at))
    return results


def _find_written(connection: RawConnection, events: Sequence[Event]) -> set[str]:
    """The ids of those events that are stored."""
    rows = fetch_all(
        connection,
        "SELECT id FROM events WHERE account_id = ANY (%s) AND id = ANY (%s::uuid[]) AND received_at = ANY (%s)",
        (
            [event.account_id for event in events],
            [str(event.id) for event in events],
            [event.received_at for event in events],
        ),
    )
    return {event_id for (event_id,) in rows}


class _RunRow(msgspec.Struct, omit_defaults=True):
    """A run in the statement's parameter; an omitted field is that of a run that the event starts alone."""

    id: UUID
    workflow_id: UUID
    version: int
    match_key: str | None = None
    matched_id: UUID | None = None
    matched_at: datetime | None = None
    matched: tuple[UUID, ...] | None = None


class _Row(msgspec.Struct, omit_defaults=True):
    """An event in the statement's parameter; an omitted field is null."""

    account_id: int
    account_version: int
    id: UUID
    received_at: datetime
    event: str
    distinct_id: str
    data: str
    phone: str | None = None
    extra: str | None = None
    decisions: str | None = None
    warnings: str | None = None
    via: str | None = None
    occurred_at: datetime | None = None
    job: str | None = None
    runs: tuple[_RunRow, ...] = ()
    augmented: str | None = None
    idempotency_key: str | None = None
    body_digest: bytes | None = None


class _DeliveredRow(_Row, omit_defaults=True):
    """The same with the delivery that the event came with. `body`: null where it is the text of the data."""

    delivery_id: UUID | None = None
    source_id: UUID | None = None
    source_version: int | None = None
    delivered_at: datetime | None = None
    method: str | None = None
    headers: Mapping[str, str] | None = None
    body: bytes | None = None
    verified: bool | None = None
    result: str | None = None
    request_id: str | None = None
    query: str | None = None
    content_encoding: str | None = None
    problems: tuple[DeliveryProblem, ...] | None = None
    replayed_at: datetime | None = None


def _row_of(record: EventRecord) -> _Row:
    values, delivery = _values_of(record), record.delivery
    if delivery is None:
        return _Row(*values)
    delivered: tuple[Any, ...] = (
        delivery.id,
        delivery.source_id,
        delivery.source_version,
        delivery.received_at,
        delivery.method,
        delivery.headers,
        # A body can be as large as all the rest, and most events have all of it as their data.
        None if delivery.body == record.event.data_json.encode() else delivery.body,
        delivery.verified,
        delivery.result,
        delivery.request_id,
        delivery.query,
        delivery.content_encoding,
        delivery.problems,
        delivery.replayed_at,
    )
    return _DeliveredRow(*values, *delivered)


def _values_of(record: EventRecord) -> tuple[Any, ...]:
    """The values of a `_Row`, in its order."""
    event = record.event
    return (
        event.account_id,
        record.account_version,
        event.id,
        event.received_at,
        event.event,
        event.distinct_id,
        event.data_json,
        event.phone,
        event.extra_json,
        decisions_json(record.decisions),
        warnings_json(event),
        event.via,
        event.occurred_at,
        record.job,
        tuple(_run_row(run, event) for run in record.runs),
        event.augmented_json,
        event.idempotency_key,
        event.body_digest,
    )


def _run_row(run: NewRun, event: Event) -> _RunRow:
    if run.matched == (event.id,) and run.match_key == str(event.id):
        return _RunRow(run.id, run.workflow_id, run.version)
    return _RunRow(
        run.id, run.workflow_id, run.version, run.match_key, run.event_id, run.event_received_at, run.matched
    )
