"""Patterns end to end: events are posted, match state is in Postgres, deadlines are due by the clock."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import prometheus_client
import psycopg2
import pytest

from app.db import match_state
from app.db.match_state import subject_of_payload
from app.services import workflows
from app.services.context import AppContext
from app.worker.housekeeping import sweep
from app.workflows.yaml_loader import InvalidDocument
from tests.support.acceptance import fire_deadline
from tests.support.builders import Sender, a_workflow, an_event


class Clock:
    """The current time, which the test moves."""

    def __init__(self) -> None:
        self.now = datetime.now(UTC).replace(microsecond=0)

    def __call__(self) -> datetime:
        return self.now

    def forward(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@pytest.fixture
def clock(context: AppContext) -> Iterator[Clock]:
    before, context.clock = context.clock, Clock()
    yield context.clock
    context.clock = before


def apply(context: AppContext, sender: Sender, **changes: Any) -> UUID:
    workflows.apply_workflow(context, sender.account_id, a_workflow(**changes))
    return workflows.find_workflow(context, sender.account_id, changes.get("name", "watch")).id


def post(sender: Sender, name: str, **changes: Any) -> dict[str, Any]:
    answer = sender.post(an_event(event=name, **changes))
    assert answer.status_code == 200, answer.get_data(as_text=True)
    found: dict[str, Any] = answer.get_json()
    return found


def rows(context: AppContext, query: str, **values: Any) -> list[dict[str, Any]]:
    with context.database.transaction() as connection:
        return [dict(row) for row in connection.exec_driver_sql(query, values).mappings()]


def runs_of(context: AppContext, sender: Sender) -> list[dict[str, Any]]:
    return rows(context, "SELECT * FROM runs WHERE account_id = %(account)s ORDER BY id", account=sender.account_id)


def decision_of(context: AppContext, answer: dict[str, Any]) -> dict[str, Any]:
    (row,) = rows(context, "SELECT decisions FROM events WHERE id = %(id)s", id=answer["id"])
    (decision,) = row["decisions"]
    found: dict[str, Any] = decision
    return found


def test_three_of_three_start_a_run_with_the_events_that_it_used(context: AppContext, acme: Sender) -> None:
    apply(context, acme, on={"times": 3, "of": "failed", "within": "1h"})
    answers = [post(acme, "failed") for _ in range(3)]
    assert [len(answer["runs"]) for answer in answers] == [0, 0, 1]
    assert [answer["contributing"] for answer in answers] == [True, True, True]
    (run,) = runs_of(context, acme)
    assert [str(used) for used in run["matched"]] == [answer["id"] for answer in answers]


def test_the_decision_says_how_far_the_subject_has_come(context: AppContext, acme: Sender) -> None:
    apply(context, acme, on={"times": 3, "of": "failed", "within": "1h"})
    post(acme, "failed")
    decision = decision_of(context, post(acme, "failed"))
    assert decision["started"] is False
    assert "2 of 3" in decision["reason"]


def test_each_subject_has_its_own_progress(context: AppContext, acme: Sender) -> None:
    apply(context, acme, on={"times": 2, "of": "failed"})
    assert post(acme, "failed", distinct_id="one")["runs"] == []
    assert post(acme, "failed", distinct_id="two")["runs"] == []
    assert len(post(acme, "failed", distinct_id="one")["runs"]) == 1


def test_a_key_says_whose_progress_is_counted(context: AppContext, acme: Sender) -> None:
    apply(context, acme, on={"seq": ["packed", "sent"]}, key="data.order_id")
    post(acme, "packed", distinct_id="one", data={"order_id": 7})
    assert post(acme, "sent", distinct_id="two", data={"order_id": 8})["runs"] == []
    assert len(post(acme, "sent", distinct_id="two", data={"order_id": 7})["runs"]) == 1
    assert "data.order_id" in decision_of(context, post(acme, "sent", data={}))["reason"]


def test_windows_count_from_the_time_of_acceptance(context: AppContext, acme: Sender, clock: Clock) -> None:
    apply(context, acme, on={"seq": ["a", "b"], "within": "10m"})
    post(acme, "a")
    clock.forward(601)
    assert post(acme, "b")["runs"] == []
    post(acme, "a")
    clock.forward(600)
    assert len(post(acme, "b")["runs"]) == 1


def test_a_repeated_idempotency_key_advances_nothing(context: AppContext, acme: Sender) -> None:
    apply(context, acme, on={"times": 2, "of": "failed"})
    body = an_event(event="failed")
    first, second = (acme.post(body, Idempotency_Key="once").get_json() for _ in range(2))
    assert (first["duplicate"], second["duplicate"]) == (False, True)
    assert len(post(acme, "failed")["runs"]) == 1


ABANDONED = {"seq": ["cart_updated", {"none": "order_placed", "for": "30m"}]}


def fire(context: AppContext, sender: Sender, workflow: UUID, subject: str = "915673412780") -> None:
    fire_deadline(context, sender.account_id, workflow, subject)


def test_a_deadline_is_a_delayed_job_and_starts_a_run(context: AppContext, acme: Sender, clock: Clock) -> None:
    workflow = apply(context, acme, on=ABANDONED)
    answer = post(acme, "cart_updated")
    jobs = rows(
        context,
        "SELECT payload, due_at FROM jobs WHERE kind = 'deadline' AND payload LIKE %(like)s",
        like=f"{acme.account_id}:%",
    )
    (job,) = jobs
    assert subject_of_payload(job["payload"].split(":")[2]) == "915673412780"
    assert timedelta(0) < job["due_at"] - clock.now - timedelta(minutes=30) < timedelta(seconds=1)
    clock.forward(1801)
    fire(context, acme, workflow)
    (run,) = runs_of(context, acme)
    assert [str(used) for used in run["matched"]] == [answer["id"]]
    fire(context, acme, workflow)
    assert len(runs_of(context, acme)) == 1


def test_a_disarmed_deadline_does_nothing(context: AppContext, acme: Sender, clock: Clock) -> None:
    workflow = apply(context, acme, on=ABANDONED)
    post(acme, "cart_updated")
    clock.forward(1800)
    assert post(acme, "order_placed")["contributing"] is False
    clock.forward(60)
    fire(context, acme, workflow)
    assert runs_of(context, acme) == []


def test_a_deadline_whose_job_is_late_fires_before_the_next_event(
    context: AppContext, acme: Sender, clock: Clock
) -> None:
    workflow = apply(context, acme, on=ABANDONED)
    first = post(acme, "cart_updated")
    clock.forward(1801)
    assert post(acme, "order_placed")["runs"] == []
    fire(context, acme, workflow)
    (run,) = runs_of(context, acme)
    assert str(run["event_id"]) == first["id"]


def test_at_most_one_start_a_day(context: AppContext, acme: Sender, clock: Clock) -> None:
    apply(context, acme, on="product_view", again="1d")
    assert len(post(acme, "product_view")["runs"]) == 1
    clock.forward(86_399)
    suppressed = post(acme, "product_view")
    assert suppressed["runs"] == []
    assert decision_of(context, suppressed)["reason"].startswith("suppressed: again")
    clock.forward(1)
    assert len(post(acme, "product_view")["runs"]) == 1


def test_once_is_once_over_versions(context: AppContext, acme: Sender) -> None:
    apply(context, acme, on="product_view", again="once")
    assert len(post(acme, "product_view")["runs"]) == 1
    apply(context, acme, on="product_view", again="once", description="the second version")
    assert post(acme, "product_view")["runs"] == []


def test_a_new_version_begins_with_empty_progress(context: AppContext, acme: Sender) -> None:
    apply(context, acme, on={"times": 2, "of": "failed"})
    post(acme, "failed")
    apply(context, acme, on={"times": 2, "of": "failed"}, description="the second version")
    assert post(acme, "failed")["runs"] == []
    assert len(post(acme, "failed")["runs"]) == 1


def test_one_event_advances_several_workflows(context: AppContext, acme: Sender) -> None:
    apply(context, acme, name="alone")
    apply(context, acme, name="pair", on={"times": 2, "of": "product_view"})
    apply(context, acme, name="any", on={"event": "*", "where": "data.product_id == '65432'"})
    assert len(post(acme, "product_view")["runs"]) == 2
    assert len(post(acme, "product_view")["runs"]) == 3


def test_concurrent_posts_of_one_subject_count_each_once(context: AppContext, acme: Sender) -> None:
    apply(context, acme, on={"times": 5, "of": "failed"})
    answers: list[dict[str, Any]] = []

    def many() -> None:
        for _ in range(10):
            answers.append(post(acme, "failed"))

    threads = [threading.Thread(target=many) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(len(answer["runs"]) for answer in answers) == 8
    used = [event for run in runs_of(context, acme) for event in run["matched"]]
    assert len(used) == len(set(used)) == 40


def test_events_of_one_subject_are_stored_in_the_order_of_acceptance(
    context: AppContext, acme: Sender, clock: Clock
) -> None:
    apply(context, acme, on={"times": 9, "of": "failed"})
    ids = [post(acme, "failed")["id"] for _ in range(3)]
    found = rows(
        context, "SELECT id::text, received_at FROM events WHERE account_id = %(a)s ORDER BY id", a=acme.account_id
    )
    assert [row["id"] for row in found] == ids
    assert len({row["received_at"] for row in found}) == 3


def test_progress_can_be_read_in_postgres(context: AppContext, acme: Sender) -> None:
    apply(context, acme, on={"seq": ["a", "b"]})
    answer = post(acme, "a")
    (row,) = rows(context, "SELECT progress FROM progress WHERE account_id = %(account)s", account=acme.account_id)
    assert answer["id"] in json.dumps(row["progress"])


def test_a_workflow_that_is_enabled_again_keeps_its_progress(context: AppContext, acme: Sender) -> None:
    apply(context, acme, on={"seq": ["a", "b"]})
    before = workflows.find_workflow(context, acme.account_id, "watch")
    post(acme, "a")
    assert workflows.enable_workflow(context, acme.account_id, "watch") == 1
    assert workflows.find_workflow(context, acme.account_id, "watch") == before
    post(acme, "b")
    assert len(runs_of(context, acme)) == 1


def test_progress_from_before_a_workflow_was_disabled_does_not_count(
    context: AppContext, acme: Sender, clock: Clock
) -> None:
    workflow = apply(context, acme, on=ABANDONED)
    post(acme, "cart_updated")
    workflows.disable_workflow(context, acme.account_id, "watch")
    clock.forward(3_600)
    workflows.enable_workflow(context, acme.account_id, "watch")
    post(acme, "cart_updated")
    fire(context, acme, workflow)
    assert runs_of(context, acme) == []
    clock.forward(1_801)
    fire(context, acme, workflow)
    assert len(runs_of(context, acme)) == 1


def test_an_event_named_with_the_wildcard_starts_a_workflow_once(context: AppContext, acme: Sender) -> None:
    apply(context, acme, on={"event": "*"})
    assert len(post(acme, "*")["runs"]) == 1


def test_a_filter_with_a_nul_refuses_no_event(context: AppContext, acme: Sender) -> None:
    apply(context, acme, on={"event": "product_view", "where": 'data["a\\u0000b"] > 3'})
    assert decision_of(context, post(acme, "product_view"))["started"] is False


def test_a_deadline_whose_job_is_lost_gets_another(context: AppContext, acme: Sender, clock: Clock) -> None:
    apply(context, acme, on=ABANDONED)
    post(acme, "cart_updated")
    like = {"like": f"{acme.account_id}:%"}
    jobs = "FROM jobs WHERE kind = 'deadline' AND payload LIKE %(like)s"
    (before,) = rows(context, f"SELECT payload {jobs}", **like)
    with context.database.transaction() as connection:
        connection.exec_driver_sql(f"DELETE {jobs}", like)
    clock.forward(1_800 + 61)
    sweep(context)
    sweep(context)
    assert rows(context, f"SELECT payload {jobs}", **like) == [before]


def test_a_lost_job_is_found_behind_a_thousand_overdue_deadlines(
    context: AppContext, acme: Sender, clock: Clock
) -> None:
    apply(context, acme, on=ABANDONED)
    post(acme, "cart_updated")
    others = (
        "INSERT INTO progress (account_id, workflow_id, subject, enablement, progress, deadline, last_event_at) "
        "SELECT account_id, workflow_id, number::text, enablement, progress, deadline - interval '1 s', last_event_at "
        "FROM progress, generate_series(1, 1000) AS number WHERE account_id = %(account)s"
    )
    jobs = {"like": f"{acme.account_id}:%"}
    with context.database.transaction() as connection:
        connection.exec_driver_sql("DELETE FROM jobs WHERE kind = 'deadline' AND payload LIKE %(like)s", jobs)
        connection.exec_driver_sql(others, {"account": acme.account_id})
        connection.exec_driver_sql("UPDATE progress SET deadline = NULL WHERE account_id <> %s", (acme.account_id,))
    clock.forward(1_800 + 61)
    for found in (1000, 1001):
        sweep(context)
        count = "SELECT count(*) FROM jobs WHERE kind = 'deadline' AND payload LIKE %(like)s"
        assert rows(context, count, **jobs) == [{"count": found}]
    workflows.delete_workflow(context, acme.account_id, "watch")
    with context.database.transaction() as connection:
        connection.exec_driver_sql("DELETE FROM jobs WHERE kind = 'deadline' AND payload LIKE %(like)s", jobs)


def test_an_event_is_stored_once_when_the_response_of_its_commit_is_lost(
    context: AppContext, acme: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    apply(context, acme, on={"times": 2, "of": "failed"})
    write = match_state.write_and_commit

    def lose_the_response(connection: Any, *arguments: Any) -> None:
        write(connection, *arguments)
        monkeypatch.undo()
        connection.close()
        raise psycopg2.OperationalError("the connection is gone")

    monkeypatch.setattr(match_state, "write_and_commit", lose_the_response)
    answer = post(acme, "failed")
    found = rows(context, "SELECT id::text FROM events WHERE account_id = %(account)s", account=acme.account_id)
    assert [row["id"] for row in found] == [answer["id"]]
    assert len(post(acme, "failed")["runs"]) == 1


def test_a_decision_says_which_event_dropped_or_disarmed_it(context: AppContext, acme: Sender) -> None:
    apply(context, acme, on={"seq": ["cart_updated", "checkout"], "unless": "cart_emptied"})
    post(acme, "cart_updated")
    assert decision_of(context, post(acme, "cart_emptied"))["reason"].startswith("cancelled by cart_emptied")
    apply(context, acme, on=ABANDONED)
    post(acme, "cart_updated")
    assert decision_of(context, post(acme, "order_placed"))["reason"] == "cancelled by order_placed"


def test_progress_is_deleted_when_its_windows_are_over(context: AppContext, acme: Sender, clock: Clock) -> None:
    apply(context, acme, on={"seq": ["a", "b"], "within": "1h"})
    apply(context, acme, name="endless", on={"seq": ["a", "b"]})
    post(acme, "a")
    clock.forward(3_600 + 86_401)
    sweep(context)
    left = rows(
        context,
        "SELECT name FROM progress JOIN workflows USING (account_id) "
        "WHERE account_id = %(account)s AND workflows.id = workflow_id",
        account=acme.account_id,
    )
    assert [row["name"] for row in left] == ["endless"]


def test_every_run_that_is_started_is_counted(context: AppContext, acme: Sender, clock: Clock) -> None:
    def counted() -> float:
        return prometheus_client.REGISTRY.get_sample_value("signalbox_runs_started_total") or 0.0

    before = counted()
    abandoned = apply(context, acme, on={"seq": ["cart_updated", {"none": "order_placed", "for": "30m"}]})
    apply(context, acme, name="alone", on="chat")
    apply(context, acme, name="twice", on={"times": 2, "of": "chat"})
    post(acme, "chat")
    assert counted() - before == len(runs_of(context, acme)) == 1
    post(acme, "chat")
    assert counted() - before == len(runs_of(context, acme)) == 3
    # One deadline is met by an event that comes after it, the other by the queue.
    post(acme, "cart_updated")
    clock.forward(31 * 60)
    post(acme, "cart_updated")
    assert counted() - before == len(runs_of(context, acme)) == 4
    clock.forward(31 * 60)
    fire_deadline(context, acme.account_id, abandoned, "915673412780")
    assert counted() - before == len(runs_of(context, acme)) == 5


def test_large_patterns_on_one_event_are_bounded_together(context: AppContext, acme: Sender, globex: Sender) -> None:
    heavy = {"times": 1_000, "of": "looked", "within": "30d"}
    for number in range(20):
        apply(context, acme, name=f"heavy-{number}", on=heavy)
    # 20 times 999; a light one still fits, and so does another name, another account, another version of the same.
    apply(context, acme, name="light", on={"times": 21, "of": "looked"})
    apply(context, acme, name="elsewhere", on={"times": 1_000, "of": "other"})
    apply(context, acme, name="heavy-0", on={**heavy, "within": "20d"})
    apply(context, acme, name="alone", on="looked")
    apply(context, globex, name="heavy", on=heavy)
    for on, of in ((heavy, "'looked' together 20,999"), ({"times": 2, "of": "*"}, "'looked' together 20,001")):
        with pytest.raises(InvalidDocument) as refused:
            apply(context, acme, name="one-more", on=on)
        assert of in str(refused.value)
        assert "lower the counts, or disable one" in str(refused.value)
        assert refused.value.mistakes[0].path == "on"
    assert "one-more" not in [row.name for row in workflows.list_workflows(context, acme.account_id)]
    workflows.save_draft(context, acme.account_id, a_workflow(name="one-more", on=heavy))
    with pytest.raises(InvalidDocument):
        workflows.enable_workflow(context, acme.account_id, "one-more")
    workflows.disable_workflow(context, acme.account_id, "heavy-1")
    assert workflows.enable_workflow(context, acme.account_id, "one-more") == 1


def test_a_pattern_on_all_events_counts_with_each_name(context: AppContext, acme: Sender) -> None:
    for number in range(20):
        apply(context, acme, name=f"any-{number}", on={"times": 1_000, "of": "*"})
    with pytest.raises(InvalidDocument, match="'looked' together 20,979"):
        apply(context, acme, on={"times": 1_000, "of": "looked"})
    with pytest.raises(InvalidDocument, match="all events together 20,979"):
        apply(context, acme, on={"times": 1_000, "of": "*"})
