"""The Makefile where it has to say no, and where it says what there is; nothing is installed."""

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


def test_help_is_the_default_and_names_every_target(checkout: Path) -> None:
    done = _make(checkout)
    assert done.returncode == 0
    targets = ["help", "setup", "run", "test", "check", "migrate", "worker", "bench", "clean"]
    assert [line.split()[0] for line in done.stdout.splitlines()[1:]] == targets


def test_a_python_that_is_not_there_is_one_line(checkout: Path) -> None:
    done = _make(checkout, "run", "PYTHON=python9")
    assert done.returncode != 0
    assert done.stderr.splitlines()[0].startswith("python9 is not there: install Python 3.11 or newer")


@pytest.mark.parametrize(
    ("asked", "line"),
    [
        ("version_info", "Python 3.11 or newer is needed, "),
        ("ensurepip", "Python's module venv is missing; on Debian and Ubuntu: apt install python3-venv"),
    ],
)
def test_a_python_that_will_not_do_is_one_line(checkout: Path, asked: str, line: str) -> None:
    python = checkout / "its-python"
    python.write_text(f'#!/bin/sh\ncase "$*" in *{asked}*) exit 1;; esac\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    done = _make(checkout, "run", "PYTHON=./its-python")
    assert done.returncode != 0
    assert done.stderr.splitlines()[0].startswith(line)
    assert len(done.stderr.splitlines()) == 2
    assert not (checkout / ".venv").exists()


def test_clean_leaves_the_data(checkout: Path) -> None:
    for name in (".data/postgres/__pycache__", ".venv/bin", "app/__pycache__", "signalbox.egg-info"):
        (checkout / name).mkdir(parents=True)
    done = _make(checkout, "clean")
    assert done.returncode == 0
    assert "The data in .data stay" in done.stdout
    assert (checkout / ".data/postgres/__pycache__").exists()
    assert not any((checkout / name).exists() for name in (".venv", "app/__pycache__", "signalbox.egg-info"))
