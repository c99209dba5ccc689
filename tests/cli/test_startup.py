"""The imports of a command, which determine its start time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.server import clean_environment

ROOT = Path(__file__).resolve().parents[2]
# Large libraries that only servers, workers, migrations or compiled workflows need.
HEAVY = {"aiohttp", "alembic", "cel", "gevent", "gunicorn", "phonenumbers", "prometheus_client", "psutil"}
COMMANDS = ["account list", "event list", "key list", "migrate", "run list", "worker", "workflow check"]


def _flask(*arguments: str, options: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *options, "-m", "flask", "--app", str(ROOT / "wsgi.py"), *arguments],
        cwd=ROOT,
        env=clean_environment(DATABASE_URL="postgresql://nobody@127.0.0.1:1/none"),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_starts_without_the_large_libraries(command: str) -> None:
    done = _flask(*command.split(), "--help", options=("-X", "importtime"))
    assert done.stdout.startswith("Usage: ")
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "flask" in imported
    assert imported & HEAVY == set()


def test_flask_s_own_commands_see_the_routes() -> None:
    assert "/api/v1/cvf-events" in _flask("routes").stdout
