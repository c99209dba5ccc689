"""Retention: what accounts no longer keep is deleted in bounded batches or with its partition; what a running run needs stays."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from uuid import UUID

import psycopg2
import pytest

from app.core.errors import Problem
from app.core.ids import uuid7
from app.db import needed_events, retention
from app.db.migrate import upgrade
from app.db.retention import KINDS
from app.services.context import AppContext
from app.services.expiry import delete_expired
from app.services.partitions import make_partitions
from app.services.retention import change_retention, find_retention
from tests.support.action_contexts import the_settings

# All partitions of these tests have ended: the function that drops one compares with the server's clock, too.
NOW = datetime(2021, 7, 10, 12, tzinfo=UTC)
JANUARY, MARCH, JUNE = (datetime(2021, month, 5, tzinfo=UTC) for month in (1, 3, 6))
DAY = timedelta(days=1)
ACME, GLOBEX = 1, 2
WORKFLOW = "00000000-0000-7000-8000-000000000001"


@pytest.fixture(scope="module")
def template(database_url: str) -> Iterator[str]:
    """The name of a migrated database with two accounts, and with partitions from January to October 2021."""
    name = f"retention_template_{os.getpid()}"
    _alone(database_url, f"CREATE DATABASE {name}")
    url = _database(database_url, name)
    upgrade(url)
    _alone(
        url, "INSERT INTO accounts (slug, plan, signing_secret) VALUES ('acme', 'trial', ''), ('globex', 'trial', '')"
    )
    context = _context(url)
    make_partitions(context, [datetime(2021, month, 1, tzinfo=UTC) for month in range(1, 11)])
    context.database.close()
    yield name
    _alone(database_url, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def context(database_url: str, template: str) -> Iterator[AppContext]:
    name = f"retention_{os.getpid()}"
    _alone(database_url, f"CREATE DATABASE {name} TEMPLATE {template}")
    context = _context(_database(database_url, name))
    yield context
    context.database.close()
    _alone(database_url, f"DROP DATABASE {name} WITH (FORCE)")


def _database(url: str, name: str) -> str:
    return urlunsplit(urlsplit(url)._replace(path=f"/{name}"))


def _alone(url: str, statement: str) -> None:
    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        connection.autocommit = True
        cursor.execute(statement)


def _context(url: str) -> AppContext:
    return AppContext(replace(the_settings(), database_url=url), clock=lambda: NOW)


def _query(context: AppContext, query: str, *values: Any) -> list[Any]:
    with context.database.transaction() as connection:
        found = connection.exec_driver_sql(query, values)
        return list(found) if found.returns_rows else []


def _insert(context: AppContext, table: str, **fields: Any) -> None:
    values = [json.dumps(value) if isinstance(value, dict) else value for value in fields.values()]
    marks = ", ".join(["%s"] * len(fields))
    _query(context, f"INSERT INTO {table} ({', '.join(fields)}) VALUES ({marks})", *values)


def _event(context: AppContext, at: datetime, account: int = ACME, **fields: Any) -> UUID:
    event = uuid7(at)
    given = {"event": "looked", "distinct_id": "ann", "data": {}, **fields}
    _insert(context, "events", account_id=account, id=event, received_at=at, **given)
    return event


def _run(context: AppContext, event: UUID, at: datetime, status: str = "done", **fields: Any) -> UUID:
    run = uuid7(at)
    given = {
        "account_id": ACME, "workflow_id": WORKFLOW, "version": 1, "match_key": str(run), "event_id": event,
        "event_received_at": at, "matched": [str(event)], "distinct_id": "ann", "status": status, "created_at": at,
        "updated_at": at, "finished_at": None if status == "running" else at, **fields,
    }  # fmt: skip
    given["matched"] = "{" + ",".join(given["matched"]) + "}"
    _insert(context, "runs", id=run, **given)
    owner = given["account_id"]
    _insert(
        context,
        "steps",
        account_id=owner,
        run_id=run,
        ordinal=0,
        path="steps[0]",
        action="log",
        status="done",
        started_at=at,
    )
    for attempt in (1, 2):
        _insert(context, "attempts", account_id=owner, run_id=run, ordinal=0, attempt=attempt, outcome="done", started_at=at,
                finished_at=at)  # fmt: skip
    return run


def _workflow(context: AppContext, document: dict[str, Any], awaits: str = "{}") -> None:
    _insert(
        context, "workflows", account_id=ACME, id=WORKFLOW, name="w", latest_version=1, enabled_version=1, enablement=1
    )
    _insert(context, "workflow_versions", account_id=ACME, workflow_id=WORKFLOW, version=1, source="", document=document,
            awaits=awaits)  # fmt: skip


def _keep(context: AppContext, account: int, keep: dict[str, timedelta | None], reset: tuple[str, ...] = ()) -> None:
    change_retention(context, account, "slug", keep, reset)


def _go_on(seconds: float) -> bool:
    return False


def _round(context: AppContext) -> dict[str, int]:
    return {kind: count for kind, count in delete_expired(context, _go_on).items() if count}


def _partitions(context: AppContext) -> list[str]:
    query = "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'events'::regclass ORDER BY 1"
    return [name for (name,) in _query(context, query) if "2021" in name]


def _events(context: AppContext) -> set[UUID]:
    return {id for (id,) in _query(context, "SELECT id FROM events")}


MONTHS = [f"events_2021_{month:02}" for month in range(1, 11)]


def test_everything_is_kept_for_ever_unless_an_account_sets_a_retention(context: AppContext) -> None:
    event = _event(context, JANUARY)
    _run(context, event, JANUARY)
    assert _round(context) == {}
    assert _partitions(context) == MONTHS


def test_a_partition_that_no_account_keeps_is_dropped(context: AppContext) -> None:
    for account in (ACME, GLOBEX):
        _keep(context, account, {"events": 90 * DAY})
    _event(context, JANUARY)
    _event(context, MARCH, GLOBEX)
    kept = _event(context, JUNE)
    # 10 July less 90 days is 11 April.
    assert _round(context) == {"partitions": 3}
    assert _partitions(context) == MONTHS[3:]
    assert _events(context) == {kept}


def test_partitions_that_a_worker_drops_are_in_the_audit_log(context: AppContext) -> None:
    _keep(context, ACME, {"events": 90 * DAY})
    dropped = _round(context)["partitions"]
    entries = _query(
        context, "SELECT object_id, actor, via FROM audit_log WHERE action = 'partition.drop' ORDER BY object_id"
    )
    assert entries == [(name, "signalbox", "worker") for name in MONTHS[:dropped]]
    assert dropped > 0


def test_an_account_without_events_in_a_partition_does_not_keep_it(context: AppContext) -> None:
    _keep(context, ACME, {"events": 90 * DAY})
    _event(context, JANUARY)
    _event(context, MARCH, GLOBEX)
    assert _round(context) == {"partitions": 2}
    assert _partitions(context) == MONTHS[2:]


def test_events_of_an_account_that_keeps_less_than_another_are_deleted_in_batches(context: AppContext) -> None:
    _keep(context, ACME, {"events": 90 * DAY})
    for day in range(1, 21):
        _event(context, datetime(2021, 4, day, tzinfo=UTC))
    kept = _event(context, JANUARY, GLOBEX), _event(context, MARCH, GLOBEX), _event(context, NOW - 89 * DAY)
    _keep(context, GLOBEX, {"events": None})
    _event(context, JANUARY)
    _event(context, datetime(2021, 4, 2, tzinfo=UTC), GLOBEX)
    # 1 to 11 April at 0:00, and the one of January. The partition of February is empty.
    assert _round(context) == {"events": 12, "partitions": 1}
    assert set(kept) < _events(context)
    assert min(at for (at,) in _query(context, "SELECT received_at FROM events WHERE account_id = 1")) > NOW - 90 * DAY


def test_events_of_the_longest_keeper_wait_for_their_partition(context: AppContext) -> None:
    _keep(context, ACME, {"events": 90 * DAY})
    _event(context, datetime(2021, 4, 2, tzinfo=UTC))
    assert _round(context) == {"partitions": 3}
    assert len(_events(context)) == 1


def test_an_account_that_keeps_events_for_less_than_two_months_does_not_wait(context: AppContext) -> None:
    _keep(context, ACME, {"events": 20 * DAY})
    _event(context, datetime(2021, 6, 2, tzinfo=UTC))
    kept = _event(context, datetime(2021, 6, 28, tzinfo=UTC))
    assert _round(context) == {"events": 1, "partitions": 5}
    assert _events(context) == {kept}
    assert _partitions(context)[0] == "events_2021_06"


def test_events_of_the_default_partition_are_deleted_too(context: AppContext) -> None:
    _keep(context, ACME, {"events": 90 * DAY})
    _event(context, datetime(2020, 12, 5, tzinfo=UTC))
    assert _round(context)["events"] == 1
    assert _events(context) == set()


def test_a_partition_in_use_is_dropped_later_and_its_events_are_not_deleted_meanwhile(context: AppContext) -> None:
    _keep(context, ACME, {"events": 90 * DAY})
    event = _event(context, JANUARY)
    with closing(psycopg2.connect(context.database.url)) as reader, reader.cursor() as cursor:
        cursor.execute("SELECT FROM events_2021_01")
        # February and March are empty.
        assert _round(context) == {"partitions": 2}
        assert _events(context) == {event}
    assert _round(context) == {"partitions": 1}


def test_a_drop_that_gets_no_lock_gives_up_soon(context: AppContext) -> None:
    with closing(psycopg2.connect(context.database.url)) as reader, reader.cursor() as cursor:
        cursor.execute("SELECT FROM events_2021_01")
        assert _query(context, "SELECT drop_events_partition('events_2021_01', now())") == [(False,)]
    assert _query(context, "SELECT drop_events_partition('events_2021_01', now())") == [(True,)]


@pytest.mark.parametrize("name", ["events_default", "runs", "accounts", 'x"; DROP TABLE runs; --'])
def test_the_function_drops_only_partitions_that_have_ended(context: AppContext, name: str) -> None:
    for wanted in (name, f"events_{datetime.now(UTC):%Y_%m}"):
        with pytest.raises(Exception, match="has no partition"):
            _query(context, "SELECT drop_events_partition(%s, now() + interval '1 year')", wanted)


# What is needed


def _by_its_run(context: AppContext) -> UUID:
    event = _event(context, JANUARY)
    _run(context, event, JANUARY, "running")
    return event


def _by_a_match(context: AppContext) -> UUID:
    event, last = _event(context, JANUARY), uuid7(JUNE)
    _run(context, last, JUNE, "running", matched=[str(event), str(last)])
    return event


def _by_a_run_that_may_wait_for_it(context: AppContext) -> UUID:
    _workflow(context, {}, awaits="{paid}")
    _run(context, uuid7(JANUARY - 60 * DAY), JANUARY - 60 * DAY, "running")
    return _event(context, JANUARY, event="paid")


def _by_a_run_that_waits_under_another_key(context: AppContext) -> UUID:
    _workflow(context, {"key": "data.order"}, awaits="{paid}")
    _run(context, uuid7(JANUARY - 60 * DAY), JANUARY - 60 * DAY, "running", distinct_id="bob", subject="o1")
    event = _event(context, JANUARY, event="paid", data={"order": "o1"})
    _insert(
        context, "keyed_events", account_id=ACME, key="data.order", subject="o1", event_id=event, received_at=JANUARY
    )
    return event


def _by_a_pending_deadline(context: AppContext, key: str = "distinct_id", subject: str = "ann") -> UUID:
    _workflow(context, {"key": key})
    event = _event(context, JANUARY, phone="+4915112345678", data={"order": 17.0})
    progress = {
        "events": {"1": [str(event), JANUARY.isoformat()]},
        "deadline": {"at": NOW.isoformat(), "used": [1]},
    }
    _insert(context, "progress", account_id=ACME, workflow_id=WORKFLOW, subject=subject, enablement=1, progress=progress,
            deadline=NOW, last_event_at=JANUARY)  # fmt: skip
    return event


def _by_a_deadline_of_a_phone(context: AppContext) -> UUID:
    return _by_a_pending_deadline(context, "phone", "+4915112345678")


def _by_a_deadline_of_an_order(context: AppContext) -> UUID:
    return _by_a_pending_deadline(context, "data.order", "17")


NEEDED: dict[Callable[[AppContext], UUID], str] = {
    _by_its_run: "UPDATE runs SET status = 'done', finished_at = now()",
    _by_a_match: "UPDATE runs SET status = 'failed', finished_at = now()",
    _by_a_run_that_may_wait_for_it: "UPDATE runs SET status = 'exited', finished_at = now()",
    _by_a_run_that_waits_under_another_key: "UPDATE runs SET status = 'cancelled', finished_at = now()",
    _by_a_pending_deadline: "UPDATE progress SET progress = '{}', deadline = NULL",
    _by_a_deadline_of_a_phone: "UPDATE workflows SET enablement = 2",
    _by_a_deadline_of_an_order: "UPDATE workflows SET enabled_version = NULL",
}


@pytest.mark.parametrize(("needed", "end"), NEEDED.items(), ids=lambda case: getattr(case, "__name__", ""))
@pytest.mark.parametrize("is_shared", [False, True], ids=["alone in its partition", "in a partition that others keep"])
def test_an_event_that_is_needed_is_kept_until_it_is_not(
    context: AppContext, needed: Callable[[AppContext], UUID], end: str, is_shared: bool
) -> None:
    _keep(context, ACME, {"events": 90 * DAY})
    event = needed(context)
    others = {_event(context, JANUARY, GLOBEX)} if is_shared else set()
    expired = _event(context, JANUARY + DAY, distinct_id="eve")
    assert _round(context)["events"] == 1
    assert _events(context) == {event} | others
    assert expired not in _events(context)
    _query(context, end)
    _round(context)
    assert _events(context) == others
    assert ("events_2021_01" in _partitions(context)) is is_shared


def test_events_of_a_pattern_that_no_deadline_completes_are_not_kept(context: AppContext) -> None:
    _keep(context, ACME, {"events": 90 * DAY})
    _event(context, JANUARY, GLOBEX)
    event = _by_a_pending_deadline(context)
    _query(context, "UPDATE progress SET progress = progress - 'deadline', deadline = NULL")
    assert _round(context)["events"] == 1
    assert event not in _events(context)


def test_events_before_a_run_and_of_other_names_are_not_awaited(context: AppContext) -> None:
    _keep(context, ACME, {"events": 90 * DAY})
    _keep(context, GLOBEX, {"events": None})
    _workflow(context, {}, awaits="{paid}")
    _event(context, JANUARY, GLOBEX)
    _run(context, uuid7(JANUARY), JANUARY, "running")
    _event(context, JANUARY - DAY, event="paid")
    _event(context, JANUARY + DAY, event="looked")
    kept = _event(context, JANUARY + 2 * DAY, event="paid")
    assert _round(context)["events"] == 2
    assert kept in _events(context)


# Runs and attempts


def _counts(context: AppContext) -> tuple[int, int, int]:
    (counts,) = _query(
        context, "SELECT (SELECT count(*) FROM runs), (SELECT count(*) FROM steps), (SELECT count(*) FROM attempts)"
    )
    return tuple(counts)


def test_ended_runs_are_deleted_with_their_steps_and_attempts(context: AppContext) -> None:
    _keep(context, ACME, {"runs": 30 * DAY})
    event = _event(context, JANUARY)
    for status in ("done", "failed", "cancelled", "exited", "running"):
        _run(context, event, JANUARY, status)
    _run(context, event, NOW - 29 * DAY)
    _run(context, event, JANUARY, account_id=GLOBEX)
    assert _round(context) == {"runs": 4}
    assert _counts(context) == (3, 3, 6)
    assert len(_events(context)) == 1


def test_a_run_that_ended_lately_is_kept_however_long_ago_it_began(context: AppContext) -> None:
    _keep(context, ACME, {"runs": 30 * DAY})
    _run(context, _event(context, JANUARY), JANUARY, finished_at=NOW - DAY)
    assert _round(context) == {}


def test_blocks_go_with_their_run_and_not_before(context: AppContext) -> None:
    _keep(context, ACME, {"runs": 30 * DAY, "attempts": 30 * DAY})
    event = _event(context, JANUARY)
    root = _run(context, event, JANUARY, "running")
    _run(context, event, JANUARY + DAY, root_id=root, parent_id=root, parent_ordinal=0)
    running = _run(context, event, JANUARY + DAY, "running", root_id=root, parent_id=root, parent_ordinal=0)
    # Results of blocks are in their steps; the attempts of the block that has ended are past their retention.
    assert _round(context) == {"attempts": 2}
    assert _counts(context) == (3, 3, 4)
    _query(context, "UPDATE runs SET status = 'failed', finished_at = %s WHERE id = %s", JANUARY, root)
    _round(context)
    assert _counts(context)[0] == 3
    _query(context, "UPDATE runs SET status = 'done', finished_at = %s WHERE id = %s", JANUARY, running)
    assert _round(context)["runs"] == 1
    assert _counts(context) == (0, 0, 0)


def test_attempts_can_be_kept_for_a_shorter_time_than_their_runs(context: AppContext) -> None:
    _keep(context, ACME, {"attempts": 7 * DAY, "runs": 365 * DAY})
    event = _event(context, JANUARY)
    _run(context, event, JANUARY)
    _run(context, event, JANUARY, "running")
    _run(context, event, NOW - DAY)
    assert _round(context) == {"attempts": 2}
    assert _counts(context) == (3, 3, 4)


# Refusals and the audit log


def _refusal(context: AppContext, at: datetime, account: int = ACME) -> None:
    request = {"route": "/", "key_prefix": "sb_1", "request_id": "r", "replayable": False}
    refused = {"status": 422, "type": "t", "detail": "", "refused_at": at}
    _insert(context, "refusals", account_id=account, id=uuid7(at), **request, **refused)


def test_refusals_are_kept_for_seven_days_or_as_long_as_the_account_says(context: AppContext) -> None:
    for account in (ACME, GLOBEX):
        for days in (1, 8, 40):
            _refusal(context, NOW - days * DAY, account)
    _keep(context, GLOBEX, {"refusals": 30 * DAY})
    assert _round(context) == {"refusals": 3}
    assert _query(context, "SELECT account_id, count(*) FROM refusals GROUP BY 1 ORDER BY 1") == [
        (ACME, 1),
        (GLOBEX, 2),
    ]
    _keep(context, GLOBEX, {"refusals": None})
    assert _round(context) == {}


def test_the_audit_log_is_kept_for_ever_or_as_long_as_the_account_says(context: AppContext) -> None:
    for account in (ACME, GLOBEX, None):
        change = {"actor": "ann", "via": "cli", "action": "a.b", "object_type": "a"}
        _insert(context, "audit_log", id=uuid7(JANUARY), account_id=account, at=JANUARY, **change)
    _keep(context, ACME, {"audit": 90 * DAY})
    assert _round(context) == {"audit": 1}
    assert _query(context, "SELECT account_id FROM audit_log WHERE object_type = 'a' ORDER BY 1") == [
        (GLOBEX,),
        (None,),
    ]
    with pytest.raises(Problem, match="audit: 29d is too short; the shortest retention is 30d"):
        _keep(context, ACME, {"audit": 29 * DAY})


# Batches


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, int]]:
    """The kind, the account and the number of deleted rows of each batch."""
    done: list[tuple[str, int, int]] = []

    def noted(kind: retention.Kind) -> retention.Kind:
        def delete(connection: Any, rows: retention.Range) -> retention.Batch:
            batch = kind.delete(connection, rows)
            assert batch.seen <= rows.limit
            done.append((kind.name, rows.account_id, batch.deleted))
            return batch

        return replace(kind, delete=delete)

    kinds = tuple(map(noted, KINDS))
    monkeypatch.setattr("app.services.expiry.KINDS", kinds)
    monkeypatch.setattr("app.services.expiry.EVENTS", kinds[0])
    monkeypatch.setattr("app.services.expiry._FIRST_LIMIT", 10)
    monkeypatch.setattr("app.services.expiry._MAX_LIMIT", 10)
    return done


def _many_runs(context: AppContext, account: int, count: int) -> None:
    for number in range(count):
        _run(context, uuid7(JANUARY), JANUARY + timedelta(minutes=number), account_id=account)


def test_a_batch_has_a_bounded_number_of_rows_and_accounts_take_turns(
    context: AppContext, batches: list[tuple[str, int, int]]
) -> None:
    for account in (ACME, GLOBEX):
        _keep(context, account, {"runs": 30 * DAY})
        _many_runs(context, account, 25)
    assert _round(context) == {"runs": 50}
    turns = [account for kind, account, deleted in batches if deleted]
    assert turns[:4] == [ACME, GLOBEX, ACME, GLOBEX]
    assert max(deleted for _, _, deleted in batches) <= 10


def test_a_round_stops_between_two_batches_and_the_next_one_goes_on(
    context: AppContext, batches: list[tuple[str, int, int]]
) -> None:
    _keep(context, ACME, {"runs": 30 * DAY})
    _many_runs(context, ACME, 25)
    pauses: list[float] = []
    assert delete_expired(context, lambda seconds: bool(pauses.append(seconds)) or len(pauses) == 3) == {"runs": 20}
    assert min(pauses) > 0
    assert _round(context) == {"runs": 5}


def test_a_kind_that_fails_stops_no_other(context: AppContext, monkeypatch: pytest.MonkeyPatch) -> None:
    _keep(context, ACME, {"runs": 30 * DAY, "attempts": 30 * DAY})
    _run(context, uuid7(JANUARY), JANUARY)

    def fail(connection: Any, rows: retention.Range) -> retention.Batch:
        connection.exec_driver_sql("SELECT 1 / 0")
        raise AssertionError

    kinds = [replace(kind, delete=fail) if kind.name == "runs" else kind for kind in KINDS]
    monkeypatch.setattr("app.services.expiry.KINDS", kinds)
    assert _round(context) == {"attempts": 2}


def test_one_process_deletes_at_a_time(context: AppContext) -> None:
    _keep(context, ACME, {"runs": 30 * DAY})
    _run(context, uuid7(JANUARY), JANUARY)
    with retention.be_the_only_one(context.database) as is_the_only_one:
        assert is_the_only_one
        assert _round(context) == {}
    assert _round(context) == {"runs": 1}


def test_rows_are_found_by_indexes_however_many_there_are(context: AppContext) -> None:
    _workflow(context, {"key": "data.order"}, awaits="{paid}")
    _query(
        context,
        "INSERT INTO events (account_id, id, event, distinct_id, data, received_at) "
        "SELECT 1 + n %% 2, overlay(overlay(md5(n::text) PLACING lpad(to_hex(1609800000000 + n * 60000::bigint), 12, '0') "
        "FROM 1 FOR 12) PLACING '7' FROM 13 FOR 1)::uuid, 'looked', 's' || n, '{}', "
        "to_timestamp(1609800000 + n * 60) FROM generate_series(1, 20000) AS n",
    )
    _query(
        context,
        "INSERT INTO runs (account_id, id, workflow_id, version, match_key, event_id, event_received_at, matched, distinct_id, "
        "status, created_at, updated_at, finished_at) SELECT account_id, id, %s, 1, id, id, received_at, ARRAY[id], distinct_id, "
        "'done', received_at, received_at, received_at FROM events",
        WORKFLOW,
    )
    _query(
        context,
        "INSERT INTO attempts (account_id, run_id, ordinal, attempt, outcome, started_at, finished_at) "
        "SELECT account_id, id, 0, 1, 'done', created_at, finished_at FROM runs",
    )
    _alone(context.database.url, "ANALYZE")
    rows = retention.Range(ACME, JUNE, UUID(int=0), 100, ["data.order"])
    for kind in KINDS[:3]:
        with context.database.transaction() as connection:
            plan = _explain(connection, kind, rows)
        assert plan, kind.name
        for node in plan:
            read = node["Actual Loops"] * (node["Actual Rows"] + node.get("Rows Removed by Filter", 0))
            assert read <= 101, (kind.name, node)
            if node["Relation Name"] in ("events_2021_01", "runs", "attempts"):
                assert "Seq" not in node["Node Type"], (kind.name, node)


def _explain(connection: Any, kind: retention.Kind, rows: retention.Range) -> list[dict[str, Any]]:
    """The nodes of the plan of a batch."""
    statements: list[str] = []

    class Recording:
        def execute(self, statement: Any, values: Any) -> Any:
            (found,) = connection.execute(
                type(statement)("EXPLAIN (ANALYZE, FORMAT JSON) " + statement.text), values
            ).scalars()
            statements.append(found)
            return connection.exec_driver_sql("SELECT 0, NULL, 0")

    kind.delete(Recording(), rows)  # type: ignore[arg-type]
    nodes: list[dict[str, Any]] = []

    def collect(node: dict[str, Any]) -> None:
        if "Relation Name" in node:
            nodes.append(node)
        for child in node.get("Plans", ()):
            collect(child)

    collect(statements[0][0]["Plan"])  # type: ignore[index,arg-type]
    return nodes


# The settings


def test_an_account_has_the_defaults_until_it_sets_a_retention(context: AppContext) -> None:
    assert {(one.kind.name, one.keep, one.is_default) for one in find_retention(context, ACME)} == {
        (kind.name, kind.default, True) for kind in KINDS
    }
    _keep(context, ACME, {"events": 90 * DAY, "runs": None})
    assert [(one.keep, one.is_default) for one in find_retention(context, ACME)][:2] == [
        (90 * DAY, False),
        (None, False),
    ]
    _keep(context, ACME, {}, ("events",))
    assert find_retention(context, ACME)[0].is_default


def test_a_change_is_in_the_audit_log(context: AppContext) -> None:
    _keep(context, ACME, {"events": 90 * DAY, "runs": None})
    _keep(context, ACME, {"events": 90 * DAY})
    _keep(context, ACME, {"events": 30 * DAY}, ("runs",))
    found = _query(context, "SELECT action, object_id, before, after FROM audit_log ORDER BY before IS NOT NULL")
    assert found == [
        ("account.retention", "slug", None, {"events": "90d", "runs": "forever"}),
        ("account.retention", "slug", {"events": "90d", "runs": "forever"}, {"events": "30d"}),
    ]


def test_a_retention_of_less_than_a_day_is_refused(context: AppContext) -> None:
    with pytest.raises(Problem, match="1h is too short"):
        _keep(context, ACME, {"events": timedelta(hours=1)})


def test_both_forms_of_each_reason_are_tried() -> None:
    # One case each of the first four; three of the last, by the three kinds of keys.
    assert len(NEEDED) == len(needed_events._REASONS) + 2
