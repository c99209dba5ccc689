"""The program `signalbox`: its name as it was typed, commands to paste, and exit codes."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from functools import partial
from pathlib import Path

import click

NAME = "signalbox"
# The groups whose commands have the option --account.
_OF_AN_ACCOUNT = frozenset(
    {"delivery", "event", "integration", "refusal", "run", "secret", "source", "target", "workflow"}
)
# docs/commands.md lists the same codes. click itself uses 1 and 2.
UNAVAILABLE = 3
INTERRUPTED = 130
# Errors of runs name no commands, since the console and the API show them, too: the command that does what they say.
_REMEDIES = {
    "integration set": re.compile(r"the account has no (\w+) integration: set it up"),
    "secret set": re.compile(r"the account has no secret (\w+): set it"),
    "target enable": re.compile(r"([^\s`]+) is disabled \([^()`]*\): enable this target to send requests to it again"),
}


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


def paste(*words: object) -> str:
    """A command of ours for a shell, in backticks, with the --account of the running command."""
    return with_program(f"`{NAME} {shlex.join(map(str, words))}`")


def with_program(text: str, account: str | None = None) -> str:
    """A message that names commands as `signalbox …` in backticks, with the program's name as it was typed, and with --account:
    the given one, or that of the running command."""
    context = click.get_current_context(silent=True)
    root = context.find_root() if context else None
    # Another program, such as `flask`, may run the command.
    name = str(root.info_name) if root and root.command.name == NAME else NAME
    account = account or _account(context)

    def complete(command: re.Match[str]) -> str:
        option = f" --account {shlex.quote(account)}" if account and command[1].split()[0] in _OF_AN_ACCOUNT else ""
        return f"`{name} {command[1]}{option}`"

    return re.sub(rf"`{NAME} (\w[^`]*)`", complete, text)


def with_remedies(text: str, account: str | None = None) -> str:
    """A text with errors of runs, with the commands that set right what they say; then as `with_program`."""

    def advise(words: str, error: re.Match[str]) -> str:
        return f"{error[0]} (`{NAME} {words} {shlex.quote(error[1])}`)"

    for words, error in _REMEDIES.items():
        text = error.sub(partial(advise, words), text)
    return with_program(text, account)


def _account(context: click.Context | None) -> str:
    """The value of the running command's option --account; empty without one."""
    if context is None or not any("--account" in parameter.opts for parameter in context.command.params):
        return ""
    return context.params.get("account") or ""
