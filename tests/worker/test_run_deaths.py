"""Runs that kill their worker process, executed by real workers: they fail by themselves, and no other run does.

A run kills its process by a call to a server that kills the calling process (SIGKILL), as an out-of-memory killer would.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil
import pytest
from cryptography.fernet import Fernet

from app import create_app
from app.cli.run_report import run_lines
from app.core import config
from app.services import inspection, workflows
from app.services.context import AppContext
from app.services.runs import retry_runs
from tests.support.builders import Sender, a_sender, a_workflow, an_event
from tests.support.http_target import Call, HttpTarget, an_http_target
from tests.support.own_postgres import an_own_postgres
from tests.support.run_execution import rows_of, the_run

TIMEOUT = 90.0
ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Workers:
    """One worker process at a time: when it dies, the next one starts at once. `deaths` counts those that were killed."""

    environment: dict[str, str]
    deaths: int = 0
    process: subprocess.Popen[bytes] | None = None
    _stop: threading.Event = field(default_factory=threading.Event)

    def start(self) -> None:
        command = [sys.executable, "-m", "app.cli", "worker"]
        self.process = subprocess.Popen(command, env=self.environment, cwd=ROOT)

    def restart_when_killed(self) -> None:
        while not self._stop.wait(0.05):
            assert self.process is not None
            if self.process.poll() is not None:
                self.deaths += 1
                self.start()

    @contextmanager
    def running(self) -> Iterator[None]:
        self._stop.clear()
        self.start()
        watching = threading.Thread(target=self.restart_when_killed)
        watching.start()
        try:
            yield
        finally:
            self._stop.set()
            watching.join()
            assert self.process is not None
            self.process.kill()
            self.process.wait()


@dataclass
class Stage:
    """A database of its own, an account, and a server that kills those who call a path that contains `poison`."""

    context: AppContext
    sender: Sender
    server: HttpTarget
    workers: Workers

    def start_runs(self, name: str, path: str, count: int = 1, **step: Any) -> list[str]:
        """Runs of a workflow of this name, each of which calls `path`."""
        steps = [{"http": {"url": self.server.url + path}, "timeout": "60s", **step}]
        workflows.apply_workflow(self.context, self.sender.account_id, a_workflow(name=name, on=name, steps=steps))
        return [self.sender.post(an_event(event=name)).get_json()["runs"][0] for _ in range(count)]

    def until_ended(self, *runs: str) -> list[str]:
        """The statuses of the runs when none of them is running."""
        deadline = time.monotonic() + TIMEOUT
        while "running" in (statuses := [self.row(run)["status"] for run in runs]):
            assert time.monotonic() < deadline, (statuses, self.query("SELECT * FROM jobs"))
            time.sleep(0.1)
        return statuses

    def row(self, run: str) -> dict[str, Any]:
        return the_run(self.context, self.sender.account_id, run)

    def query(self, statement: str) -> list[Any]:
        with self.context.database.transaction() as connection:
            return [tuple(row) for row in connection.exec_driver_sql(statement)]


def _kill_caller(call: Call) -> None:
    if "poison" not in call.path:
        if "slow" in call.path:
            time.sleep(0.5)
        return
    for connection in psutil.net_connections("tcp4"):
        if connection.laddr and connection.laddr[1] == call.client_port and connection.pid:
            with suppress(ProcessLookupError):
                os.kill(connection.pid, signal.SIGKILL)


@pytest.fixture
def stage() -> Iterator[Stage]:
    with ExitStack() as stack:
        postgres = stack.enter_context(an_own_postgres())
        environment = {
            **os.environ,
            "DATABASE_URL": postgres.url,
            "ENCRYPTION_KEY": Fernet.generate_key().decode(),
            "ALLOWED_PRIVATE_TARGETS": "127.0.0.0/8",
            "HEARTBEAT_TIMEOUT": "2",
            "LOG_LEVEL": "error",
        }
        app = create_app(config.from_environment(environment))
        context: AppContext = app.extensions["context"]
        stack.callback(context.database.close)
        server = stack.enter_context(an_http_target())
        server.before_answer = _kill_caller
        yield Stage(context, a_sender(context, app.test_client()), server, Workers(environment))


def test_a_run_that_kills_its_worker_fails_and_the_others_do_not(stage: Stage) -> None:
    (poison,) = stage.start_runs("poison", "/poison", retry={"attempts": 1})
    others = stage.start_runs("other", "/slow", 5)
    with stage.workers.running():
        assert stage.until_ended(poison, *others) == ["failed"] + ["done"] * 5
        row = stage.row(poison)
        # It is executed alone at once when it is retried.
        stage.server.before_answer = lambda call: None
        retry_runs(stage.context, stage.sender.account_id, [UUID(poison)])
        assert stage.until_ended(poison) == ["done"]
    assert stage.workers.deaths == 2
    assert row["error"] == (
        "steps[0] (http): its worker died 2 times while it was executed with other runs, and 3 times while it was executed alone"
    )
    assert sum(call.path == "/poison" for call in stage.server.calls) == 2 + 3 + 1
    assert len({call.headers["Idempotency-Key"] for call in stage.server.calls if call.path == "/poison"}) == 1
    attempts = rows_of(stage.context, "attempts", stage.sender.account_id, poison)
    assert [(attempt["outcome"], attempt["error_class"]) for attempt in attempts] == [
        ("failed", "worker_died"),
        ("done", None),
    ]
    details = inspection.find_run_details(stage.context, stage.sender.account_id, UUID(poison))
    assert details is not None
    assert "its worker died 2 times" in "\n".join(run_lines(details, stage.context.clock()))


def test_many_runs_of_one_workflow_kill_few_workers(stage: Stage) -> None:
    """A worker of four slots would die twenty times if each of forty runs had to be there at two deaths."""
    stage.workers.environment["WORKER_CONCURRENCY"] = "4"
    stage.start_runs("poison", "/poison", 40)
    others = stage.start_runs("other", "/other", 5)
    with stage.workers.running():
        assert stage.until_ended(*others) == ["done"] * 5
        deadline = time.monotonic() + TIMEOUT
        while not stage.query("SELECT FROM workflows WHERE isolated_until > now()"):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        deaths = stage.workers.deaths
        calls = len(stage.server.calls)
        while len(stage.server.calls) < calls + 2:
            assert time.monotonic() < deadline
            time.sleep(0.1)
    # At most one more: a worker may have claimed some runs just before.
    assert stage.workers.deaths <= deaths + 1
    assert deaths <= 3


def test_a_worker_that_is_stopped_and_then_killed_was_not_killed_by_its_runs(stage: Stage) -> None:
    arrived, answered = threading.Semaphore(0), threading.Event()

    def hold(_: Call) -> None:
        arrived.release()
        answered.wait(60)

    stage.server.before_answer = hold
    (run,) = stage.start_runs("slow", "/hold")
    stage.workers.start()
    assert stage.workers.process is not None
    assert arrived.acquire(timeout=30)
    stage.workers.process.terminate()
    deadline = time.monotonic() + 20
    while stage.query("SELECT claim FROM jobs WHERE kind = 'run'") != [("stopping",)]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    stage.workers.process.kill()
    stage.workers.process.wait()
    with stage.workers.running():
        assert arrived.acquire(timeout=30)
        assert stage.query("SELECT dead_workers, claim FROM jobs WHERE kind = 'run'") == [([], None)]
        answered.set()
        assert stage.until_ended(run) == ["done"]
    assert stage.query("SELECT dead_workers, isolated_until FROM workflows") == [([], None)]
