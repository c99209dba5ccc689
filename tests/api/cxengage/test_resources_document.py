"""The commands in docs/cxengage-resources.md work in sequence and answer as printed."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from app.core.models import SCOPES
from app.services import api_keys
from app.services.context import AppContext
from tests.support.builders import a_sender
from tests.support.server import Server, clean_environment

TEXT = (Path(__file__).resolve().parents[3] / "docs/cxengage-resources.md").read_text("utf-8")
STEPS = re.findall(r"```sh\n(.*?)```.*?```json\n(.*?)```", TEXT, re.DOTALL)
END = "-- end of block --"


@pytest.fixture(scope="module")
def answers(context: AppContext, server: Server, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The output of each block, with the printed names."""
    sender = a_sender(context, server)
    token = api_keys.create_key(context, sender.account_id, "all", SCOPES)
    variables = {"url": f"http://127.0.0.1:{server.port}", "tenant": sender.slug, "access_token": token}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", f"\necho '{END}'\n".join(command for command, _ in STEPS)],
        cwd=tmp_path_factory.mktemp("pasted"),
        env=clean_environment(**variables),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    output = done.stdout.replace(sender.slug, "demo").replace(f"EV{sender.account_id}-", "EV1-")
    return output.split(END)


def in_general(text: str) -> str:
    """The text without parts that differ each time, and without line ends between answers."""
    text = re.sub(r"sb_[0-9A-Za-z]{8}_[0-9A-Za-z_-]{49}", "TOKEN", text)
    text = re.sub(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]{15}Z", "TIMESTAMP", text)
    return re.sub(r"EV1-[0-9]+", "EV1-N", text).replace("\n", "")


@pytest.mark.parametrize(("number", "printed"), list(enumerate(answer for _, answer in STEPS)), ids=range(len(STEPS)))
def test_a_command_answers_as_printed(answers: list[str], number: int, printed: str) -> None:
    assert in_general(answers[number]) == in_general(printed)


def test_the_server_logs_no_token(answers: list[str], server: Server) -> None:
    tokens = set(re.findall(r"sb_[0-9A-Za-z]{8}_[0-9A-Za-z_-]{49}", "".join(answers)))
    assert len(tokens) == 1
    assert not [token for token in tokens if token in server.output()]


def test_each_printed_command_has_its_answer() -> None:
    assert len(STEPS) == TEXT.count("```sh") == TEXT.count("```json") == 16
