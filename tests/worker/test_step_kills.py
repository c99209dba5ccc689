"""Workers that are killed before and after they execute and record steps: no effect is lost, no recorded effect is repeated,
and a repeated call has the same idempotency key."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.services import workflows
from app.services.context import AppContext
from tests.support.builders import Sender, a_workflow, an_event
from tests.support.http_target import HttpTarget, an_http_target
from tests.support.killed_processes import POINTS
from tests.support.run_execution import jobs_of, rows_of, the_run

KILLS = 208
STEPS = 3


@pytest.fixture
def worker(context: AppContext) -> Iterator[subprocess.Popen[str]]:
    environment = {
        **os.environ,
        "DATABASE_URL": context.settings.database_url,
        "ENCRYPTION_KEY": ",".join(context.settings.encryption_keys),
        "ALLOWED_PRIVATE_TARGETS": "127.0.0.0/8",
    }
    command = [sys.executable, "-m", "tests.support.killed_processes"]
    root = Path(__file__).resolve().parents[2]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=root
    ) as started:
        yield started
        assert started.stdin is not None
        started.stdin.close()


def _order(worker: subprocess.Popen[str], **order: Any) -> int:
    assert worker.stdin is not None
    assert worker.stdout is not None
    worker.stdin.write(json.dumps(order) + "\n")
    worker.stdin.flush()
    return int(worker.stdout.readline())


def test_no_effect_is_lost_and_no_recorded_one_is_repeated(
    context: AppContext, acme: Sender, worker: subprocess.Popen[str], capsys: pytest.CaptureFixture[str]
) -> None:
    rng = random.Random(11)
    with an_http_target() as server:
        steps = [{"http": {"url": f"{server.url}/{number}"}} for number in range(STEPS)]
        workflows.apply_workflow(context, acme.account_id, a_workflow(steps=steps))
        deaths: Counter[str] = Counter()
        while sum(deaths.values()) < KILLS:
            run = acme.post(an_event()).get_json()["runs"][0]
            deaths += _kill_between_steps(context, acme, worker, run, rng, server)
            assert _order(worker, account=acme.account_id, run=run, job=1, point=None, ordinal=0) == 0
            assert the_run(context, acme.account_id, run)["status"] == "done"
            assert len(rows_of(context, "attempts", acme.account_id, run)) == STEPS
            keys = {call.headers["Idempotency-Key"] for call in server.calls if run in call.headers["Idempotency-Key"]}
            assert keys == {f"{run}-{number}" for number in range(STEPS)}
    with capsys.disabled():
        print(f"\nkilled: {dict(deaths)}; calls: {len(server.calls)}")
    assert set(deaths) == set(POINTS)


def _kill_between_steps(
    context: AppContext,
    acme: Sender,
    worker: subprocess.Popen[str],
    run: str,
    rng: random.Random,
    server: HttpTarget,
) -> Counter[str]:
    """Kill the worker at several points of each step; a recorded step makes no more calls."""
    deaths: Counter[str] = Counter()
    for ordinal in range(STEPS):
        for point in rng.sample(POINTS, k=3):
            died = _order(worker, account=acme.account_id, run=run, job=1, point=point, ordinal=ordinal)
            recorded = the_run(context, acme.account_id, run)["ordinal"]
            frozen = _calls(server, run, recorded)
            assert died == 9
            deaths[point] += 1
            assert all(frozen[number] >= 1 for number in range(recorded)), "a recorded step made no call"
            assert _order(worker, account=acme.account_id, run=run, job=1, point="before step", ordinal=recorded) in (
                9,
                0,
            )
            deaths["before step"] += recorded < STEPS
            assert _calls(server, run, recorded) == frozen, "a recorded step was repeated"
            if recorded > ordinal:
                break
    return deaths


def _calls(server: HttpTarget, run: str, recorded: int) -> dict[int, int]:
    """The number of calls of each recorded step of a run."""
    made = Counter(call.headers["Idempotency-Key"] for call in server.calls)
    return {number: made[f"{run}-{number}"] for number in range(recorded)}


def test_blocks_that_are_killed_at_their_end_advance_their_run_once(
    context: AppContext, acme: Sender, worker: subprocess.Popen[str]
) -> None:
    rng = random.Random(7)
    blocks = [[{"set": {"a": "1"}}], [{"set": {"b": "2"}}]]
    steps = [{"par": blocks}, {"set": {"c": "vars.a + vars.b"}}]
    workflows.apply_workflow(context, acme.account_id, a_workflow(steps=steps))
    for _ in range(4):
        run = acme.post(an_event()).get_json()["runs"][0]
        points = rng.sample(POINTS, k=3)
        assert _order(worker, account=acme.account_id, run=run, job=1, point=points[0], ordinal=0) == 9
        _order(worker, account=acme.account_id, run=run, job=1, point=None, ordinal=0)
        started = _blocks(context, acme, run)
        assert len(started) == 2
        for block, point in zip(started, points[1:], strict=True):
            assert _order(worker, account=acme.account_id, run=block, job=1, point=point, ordinal=0) == 9
        for block in rng.sample(started * 2, k=4):
            assert _order(worker, account=acme.account_id, run=block, job=1, point=None, ordinal=0) == 0
        assert jobs_of(context, run) == [f"{acme.account_id}:{run}:1", f"{acme.account_id}:{run}:2"]
        assert _order(worker, account=acme.account_id, run=run, job=2, point=points[0], ordinal=0) == 9
        assert _order(worker, account=acme.account_id, run=run, job=2, point=None, ordinal=0) == 0
        assert the_run(context, acme.account_id, run)["status"] == "done"
        assert [row["output"] for row in rows_of(context, "steps", acme.account_id, run)] == [None, {"c": 3}]


def _blocks(context: AppContext, acme: Sender, run: str) -> list[str]:
    with context.database.transaction() as connection:
        found = connection.exec_driver_sql(
            "SELECT id FROM runs WHERE account_id = %(account)s AND parent_id = %(run)s ORDER BY id",
            {"account": acme.account_id, "run": run},
        )
        return [str(row[0]) for row in found]
