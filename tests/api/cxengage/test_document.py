"""The commands in docs/cxengage.md work in sequence and answer as printed."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from app.services.context import AppContext
from tests.api.conftest import settings_of
from tests.support.builders import a_sender
from tests.support.server import Server, clean_environment

ROOT = Path(__file__).resolve().parents[3]
TEXT = (ROOT / "docs/cxengage.md").read_text("utf-8")
STEPS = re.findall(r"```sh\n(.*?)```.*?```json\n(.*?)```", TEXT, re.DOTALL)
END = "-- end of block --"


@pytest.fixture(scope="module")
def answers(context: AppContext, server: Server) -> list[str]:
    """The output of each block, with the printed names."""
    sender = a_sender(context, server)
    variables = {"url": f"http://127.0.0.1:{server.port}", "token": sender.token}
    script = f"\necho '{END}'\n".join(command for command, _ in STEPS)
    script = script.replace("tenant=demo", f"tenant={sender.slug}").replace(
        ".venv/bin/signalbox", f"{sys.executable} -m app.cli"
    )
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=ROOT,
        env=clean_environment(**settings_of(context), **variables),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    own = [(sender.slug, "demo"), (f"EV{sender.account_id}-", "EV1-"), (f"SV{sender.account_id}.", "SV1.")]
    output = done.stdout
    for name, printed in own:
        output = output.replace(name, printed)
    return output.split(END)


def in_general(text: str) -> str:
    """The text without parts that differ each time."""
    text = re.sub(r"sbt_[0-9A-Za-z]{12}_[0-9A-Za-z_-]{43}", "TOKEN", text.strip())
    text = re.sub(r"cl_[0-9A-Za-z]{16}", "CLIENT", text)
    return re.sub(r"EV1-[0-9]+", "EV1-N", re.sub(r'"ttl":2[0-9]{6}', '"ttl":N', text))


@pytest.mark.parametrize(("number", "printed"), list(enumerate(answer for _, answer in STEPS)), ids=range(len(STEPS)))
def test_a_command_answers_as_printed(answers: list[str], number: int, printed: str) -> None:
    assert in_general(answers[number]) == in_general(printed)
    assert isinstance(json.loads(answers[number]), dict)


def test_each_printed_command_has_its_answer() -> None:
    assert len(STEPS) == TEXT.count("```sh") == TEXT.count("```json") == 7
