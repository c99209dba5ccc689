"""The tasks of docs/api.md work as they are written."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

from flask import Flask

from app.services.context import AppContext
from tests.support.builders import an_event
from tests.support.management import Manager, served
from tests.support.server import clean_environment

PAGE = Path(__file__).resolve().parents[3] / "docs" / "api.md"
TASKS = re.findall(r"```sh\n(.*?)```", PAGE.read_text("utf-8").partition("## Five tasks")[2], re.DOTALL)


def run(task: str, url: str, token: str) -> list[Any]:
    """The answers that a task prints."""
    environment = clean_environment(url=url, token=token)
    done = subprocess.run(["bash", "-euc", task], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    decoder, answers, rest = json.JSONDecoder(), [], done.stdout.strip()
    while rest:
        answer, end = decoder.raw_decode(rest)
        answers.append(answer)
        rest = rest[end:].strip()
    return answers


def test_the_five_tasks_work(app: Flask, context: AppContext, manager: Manager) -> None:
    assert len(TASKS) == 5
    with served(app) as url:
        checked, created = run(TASKS[0], url, manager.token)
        assert (checked["mistakes"], created["enabled_version"]) == ([], 1)
        (changed,) = run(TASKS[1], url, manager.token)
        assert (changed["latest_version"], changed["enabled_version"]) == (2, 2)
        manager.sender.post(an_event(event="signed_up"))
        (event,) = run(TASKS[2], url, manager.token)
        assert [(one["workflow"], one["started"]) for one in event["decisions"]] == [("greet", True)]
        failed, retried = run(TASKS[3], url, manager.token)
        assert (failed["items"], retried["changed"]) == ([], False)
        (key,) = run(TASKS[4], url, manager.token)
        assert (key["name"], key["scopes"]) == ("partner", ["events:write"])
