"""Runs with blocks and rounds, executed by real workers that are killed: each run ends once, and none is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet

from app import create_app
from app.core import config
from app.services import workflows
from app.services.context import AppContext
from tests.support.builders import Sender, a_sender, a_workflow, an_event
from tests.support.own_postgres import an_own_postgres
from tests.support.polling import until

RUNS = 25
ROOT = Path(__file__).resolve().parents[2]
# One block waits for an event, one waits for a time, and one repeats a `par`.
STEPS: list[Any] = [
    {
        "par": [
            [{"id": "answer", "wait_for": "answer", "timeout": "1h"}, {"set": {"text": "steps.answer.data.text"}}],
            [{"wait": "1s"}],
            [
                {"set": {"n": "0"}},
                {
                    "repeat": [
                        {"par": [[{"log": "x"}], [{"log": "y"}], [{"log": "z"}]]},
                        {"set": {"n": "inc(vars.n)"}},
                    ],
                    "until": "vars.n == 2",
                },
            ],
        ]
    },
    {"log": "{{ vars.text }} {{ vars.n }}"},
]


def _worker(environment: dict[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "app.cli", "worker"], env=environment, cwd=ROOT)


def _counts(context: AppContext, sender: Sender, question: str) -> list[Any]:
    with context.database.transaction() as connection:
        rows = connection.exec_driver_sql(question, {"account": sender.account_id})
        return [tuple(row) for row in rows]


@pytest.fixture
def database() -> Iterator[str]:
    with an_own_postgres() as postgres:
        yield postgres.url


def test_runs_with_blocks_end_once_when_workers_are_killed(database: str) -> None:
    environment = {
        **os.environ,
        "DATABASE_URL": database,
        "ENCRYPTION_KEY": Fernet.generate_key().decode(),
        "HEARTBEAT_TIMEOUT": "3",
        "LOG_LEVEL": "error",
    }
    app = create_app(config.from_environment(environment))
    context: AppContext = app.extensions["context"]
    with ExitStack() as stack:
        stack.callback(context.database.close)
        workers = [_worker(environment) for _ in range(2)]
        for worker in workers:
            stack.callback(worker.wait)
            stack.callback(worker.terminate)
        sender = a_sender(context, app.test_client())
        workflows.apply_workflow(context, sender.account_id, a_workflow(steps=STEPS))
        for number in range(RUNS):
            assert sender.post(an_event(distinct_id=str(number))).status_code == 200
            answered = an_event(event="answer", distinct_id=str(number), data={"text": str(number)})
            assert sender.post(answered).status_code == 200
        steps = "SELECT FROM steps WHERE account_id = %(account)s"
        until(lambda: _counts(context, sender, steps), lambda rows: len(rows) > 50)
        os.kill(workers[0].pid, signal.SIGKILL)
        running = "SELECT FROM runs WHERE account_id = %(account)s AND status = 'running'"
        until(lambda: not _counts(context, sender, running))
    statuses = (
        "SELECT parent_id IS NULL, status, count(*) FROM runs WHERE account_id = %(account)s GROUP BY 1, 2 ORDER BY 1"
    )
    assert _counts(context, sender, statuses) == [(False, "done", 9 * RUNS), (True, "done", RUNS)]
    texts_sent = (
        "SELECT output ->> 'text', count(*) FROM steps JOIN runs ON runs.id = run_id WHERE steps.account_id = %(account)s "
        "AND parent_id IS NULL AND action = 'log' GROUP BY 1 ORDER BY 1"
    )
    assert sorted(_counts(context, sender, texts_sent)) == sorted((f"{number} 2", 1) for number in range(RUNS))
    context.database.close()
