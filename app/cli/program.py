"""The program `signalbox`: its name as it was typed, commands to paste, and exit codes."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path

import click

NAME = "signalbox"
# docs/commands.md lists the same codes. click itself uses 1 and 2.
FAILED = 1
UNAVAILABLE = 3
INTERRUPTED = 130


def program_name() -> str:
    """How the running program was called, so that a printed command can be pasted: `signalbox`, the path of that script, or
    `PYTHON -m app.cli`."""
    called = Path(sys.argv[0])
    if called.name == "__main__.py":
        return f"{shlex.quote(_shown(Path(sys.executable)))} -m app.cli"
    found = shutil.which(NAME)
    if called.name != NAME or (found and Path(found).samefile(called)):
        return NAME
    return shlex.quote(_shown(called))


def _shown(path: Path) -> str:
    """The path relative to the current folder, if it is below it."""
    absolute = Path(os.path.abspath(path))
    here = Path.cwd()
    return str(absolute.relative_to(here)) if absolute.is_relative_to(here) else str(absolute)


def paste(*words: object, account: str | None = None) -> str:
    """A command of ours for a shell, in backticks; `account` is the value of its option --account (None: without)."""
    option = () if account is None else ("--account", account)
    return f"`{_typed()} {shlex.join(map(str, (*words, *option)))}`"


def with_program(text: str) -> str:
    """A message that names commands as `signalbox …`, with the program's name as it was typed."""
    return text.replace(f"`{NAME} ", f"`{_typed()} ")


def _typed() -> str:
    """The program's name; `signalbox` when another program, such as `flask`, runs the command."""
    context = click.get_current_context(silent=True)
    root = context.find_root() if context else None
    return str(root.info_name) if root and root.command.name == NAME else NAME
