"""Retention of events: with their partition or in batches; what a running run needs stays."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from uuid import UUID

import psycopg2
import pytest

from app.core.ids import uuid7
from app.db import needed_events
from app.services.context import AppContext

# All partitions of these tests have ended: the function that drops one compares with the server's clock, too.
from tests.support.retention_rows import (
    ACME,
    DAY,
    GLOBEX,
    JANUARY,
    JUNE,
    MARCH,
    MONTHS,
    NOW,
    WORKFLOW,
    add_event,
    add_run,
    add_workflow,
    do_round,
    events_of,
    insert,
    keep,
    partitions_of,
    run_query,
)


def test_everything_is_kept_for_ever_unless_an_account_sets_a_retention(context: AppContext) -> None:
    event = add_event(context, JANUARY)
    add_run(context, event, JANUARY)
    assert do_round(context) == {}
    assert partitions_of(context) == MONTHS


def test_a_partition_that_no_account_keeps_is_dropped(context: AppContext) -> None:
    for account in (ACME, GLOBEX):
        keep(context, account, {"events": 90 * DAY})
    add_event(context, JANUARY)
    add_event(context, MARCH, GLOBEX)
    kept = add_event(context, JUNE)
    # 10 July less 90 days is 11 April.
    assert do_round(context) == {"partitions": 3}
    assert partitions_of(context) == MONTHS[3:]
    assert events_of(context) == {kept}


def test_partitions_that_a_worker_drops_are_in_the_audit_log(context: AppContext) -> None:
    keep(context, ACME, {"events": 90 * DAY})
    dropped = do_round(context)["partitions"]
    entries = run_query(
        context, "SELECT object_id, actor, via FROM audit_log WHERE action = 'partition.drop' ORDER BY object_id"
    )
    assert entries == [(name, "signalbox", "worker") for name in MONTHS[:dropped]]
    assert dropped > 0


def test_an_account_without_events_in_a_partition_does_not_keep_it(context: AppContext) -> None:
    keep(context, ACME, {"events": 90 * DAY})
    add_event(context, JANUARY)
    add_event(context, MARCH, GLOBEX)
    assert do_round(context) == {"partitions": 2}
    assert partitions_of(context) == MONTHS[2:]


def test_events_of_an_account_that_keeps_less_than_another_are_deleted_in_batches(context: AppContext) -> None:
    keep(context, ACME, {"events": 90 * DAY})
    for day in range(1, 21):
        add_event(context, datetime(2021, 4, day, tzinfo=UTC))
    kept = add_event(context, JANUARY, GLOBEX), add_event(context, MARCH, GLOBEX), add_event(context, NOW - 89 * DAY)
    keep(context, GLOBEX, {"events": None})
    add_event(context, JANUARY)
    add_event(context, datetime(2021, 4, 2, tzinfo=UTC), GLOBEX)
    # 1 to 11 April at 0:00, and the one of January. The partition of February is empty.
    assert do_round(context) == {"events": 12, "partitions": 1}
    assert set(kept) < events_of(context)
    assert (
        min(at for (at,) in run_query(context, "SELECT received_at FROM events WHERE account_id = 1")) > NOW - 90 * DAY
    )


def test_events_of_the_longest_keeper_wait_for_their_partition(context: AppContext) -> None:
    keep(context, ACME, {"events": 90 * DAY})
    add_event(context, datetime(2021, 4, 2, tzinfo=UTC))
    assert do_round(context) == {"partitions": 3}
    assert len(events_of(context)) == 1


def test_an_account_that_keeps_events_for_less_than_two_months_does_not_wait(context: AppContext) -> None:
    keep(context, ACME, {"events": 20 * DAY})
    add_event(context, datetime(2021, 6, 2, tzinfo=UTC))
    kept = add_event(context, datetime(2021, 6, 28, tzinfo=UTC))
    assert do_round(context) == {"events": 1, "partitions": 5}
    assert events_of(context) == {kept}
    assert partitions_of(context)[0] == "events_2021_06"


def test_events_of_the_default_partition_are_deleted_too(context: AppContext) -> None:
    keep(context, ACME, {"events": 90 * DAY})
    add_event(context, datetime(2020, 12, 5, tzinfo=UTC))
    assert do_round(context)["events"] == 1
    assert events_of(context) == set()


def test_a_partition_in_use_is_dropped_later_and_its_events_are_not_deleted_meanwhile(context: AppContext) -> None:
    keep(context, ACME, {"events": 90 * DAY})
    event = add_event(context, JANUARY)
    with closing(psycopg2.connect(context.database.url)) as reader, reader.cursor() as cursor:
        cursor.execute("SELECT FROM events_2021_01")
        # February and March are empty.
        assert do_round(context) == {"partitions": 2}
        assert events_of(context) == {event}
    assert do_round(context) == {"partitions": 1}


def test_a_drop_that_gets_no_lock_gives_up_soon(context: AppContext) -> None:
    with closing(psycopg2.connect(context.database.url)) as reader, reader.cursor() as cursor:
        cursor.execute("SELECT FROM events_2021_01")
        assert run_query(context, "SELECT drop_events_partition('events_2021_01', now())") == [(False,)]
    assert run_query(context, "SELECT drop_events_partition('events_2021_01', now())") == [(True,)]


@pytest.mark.parametrize("name", ["events_default", "runs", "accounts", 'x"; DROP TABLE runs; --'])
def test_the_function_drops_only_partitions_that_have_ended(context: AppContext, name: str) -> None:
    for wanted in (name, f"events_{datetime.now(UTC):%Y_%m}"):
        with pytest.raises(Exception, match="has no partition"):
            run_query(context, "SELECT drop_events_partition(%s, now() + interval '1 year')", wanted)


# What is needed


def _by_its_run(context: AppContext) -> UUID:
    event = add_event(context, JANUARY)
    add_run(context, event, JANUARY, "running")
    return event


def _by_a_match(context: AppContext) -> UUID:
    event, last = add_event(context, JANUARY), uuid7(JUNE)
    add_run(context, last, JUNE, "running", matched=[str(event), str(last)])
    return event


def _by_a_run_that_may_wait_for_it(context: AppContext) -> UUID:
    add_workflow(context, {}, awaits="{paid}")
    add_run(context, uuid7(JANUARY - 60 * DAY), JANUARY - 60 * DAY, "running")
    return add_event(context, JANUARY, event="paid")


def _by_a_run_that_waits_under_another_key(context: AppContext) -> UUID:
    add_workflow(context, {"key": "data.order"}, awaits="{paid}")
    add_run(context, uuid7(JANUARY - 60 * DAY), JANUARY - 60 * DAY, "running", distinct_id="bob", subject="o1")
    event = add_event(context, JANUARY, event="paid", data={"order": "o1"})
    insert(
        context, "keyed_events", account_id=ACME, key="data.order", subject="o1", event_id=event, received_at=JANUARY
    )
    return event


def _by_a_pending_deadline(context: AppContext, key: str = "distinct_id", subject: str = "ann") -> UUID:
    add_workflow(context, {"key": key})
    event = add_event(context, JANUARY, phone="+4915112345678", data={"order": 17.0})
    progress = {
        "events": {"1": [str(event), JANUARY.isoformat()]},
        "deadline": {"at": NOW.isoformat(), "used": [1]},
    }
    insert(context, "progress", account_id=ACME, workflow_id=WORKFLOW, subject=subject, enablement=1, progress=progress,
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
    keep(context, ACME, {"events": 90 * DAY})
    event = needed(context)
    others = {add_event(context, JANUARY, GLOBEX)} if is_shared else set()
    expired = add_event(context, JANUARY + DAY, distinct_id="eve")
    assert do_round(context)["events"] == 1
    assert events_of(context) == {event} | others
    assert expired not in events_of(context)
    run_query(context, end)
    do_round(context)
    assert events_of(context) == others
    assert ("events_2021_01" in partitions_of(context)) is is_shared


def test_events_of_a_pattern_that_no_deadline_completes_are_not_kept(context: AppContext) -> None:
    keep(context, ACME, {"events": 90 * DAY})
    add_event(context, JANUARY, GLOBEX)
    event = _by_a_pending_deadline(context)
    run_query(context, "UPDATE progress SET progress = progress - 'deadline', deadline = NULL")
    assert do_round(context)["events"] == 1
    assert event not in events_of(context)


def test_events_before_a_run_and_of_other_names_are_not_awaited(context: AppContext) -> None:
    keep(context, ACME, {"events": 90 * DAY})
    keep(context, GLOBEX, {"events": None})
    add_workflow(context, {}, awaits="{paid}")
    add_event(context, JANUARY, GLOBEX)
    add_run(context, uuid7(JANUARY), JANUARY, "running")
    add_event(context, JANUARY - DAY, event="paid")
    add_event(context, JANUARY + DAY, event="looked")
    kept = add_event(context, JANUARY + 2 * DAY, event="paid")
    assert do_round(context)["events"] == 2
    assert kept in events_of(context)


# Runs and attempts


def test_both_forms_of_each_reason_are_tried() -> None:
    # One case each of the first four; three of the last, by the three kinds of keys.
    assert len(NEEDED) == len(needed_events._REASONS) + 2
