"""A batch has the same effect on workflows as its events one by one: the same decisions, runs and progress."""

from __future__ import annotations

import itertools
import json
import re
from datetime import timedelta
from typing import Any

import pytest
from flask.testing import FlaskClient
from hypothesis import given, settings
from hypothesis import strategies as st

from app.core.ids import uuid7
from app.db.match_state import lock_number
from app.services import workflows
from app.services.context import AppContext
from tests.api.conftest import Rows
from tests.support.builders import Sender, a_sender, a_workflow, an_event

WORKFLOWS: dict[str, dict[str, Any]] = {
    "alone": {"on": {"event": "a", "where": "data.n > 2"}},
    "thrice": {"on": {"times": 3, "of": "a", "within": "1h"}},
    "ordered": {"on": {"seq": ["a", {"event": "b", "where": "data.n > 1"}, "c"], "unless": "d"}},
    "all": {"on": {"all": ["a", {"any": ["b", "c"]}], "within": "1h"}},
    "left": {"on": {"seq": ["b", {"none": "c", "for": "1h"}]}},
    "daily": {"on": "c", "again": "1d"},
    "by-n": {"on": {"times": 2, "of": "*"}, "key": "data.n"},
}
events = st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from("xy"), st.integers(0, 3)), min_size=1, max_size=14)
_rounds = itertools.count()


@pytest.fixture(scope="module")
def both(context: AppContext, client: FlaskClient) -> tuple[Sender, Sender]:
    """Two accounts with the same workflows."""
    senders = (a_sender(context, client), a_sender(context, client))
    for sender in senders:
        for name, changes in WORKFLOWS.items():
            workflows.apply_workflow(context, sender.account_id, a_workflow(name=name, **changes))
    return senders


def sent(events: list[tuple[str, str, int]], number: int) -> list[dict[str, Any]]:
    """Bodies for subjects that nobody has used yet."""
    return [
        an_event(event=name, distinct_id=f"{who} {number}", phone=..., data={"n": f"{n} of {number}" if n == 0 else n})
        for name, who, n in events
    ]


@settings(max_examples=25)
@given(events=events, cuts=st.lists(st.integers(1, 6), max_size=4))
def test_a_batch_equals_its_events_one_by_one(
    both: tuple[Sender, Sender], rows: Rows, events: list[tuple[str, str, int]], cuts: list[int]
) -> None:
    alone, together = both
    for sender in both:
        # The key data.n is shared by all rounds.
        rows("DELETE FROM progress WHERE account_id = %s", sender.account_id)
    bodies = sent(events, next(_rounds))
    ids_alone = [alone.post(body).json["id"] for body in bodies]
    ids_together: list[str] = []
    for size in [*cuts, len(bodies)]:
        batch = bodies[len(ids_together) : len(ids_together) + size]
        ids_together += together.post_batch(batch).json["ids"]
    assert result_of(rows, alone, ids_alone) == result_of(rows, together, ids_together)


def result_of(rows: Rows, sender: Sender, ids: list[str]) -> dict[str, Any]:
    """Everything that followed from these events, with numbers instead of their ids, and without timestamps."""
    number_of = {event_id: f"event {number}" for number, event_id in enumerate(ids)}

    def plain(value: Any) -> Any:
        text = re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(\+00:00|Z)", "TIMESTAMP", json.dumps(value, default=str))
        text = re.sub(r'"run": "[^"]+"', '"run": "RUN"', text)
        text = re.sub(r"\b\d+[smh]( \d+[smh])*\b", "DURATION", text)
        for event_id, number in number_of.items():
            text = text.replace(event_id, number)
        return json.loads(text)

    known = (sender.account_id, ids)
    decided = rows(
        "SELECT id, decisions FROM events WHERE account_id = %s AND id = ANY (%s::uuid[]) ORDER BY id", *known
    )
    runs = rows(
        "SELECT workflows.name, runs.event_id, runs.matched::text[], runs.distinct_id, runs.match_key, runs.status, "
        "EXISTS (SELECT FROM jobs WHERE payload = runs.account_id || ':' || runs.id || ':1') "
        "FROM runs JOIN workflows ON workflows.id = workflow_id "
        "WHERE runs.account_id = %s AND event_id = ANY (%s::uuid[]) ORDER BY event_id, name",
        *known,
    )
    progress = rows(
        "SELECT name, subject, progress.enablement, progress, deadline IS NULL, last_started_at IS NULL, lapses_at IS NULL "
        "FROM progress JOIN workflows ON workflows.id = workflow_id WHERE progress.account_id = %s ORDER BY name, subject",
        sender.account_id,
    )
    return {"decisions": plain(decided), "runs": plain(runs), "progress": plain(progress)}


def test_a_deadline_that_a_batch_arms_is_enqueued_once(context: AppContext, client: FlaskClient, rows: Rows) -> None:
    sender = a_sender(context, client)
    workflows.apply_workflow(context, sender.account_id, a_workflow(on={"seq": ["b", {"none": "c", "for": "1h"}]}))
    sender.post_batch([an_event(event=name) for name in "bcbcb"])
    jobs = rows(
        "SELECT due_at - (SELECT deadline FROM progress WHERE account_id = %s) < interval '1s' FROM jobs "
        "WHERE kind = 'deadline' AND payload LIKE %s",
        sender.account_id,
        f"{sender.account_id}:%",
    )
    assert jobs == [(True,)]


def test_a_batch_is_later_than_all_that_its_subjects_have_sent(
    context: AppContext, client: FlaskClient, rows: Rows
) -> None:
    sender = a_sender(context, client)
    workflows.apply_workflow(context, sender.account_id, a_workflow(on={"seq": ["a", "b"]}))
    (first,) = sender.post_batch([an_event(event="a")]).json["ids"]
    rows("UPDATE progress SET last_event_at = now() + interval '1 hour' WHERE account_id = %s", sender.account_id)
    ids = sender.post_batch([an_event(event="b"), an_event(event="other")]).json["ids"]
    assert [first, *ids] == sorted([first, *ids])
    assert rows("SELECT matched::text[] FROM runs WHERE account_id = %s", sender.account_id) == [([first, ids[0]],)]
    late = "SELECT min(received_at) > now() + interval '59 minutes' FROM events WHERE id = ANY (%s::uuid[])"
    assert rows(late, ids) == [(True,)]


def test_a_batch_of_thousands_of_subjects_updates_them_all(
    context: AppContext, client: FlaskClient, rows: Rows
) -> None:
    sender = a_sender(context, client)
    workflows.apply_workflow(context, sender.account_id, a_workflow(on={"times": 2, "of": "a"}))
    items = [an_event(event="a", distinct_id=f"s{number % 2000}", phone=...) for number in range(4_000)]
    assert sender.post_batch(items).json["accepted"] == 4_000
    assert rows("SELECT count(*) FROM runs WHERE account_id = %s", sender.account_id) == [(2_000,)]


def test_all_subjects_of_an_account_take_a_few_hundred_locks() -> None:
    workflows = [uuid7() for _ in range(3)]
    assert len({lock_number(1, (workflow, f"s{n}")) for workflow in workflows for n in range(5_000)}) == 256


def test_an_overdue_deadline_matches_before_the_batch(context: AppContext, client: FlaskClient, rows: Rows) -> None:
    sender, clock = a_sender(context, client), context.clock
    workflows.apply_workflow(context, sender.account_id, a_workflow(on={"seq": ["b", {"none": "c", "for": "1h"}]}))
    ids = [*sender.post_batch([an_event(event="b")]).json["ids"]]
    context.clock = lambda: clock() + timedelta(hours=2)
    try:
        ids += sender.post_batch([an_event(event=name) for name in "bc"]).json["ids"]
    finally:
        context.clock = clock
    runs = rows("SELECT matched::text[], match_key LIKE '%%@%%' FROM runs WHERE account_id = %s", sender.account_id)
    assert runs == [(ids[:1], True)]
    assert rows("SELECT progress FROM progress WHERE account_id = %s", sender.account_id) == [({},)]
