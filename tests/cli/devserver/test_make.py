"""The Makefile: its help, its set-up and its refusals. Nothing is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for name in ("Makefile", "requirements.txt", "requirements-dev.txt", "setup.cfg", "setup.py"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def _make(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    foreign = ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "PYTHON")
    environment = {name: value for name, value in os.environ.items() if name not in foreign}
    return subprocess.run(
        ["make", *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False
    )


def _script(checkout: Path, text: str) -> str:
    """A shell script in place of Python."""
    python = checkout / "its-python"
    python.write_text(f"#!/bin/sh\n{text}")
    python.chmod(0o755)
    return "./its-python"


# Creates a .venv with itself as Python; its pip prints a lot, counts its calls, and fails when a file `offline` is there.
TALKATIVE = """
case "$*" in
  *" venv "*) mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
  *" pip "*) seq -f "Collecting package %g" 270; echo pip >>calls; test ! -e offline || { echo "ERROR: no network"; exit 1; } ;;
  -V) echo "Python 3.12.1" ;;
esac
"""


def test_set_up_prints_two_lines_of_its_own_and_needs_no_network_afterwards(checkout: Path) -> None:
    python = _script(checkout, TALKATIVE)
    done = _make(checkout, "setup", f"PYTHON={python}")
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split(" with ")[0].split(" from ")[0] for line in done.stdout.splitlines()] == [
        "Creating .venv",
        "Installing packages",
    ]
    assert "Collecting package 270\n" in (checkout / ".venv" / "install.log").read_text()
    (checkout / "offline").touch()
    calls = (checkout / "calls").read_text()
    done = _make(checkout, "setup", f"PYTHON={python}")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (checkout / "calls").read_text() == calls


def test_a_failing_pip_shows_the_end_of_its_log_and_where_the_log_is(checkout: Path) -> None:
    (checkout / "offline").touch()
    done = _make(checkout, "setup", f"PYTHON={_script(checkout, TALKATIVE)}")
    assert done.returncode != 0
    lines = done.stderr.splitlines()
    assert lines[0] == "pip failed. The end of .venv/install.log:"
    assert "ERROR: no network" in lines
    assert len(lines) < 12
    assert not (checkout / ".venv" / "installed").exists()


def test_help_is_the_default_and_names_every_target(checkout: Path) -> None:
    done = _make(checkout)
    assert done.returncode == 0
    targets = [
        *(
            "help",
            "setup",
            "run",
            "test",
            "check",
            "migrate",
            "worker",
            "screenshots",
            "bench",
            "attack",
            "soak",
            "deploy-check",
            "clean",
        ),
    ]
    assert [line.split()[0] for line in done.stdout.splitlines()[1:]] == targets


def test_a_missing_python_is_reported_in_one_line(checkout: Path) -> None:
    done = _make(checkout, "run", "PYTHON=python9")
    assert done.returncode != 0
    assert done.stderr.splitlines()[0].startswith("python9 not found: install Python 3.11 or newer")


@pytest.mark.parametrize(
    ("failing_command", "line"),
    [
        ("version_info", "Python 3.11 or newer is required, "),
        ("ensurepip", "The Python module venv is missing; on Debian and Ubuntu: apt install python3-venv"),
    ],
)
def test_an_unusable_python_is_reported_in_one_line(checkout: Path, failing_command: str, line: str) -> None:
    python = _script(checkout, f'case "$*" in *{failing_command}*) exit 1;; esac\nexec {sys.executable} "$@"\n')
    done = _make(checkout, "run", f"PYTHON={python}")
    assert done.returncode != 0
    assert done.stderr.splitlines()[0].startswith(line)
    assert len(done.stderr.splitlines()) == 2
    assert not (checkout / ".venv").exists()


def test_clean_keeps_the_data(checkout: Path) -> None:
    for name in (".data/postgres/__pycache__", ".venv/bin", "app/__pycache__", "signalbox.egg-info"):
        (checkout / name).mkdir(parents=True)
    done = _make(checkout, "clean")
    assert done.returncode == 0
    assert "Kept the data in .data" in done.stdout
    assert (checkout / ".data/postgres/__pycache__").exists()
    assert not any((checkout / name).exists() for name in (".venv", "app/__pycache__", "signalbox.egg-info"))
