"""The process in which jobs are executed alone: one job after the other, within a limit of memory, until its worker ends."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.services import workflows
from app.services.context import AppContext
from app.worker.isolated_process import MAX_MEMORY
from app.worker.isolation import COMMAND
from tests.support.builders import Sender, a_workflow, an_event
from tests.support.run_execution import the_run

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def child(context: AppContext) -> Iterator[subprocess.Popen[str]]:
    environment = {
        **os.environ,
        "DATABASE_URL": context.settings.database_url,
        "ENCRYPTION_KEY": ",".join(context.settings.encryption_keys),
        "LOG_LEVEL": "error",
    }
    with subprocess.Popen(
        COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT
    ) as started:
        assert _answer(started) == {}
        yield started
        started.kill()


def _answer(child: subprocess.Popen[str]) -> Any:
    assert child.stdout is not None
    return json.loads(child.stdout.readline())


def _execute(child: subprocess.Popen[str], payload: str) -> Any:
    assert child.stdin is not None
    child.stdin.write(json.dumps({"kind": "run", "payload": payload}) + "\n")
    child.stdin.flush()
    return _answer(child)


def test_it_executes_runs(context: AppContext, acme: Sender, child: subprocess.Popen[str]) -> None:
    workflows.apply_workflow(context, acme.account_id, a_workflow(steps=[{"log": "x"}]))
    for _ in range(2):
        run = acme.post(an_event()).get_json()["runs"][0]
        assert _execute(child, f"{acme.account_id}:{run}:1") == {"is_over": True}
        assert the_run(context, acme.account_id, run)["status"] == "done"


def test_it_survives_the_signals_that_stop_its_worker(child: subprocess.Popen[str]) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        child.send_signal(number)
    assert _execute(child, "no job") == {"is_over": True}


def test_it_ends_with_its_worker(child: subprocess.Popen[str]) -> None:
    assert child.stdin is not None
    child.stdin.close()
    assert child.wait(10) == 0


def test_its_memory_is_limited(context: AppContext, child: subprocess.Popen[str]) -> None:
    limits = Path(f"/proc/{child.pid}/limits").read_text()
    found = re.search(r"^Max data size +(\d+)", limits, re.MULTILINE)
    assert found is not None
    assert MAX_MEMORY <= int(found[1]) <= 2 * MAX_MEMORY
