"""Retention of runs, attempts, refusals and the audit log, in bounded batches; and what accounts set."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from app.core.errors import Problem
from app.core.ids import uuid7
from app.db import retention
from app.db.retention import KINDS
from app.services.context import AppContext
from app.services.expiry import delete_expired
from app.services.retention import find_retention

# All partitions of these tests have ended: the function that drops one compares with the server's clock, too.
from tests.support.retention_rows import (
    ACME,
    DAY,
    GLOBEX,
    JANUARY,
    JUNE,
    NOW,
    WORKFLOW,
    add_event,
    add_run,
    add_workflow,
    do_round,
    events_of,
    insert,
    keep,
    run_alone,
    run_query,
)


def _counts(context: AppContext) -> tuple[int, int, int]:
    (counts,) = run_query(
        context, "SELECT (SELECT count(*) FROM runs), (SELECT count(*) FROM steps), (SELECT count(*) FROM attempts)"
    )
    return tuple(counts)


def test_ended_runs_are_deleted_with_their_steps_and_attempts(context: AppContext) -> None:
    keep(context, ACME, {"runs": 30 * DAY})
    event = add_event(context, JANUARY)
    for status in ("done", "failed", "cancelled", "exited", "running"):
        add_run(context, event, JANUARY, status)
    add_run(context, event, NOW - 29 * DAY)
    add_run(context, event, JANUARY, account_id=GLOBEX)
    assert do_round(context) == {"runs": 4}
    assert _counts(context) == (3, 3, 6)
    assert len(events_of(context)) == 1


def test_a_run_that_ended_lately_is_kept_however_long_ago_it_began(context: AppContext) -> None:
    keep(context, ACME, {"runs": 30 * DAY})
    add_run(context, add_event(context, JANUARY), JANUARY, finished_at=NOW - DAY)
    assert do_round(context) == {}


def test_blocks_go_with_their_run_and_not_before(context: AppContext) -> None:
    keep(context, ACME, {"runs": 30 * DAY, "attempts": 30 * DAY})
    event = add_event(context, JANUARY)
    root = add_run(context, event, JANUARY, "running")
    add_run(context, event, JANUARY + DAY, root_id=root, parent_id=root, parent_ordinal=0)
    running = add_run(context, event, JANUARY + DAY, "running", root_id=root, parent_id=root, parent_ordinal=0)
    # Results of blocks are in their steps; the attempts of the block that has ended are past their retention.
    assert do_round(context) == {"attempts": 2}
    assert _counts(context) == (3, 3, 4)
    run_query(context, "UPDATE runs SET status = 'failed', finished_at = %s WHERE id = %s", JANUARY, root)
    do_round(context)
    assert _counts(context)[0] == 3
    run_query(context, "UPDATE runs SET status = 'done', finished_at = %s WHERE id = %s", JANUARY, running)
    assert do_round(context)["runs"] == 1
    assert _counts(context) == (0, 0, 0)


def test_attempts_can_be_kept_for_a_shorter_time_than_their_runs(context: AppContext) -> None:
    keep(context, ACME, {"attempts": 7 * DAY, "runs": 365 * DAY})
    event = add_event(context, JANUARY)
    add_run(context, event, JANUARY)
    add_run(context, event, JANUARY, "running")
    add_run(context, event, NOW - DAY)
    assert do_round(context) == {"attempts": 2}
    assert _counts(context) == (3, 3, 4)


# Refusals and the audit log


def _refusal(context: AppContext, at: datetime, account: int = ACME) -> None:
    request = {"route": "/", "key_prefix": "sb_1", "request_id": "r", "replayable": False}
    refused = {"status": 422, "type": "t", "detail": "", "refused_at": at}
    insert(context, "refusals", account_id=account, id=uuid7(at), **request, **refused)


def test_refusals_are_kept_for_seven_days_or_as_long_as_the_account_says(context: AppContext) -> None:
    for account in (ACME, GLOBEX):
        for days in (1, 8, 40):
            _refusal(context, NOW - days * DAY, account)
    keep(context, GLOBEX, {"refusals": 30 * DAY})
    assert do_round(context) == {"refusals": 3}
    assert run_query(context, "SELECT account_id, count(*) FROM refusals GROUP BY 1 ORDER BY 1") == [
        (ACME, 1),
        (GLOBEX, 2),
    ]
    keep(context, GLOBEX, {"refusals": None})
    assert do_round(context) == {}


def test_the_audit_log_is_kept_for_ever_or_as_long_as_the_account_says(context: AppContext) -> None:
    for account in (ACME, GLOBEX, None):
        change = {"actor": "ann", "via": "cli", "action": "a.b", "object_type": "a"}
        insert(context, "audit_log", id=uuid7(JANUARY), account_id=account, at=JANUARY, **change)
    keep(context, ACME, {"audit": 90 * DAY})
    assert do_round(context) == {"audit": 1}
    assert run_query(context, "SELECT account_id FROM audit_log WHERE object_type = 'a' ORDER BY 1") == [
        (GLOBEX,),
        (None,),
    ]
    with pytest.raises(Problem, match="audit: 29d is too short; the shortest retention is 30d"):
        keep(context, ACME, {"audit": 29 * DAY})


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
        add_run(context, uuid7(JANUARY), JANUARY + timedelta(minutes=number), account_id=account)


def test_a_batch_has_a_bounded_number_of_rows_and_accounts_alternate(
    context: AppContext, batches: list[tuple[str, int, int]]
) -> None:
    for account in (ACME, GLOBEX):
        keep(context, account, {"runs": 30 * DAY})
        _many_runs(context, account, 25)
    assert do_round(context) == {"runs": 50}
    order = [account for kind, account, deleted in batches if deleted]
    assert order[:4] == [ACME, GLOBEX, ACME, GLOBEX]
    assert max(deleted for _, _, deleted in batches) <= 10


def test_a_round_stops_between_two_batches_and_the_next_one_goes_on(
    context: AppContext, batches: list[tuple[str, int, int]]
) -> None:
    keep(context, ACME, {"runs": 30 * DAY})
    _many_runs(context, ACME, 25)
    pauses: list[float] = []

    def stops(seconds: float) -> bool:
        pauses.append(seconds)
        return sum(deleted for _, _, deleted in batches) == 20

    assert delete_expired(context, stops) == {"runs": 20}
    assert min(pauses) > 0
    assert do_round(context) == {"runs": 5}


def test_a_kind_that_fails_stops_no_other(context: AppContext, monkeypatch: pytest.MonkeyPatch) -> None:
    keep(context, ACME, {"runs": 30 * DAY, "attempts": 30 * DAY})
    add_run(context, uuid7(JANUARY), JANUARY)

    def fail(connection: Any, rows: retention.Range) -> retention.Batch:
        connection.exec_driver_sql("SELECT 1 / 0")
        raise AssertionError

    kinds = [replace(kind, delete=fail) if kind.name == "runs" else kind for kind in KINDS]
    monkeypatch.setattr("app.services.expiry.KINDS", kinds)
    assert do_round(context) == {"attempts": 2}


def test_one_process_deletes_at_a_time(context: AppContext) -> None:
    keep(context, ACME, {"runs": 30 * DAY})
    add_run(context, uuid7(JANUARY), JANUARY)
    with retention.be_the_only_one(context.database) as is_the_only_one:
        assert is_the_only_one
        assert do_round(context) == {}
    assert do_round(context) == {"runs": 1}


def test_rows_are_found_by_indexes_however_many_there_are(context: AppContext) -> None:
    add_workflow(context, {"key": "data.order"}, awaits="{paid}")
    run_query(
        context,
        "INSERT INTO events (account_id, id, event, distinct_id, data, received_at) "
        "SELECT 1 + n %% 2, overlay(overlay(md5(n::text) PLACING lpad(to_hex(1609800000000 + n * 60000::bigint), 12, '0') "
        "FROM 1 FOR 12) PLACING '7' FROM 13 FOR 1)::uuid, 'looked', 's' || n, '{}', "
        "to_timestamp(1609800000 + n * 60) FROM generate_series(1, 20000) AS n",
    )
    run_query(
        context,
        "INSERT INTO runs (account_id, id, workflow_id, version, match_key, event_id, event_received_at, matched, distinct_id, "
        "status, created_at, updated_at, finished_at) SELECT account_id, id, %s, 1, id, id, received_at, ARRAY[id], distinct_id, "
        "'done', received_at, received_at, received_at FROM events",
        WORKFLOW,
    )
    run_query(
        context,
        "INSERT INTO attempts (account_id, run_id, ordinal, attempt, outcome, started_at, finished_at) "
        "SELECT account_id, id, 0, 1, 'done', created_at, finished_at FROM runs",
    )
    run_alone(context.database.url, "ANALYZE")
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
    keep(context, ACME, {"events": 90 * DAY, "runs": None})
    assert [(one.keep, one.is_default) for one in find_retention(context, ACME)][:2] == [
        (90 * DAY, False),
        (None, False),
    ]
    keep(context, ACME, {}, ("events",))
    assert find_retention(context, ACME)[0].is_default


def test_a_change_is_in_the_audit_log(context: AppContext) -> None:
    keep(context, ACME, {"events": 90 * DAY, "runs": None})
    keep(context, ACME, {"events": 90 * DAY})
    keep(context, ACME, {"events": 30 * DAY}, ("runs",))
    found = run_query(context, "SELECT action, object_id, before, after FROM audit_log ORDER BY before IS NOT NULL")
    assert found == [
        ("account.retention", "slug", None, {"events": "90d", "runs": "forever"}),
        ("account.retention", "slug", {"events": "90d", "runs": "forever"}, {"events": "30d"}),
    ]


def test_a_retention_of_less_than_a_day_is_refused(context: AppContext) -> None:
    with pytest.raises(Problem, match="1h is too short"):
        keep(context, ACME, {"events": timedelta(hours=1)})
