"""Eight threads post for twenty subjects to a running server: what is stored equals the result of the simulator.

The order of acceptance is the order of ids. Deadlines are jobs: a real worker runs.
"""

from __future__ import annotations

import os
import random
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import pytest

from app.cli.devserver.supervisor import Command, stop_together
from app.services import simulation, workflows
from app.services.context import AppContext
from app.workflows.matching.rule import build_variables
from app.workflows.matching.simulation import simulate
from tests.support.builders import a_sender, a_workflow, an_event
from tests.support.server import Server, running_server

THREADS = 8
POSTS = 60
SUBJECTS = 20
PATTERNS: dict[str, Any] = {
    "thrice": {"times": 3, "of": "view", "within": "2s"},
    "bought": {"seq": ["view", {"event": "add", "where": "data.n > 2"}, "buy"], "unless": "chat"},
    "both": {"all": ["view", {"any": ["add", "buy"]}], "within": "1s"},
    "left": {"seq": ["add", {"none": "buy", "for": "1s"}]},
    "one": {"event": "*", "where": "data.n == 7"},
}


@pytest.fixture(scope="module")
def running(context: AppContext) -> Iterator[Server]:
    environment = {
        "DATABASE_URL": context.settings.database_url,
        "ENCRYPTION_KEY": ",".join(context.settings.encryption_keys),
        "LOG_LEVEL": "error",
    }
    worker = Command([sys.executable, "-m", "app.cli", "worker"], {**_clean_environment(), **environment})
    with running_server(**environment) as server:
        worker.start()
        try:
            yield server
        finally:
            stop_together([worker], 20)


def _clean_environment() -> dict[str, str]:

    return dict(os.environ)


def test_what_is_stored_equals_the_simulation_in_the_order_of_acceptance(context: AppContext, running: Server) -> None:
    sender = a_sender(context, running, "acme")
    for name, on in PATTERNS.items():
        workflows.apply_workflow(context, sender.account_id, a_workflow(name=name, on=on))
    answers: list[dict[str, Any]] = []

    def post_many(seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(POSTS):
            event = an_event(
                event=rng.choice(["view", "view", "add", "buy", "chat"]),
                distinct_id=f"subject {rng.randrange(SUBJECTS)}",
                data={"n": rng.randrange(8)},
            )
            answer = sender.post(event)
            assert answer.status_code == 200, answer.text
            answers.append(answer.json)

    threads = [threading.Thread(target=post_many, args=(seed,)) for seed in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == THREADS * POSTS
    _wait_for_deadlines(context, sender.account_id)

    contributing: dict[str, bool] = defaultdict(bool)
    expected = set()
    for name, on in PATTERNS.items():
        rule = simulation.compile_source(a_workflow(name=name, on=on))
        for step in simulate(rule, _in_order(context, sender.account_id)):
            if step.event is not None:
                contributing[step.event.id] |= step.contributing
            if step.started:
                expected.add((name, tuple(str(used) for used in step.used)))
    assert _runs(context, sender.account_id) == expected
    assert {answer["id"]: answer["contributing"] for answer in answers} == contributing
    assert {name for name, _ in expected} == set(PATTERNS)


def _in_order(context: AppContext, account_id: int) -> list[simulation.EventView]:
    with context.database.transaction() as connection:
        rows = connection.exec_driver_sql(
            "SELECT id::text, event, distinct_id, data, received_at FROM events WHERE account_id = %(account)s ORDER BY id",
            {"account": account_id},
        )
        return [
            simulation.EventView(row[0], row[1], row[4], build_variables(row[1], row[2], None, row[3], row[4]))
            for row in rows
        ]


def _runs(context: AppContext, account_id: int) -> set[tuple[str, tuple[str, ...]]]:
    with context.database.transaction() as connection:
        rows = connection.exec_driver_sql(
            "SELECT name, matched FROM runs JOIN workflows USING (account_id) "
            "WHERE account_id = %(account)s AND workflows.id = workflow_id",
            {"account": account_id},
        )
        return {(name, tuple(str(used) for used in matched)) for name, matched in rows}


def _wait_for_deadlines(context: AppContext, account_id: int) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with context.database.transaction() as connection:
            armed = connection.exec_driver_sql(
                "SELECT count(*) FROM progress WHERE account_id = %(account)s AND deadline IS NOT NULL",
                {"account": account_id},
            ).scalar_one()
        if armed == 0:
            return
        time.sleep(0.1)
    raise AssertionError("deadlines are still armed")
