"""Matching that takes too long in a web process is finished by a worker: nothing is lost, and nothing happens twice."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import pytest

from app.db.late_decisions import LATE
from app.ingest import matching_step
from app.services import workflows
from app.services.context import AppContext
from tests.support.builders import Sender, a_workflow, an_event
from tests.support.run_execution import wake

Late = Callable[[], Any]


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> Late:
    """A block in which all matching is too slow."""

    @contextmanager
    def slow() -> Iterator[None]:
        with monkeypatch.context() as patched:
            patched.setattr(matching_step, "MAX_SECONDS", 0)
            yield

    return slow


def post(sender: Sender, name: str, **changes: Any) -> dict[str, Any]:
    answer = sender.post(an_event(event=name, **changes))
    assert answer.status_code == 200, answer.get_data(as_text=True)
    found: dict[str, Any] = answer.get_json()
    return found


def reasons_of(context: AppContext, event_id: str) -> list[str]:
    with context.database.transaction() as connection:
        query = "SELECT decisions FROM events WHERE id = %(id)s"
        decisions = connection.exec_driver_sql(query, {"id": event_id}).scalar_one()
    return [decision["reason"] for decision in decisions]


def runs_of(context: AppContext, sender: Sender) -> list[list[UUID]]:
    with context.database.transaction() as connection:
        query = "SELECT matched FROM runs WHERE account_id = %(account)s ORDER BY id"
        return [row[0] for row in connection.exec_driver_sql(query, {"account": sender.account_id})]


def jobs_of(context: AppContext, event_id: str) -> int:
    with context.database.transaction() as connection:
        query = "SELECT count(*) FROM jobs WHERE kind = 'match' AND payload LIKE '%%:' || %(id)s"
        count: int = connection.exec_driver_sql(query, {"id": event_id}).scalar_one()
    return count


def test_an_event_whose_matching_is_late_is_stored_with_a_job(context: AppContext, acme: Sender, late: Late) -> None:
    workflows.apply_workflow(context, acme.account_id, a_workflow())
    with late():
        answer = post(acme, "product_view")
    assert answer["runs"] == []
    assert reasons_of(context, answer["id"]) == [LATE]
    assert jobs_of(context, answer["id"]) == 1


def test_a_worker_finishes_the_matching_once(context: AppContext, acme: Sender, late: Late) -> None:
    workflows.apply_workflow(context, acme.account_id, a_workflow())
    with late():
        answer = post(acme, "product_view")
    wake(context, acme.account_id, answer["id"])
    wake(context, acme.account_id, answer["id"])
    assert reasons_of(context, answer["id"]) == ["matched"]
    assert len(runs_of(context, acme)) == 1


def test_a_worker_reads_when_the_event_happened(context: AppContext, acme: Sender, late: Late) -> None:
    on = {"event": "product_view", "where": "occurred_at.getFullYear() == 2024"}
    workflows.apply_workflow(context, acme.account_id, a_workflow(on=on))
    with late():
        answer = post(acme, "product_view", occurred_at="2024-03-05T10:00:00Z")
    wake(context, acme.account_id, answer["id"])
    assert reasons_of(context, answer["id"]) == ["matched"]


def test_decisions_that_were_made_in_time_stay(context: AppContext, acme: Sender, late: Late) -> None:
    workflows.apply_workflow(context, acme.account_id, a_workflow(key="data.absent", again="1d"))
    workflows.apply_workflow(context, acme.account_id, a_workflow(name="second"))
    with late():
        answer = post(acme, "product_view")
    before = reasons_of(context, answer["id"])
    wake(context, acme.account_id, answer["id"])
    after = reasons_of(context, answer["id"])
    assert (before[0], after[0]) == (LATE, "matched")
    assert before[1] == after[1]
    assert "data.absent is the key" in after[1]


def test_a_late_last_event_of_a_pattern_completes_it(context: AppContext, acme: Sender, late: Late) -> None:
    workflows.apply_workflow(context, acme.account_id, a_workflow(on={"seq": ["view", "buy"]}))
    first = post(acme, "view")
    with late():
        last = post(acme, "buy")
    assert runs_of(context, acme) == []
    wake(context, acme.account_id, last["id"])
    assert [list(map(str, matched)) for matched in runs_of(context, acme)] == [[first["id"], last["id"]]]


def test_a_late_event_counts_after_those_that_were_matched_meanwhile(
    context: AppContext, acme: Sender, late: Late
) -> None:
    workflows.apply_workflow(context, acme.account_id, a_workflow(on={"seq": ["view", "buy"]}))
    with late():
        first = post(acme, "view")
    post(acme, "buy")
    wake(context, acme.account_id, first["id"])
    assert runs_of(context, acme) == []
    last = post(acme, "buy")
    assert [list(map(str, matched)) for matched in runs_of(context, acme)] == [[first["id"], last["id"]]]


def test_a_late_run_of_one_event_finds_its_event(context: AppContext, acme: Sender, late: Late) -> None:
    workflows.apply_workflow(context, acme.account_id, a_workflow(on={"seq": ["view", "buy"]}))
    workflows.apply_workflow(context, acme.account_id, a_workflow(name="second", on="view"))
    with late():
        first = post(acme, "view")
    # The pattern has seen a later event, so that the late one counts after it.
    second = post(acme, "view")
    wake(context, acme.account_id, first["id"])
    with context.database.transaction() as connection:
        query = (
            "SELECT events.id::text FROM runs JOIN events ON events.account_id = runs.account_id "
            "AND events.id = event_id AND events.received_at = event_received_at WHERE runs.account_id = %(account)s"
        )
        found = [row[0] for row in connection.exec_driver_sql(query, {"account": acme.account_id})]
    assert sorted(found) == sorted([first["id"], second["id"]])


def test_a_late_event_is_counted_once_however_often_its_job_runs(context: AppContext, acme: Sender, late: Late) -> None:
    workflows.apply_workflow(context, acme.account_id, a_workflow(on={"times": 2, "of": "view"}))
    with late():
        answer = post(acme, "view")
    for _ in range(3):
        wake(context, acme.account_id, answer["id"])
    assert runs_of(context, acme) == []
    post(acme, "view")
    assert len(runs_of(context, acme)) == 1


def test_a_workflow_that_was_disabled_meanwhile_starts_nothing(context: AppContext, acme: Sender, late: Late) -> None:
    workflows.apply_workflow(context, acme.account_id, a_workflow())
    with late():
        answer = post(acme, "product_view")
    workflows.disable_workflow(context, acme.account_id, "watch")
    wake(context, acme.account_id, answer["id"])
    assert runs_of(context, acme) == []
    (reason,) = reasons_of(context, answer["id"])
    assert reason.startswith("not_evaluated: the workflow was disabled")


def test_a_workflow_whose_new_key_the_late_event_lacks_says_so(context: AppContext, acme: Sender, late: Late) -> None:
    workflows.apply_workflow(context, acme.account_id, a_workflow(again="1d"))
    with late():
        answer = post(acme, "product_view")
    workflows.apply_workflow(context, acme.account_id, a_workflow(again="1d", key="data.absent"))
    wake(context, acme.account_id, answer["id"])
    (reason,) = reasons_of(context, answer["id"])
    assert "data.absent is the key" in reason


def test_late_items_of_a_batch_are_finished_by_a_worker(context: AppContext, acme: Sender, late: Late) -> None:
    workflows.apply_workflow(context, acme.account_id, a_workflow(on={"seq": ["view", "buy"]}))
    workflows.apply_workflow(context, acme.account_id, a_workflow(name="second", on="buy"))
    with late():
        answer = acme.post_batch([an_event(event="view"), an_event(event="buy")])
    ids = answer.get_json()["ids"]
    assert [jobs_of(context, event_id) for event_id in ids] == [1, 1]
    for event_id in ids:
        wake(context, acme.account_id, event_id)
    assert sorted(len(matched) for matched in runs_of(context, acme)) == [1, 2]
