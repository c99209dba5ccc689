"""Many concurrent posts: an idempotency key identifies one event."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from app.services import workflows
from app.services.context import AppContext
from tests.api.conftest import Rows
from tests.support.builders import Sender, a_sender, a_workflow, an_event
from tests.support.server import Answer, Server

POSTS, THREADS = 200, 20


def at_once(sender: Sender, posts: list[tuple[object, str]], threads: int) -> list[Answer]:
    """Answers to these (body, idempotency key), sent from that many threads that begin together."""
    barrier = threading.Barrier(threads)

    def send(number: int) -> list[Answer]:
        barrier.wait()
        return [sender.post(body, Idempotency_Key=key) for body, key in posts[number::threads]]

    with ThreadPoolExecutor(threads) as pool:
        return [answer for answers in pool.map(send, range(threads)) for answer in answers]


@pytest.fixture(scope="module")
def all_at_once(context: AppContext, two_processes: Server) -> tuple[Sender, list[Answer]]:
    """200 posts with one key from 20 threads to two processes, to an account with a workflow that starts."""
    sender = a_sender(context, two_processes)
    workflows.apply_workflow(context, sender.account_id, a_workflow())
    return sender, at_once(sender, [(an_event(), "once")] * POSTS, THREADS)


def test_all_are_answered_with_the_same_id(all_at_once: tuple[Sender, list[Answer]]) -> None:
    _, answers = all_at_once
    assert [answer.status_code for answer in answers] == [200] * POSTS
    assert len({answer.json["id"] for answer in answers}) == 1


def test_exactly_one_response_is_no_duplicate_and_names_the_run(all_at_once: tuple[Sender, list[Answer]]) -> None:
    _, answers = all_at_once
    firsts = [answer.json for answer in answers if not answer.json["duplicate"]]
    assert len(firsts) == 1
    assert len(firsts[0]["runs"]) == 1
    assert all(answer.json["runs"] == [] for answer in answers if answer.json["duplicate"])


@pytest.mark.parametrize("table", ["events", "runs", "idempotency_keys"])
def test_one_of_each_is_stored(all_at_once: tuple[Sender, list[Answer]], rows: Rows, table: str) -> None:
    sender, _ = all_at_once
    assert rows(f"SELECT count(*) FROM {table} WHERE account_id = %s", sender.account_id) == [(1,)]


def test_one_job_is_queued(all_at_once: tuple[Sender, list[Answer]], rows: Rows) -> None:
    sender, answers = all_at_once
    (run,) = next(answer.json["runs"] for answer in answers if answer.json["runs"])
    assert rows("SELECT count(*) FROM jobs WHERE payload = %s", f"{sender.account_id}:{run}:1") == [(1,)]


def test_of_two_concurrent_bodies_with_one_key_one_is_stored_and_one_refused(
    context: AppContext, two_processes: Server, rows: Rows
) -> None:
    sender = a_sender(context, two_processes)
    for number in range(25):
        posts: list[tuple[object, str]] = [(an_event(event=name), f"key {number}") for name in ("one", "other")]
        answers = at_once(sender, posts, 2)
        assert sorted(answer.status_code for answer in answers) == [200, 422]
        (taken,) = [answer.json for answer in answers if answer.status_code == 200]
        (refused,) = [answer.json for answer in answers if answer.status_code == 422]
        assert taken["id"] in refused["detail"]
    stored = "SELECT count(*), count(DISTINCT idempotency_key) FROM events WHERE account_id = %s"
    assert rows(stored, sender.account_id) == [(25, 25)]


def test_concurrent_events_with_different_keys_are_all_stored(context: AppContext, two_processes: Server) -> None:
    sender = a_sender(context, two_processes)
    answers = at_once(sender, [(an_event(), f"key {number}") for number in range(100)], 10)
    assert len({answer.json["id"] for answer in answers}) == 100
    assert not any(answer.json["duplicate"] for answer in answers)


def test_a_workflow_that_is_enabled_while_events_stream_in_starts_for_all_that_came_after(
    context: AppContext, two_processes: Server
) -> None:
    sender = a_sender(context, two_processes)
    enabled = threading.Event()

    def stream(_: int) -> list[tuple[bool, int]]:
        found = []
        for _ in range(40):
            before = enabled.is_set()
            found.append((before, len(sender.post(an_event()).json["runs"])))
        return found

    with ThreadPoolExecutor(4) as pool:
        streams = [pool.submit(stream, number) for number in range(4)]
        workflows.apply_workflow(context, sender.account_id, a_workflow())
        enabled.set()
        seen = [one for each in streams for one in each.result()]
    assert {runs for after, runs in seen if after} <= {1}
    assert {runs for _, runs in seen} <= {0, 1}
    assert len(sender.post(an_event()).json["runs"]) == 1
