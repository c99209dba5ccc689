"""Workflow and source documents in files: reading them, and printing their errors."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NoReturn

import click

from app.cli.terminal_text import visible
from app.workflows.validate import find_mistakes
from app.workflows.yaml_loader import InvalidDocument, Mistake

existing_file = click.Path(exists=True, dir_okay=False, path_type=Path)
files_argument = click.argument("files", nargs=-1, required=True, type=existing_file)


def read_source(file: Path) -> str:
    """The text of a document. Raises InvalidDocument when it is not UTF-8."""
    raw = file.read_bytes()
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        raise InvalidDocument(find_mistakes(raw)) from None


def error_line(file: str, mistake: Mistake) -> str:
    """`cart.yaml:5:10: on.where: …`, the format of compilers, which editors understand."""
    position = f":{mistake.line}:{mistake.column}" if mistake.line else ""
    path = f"{mistake.path}: " if mistake.path else ""
    return visible(f"{file}{position}: {path}{mistake.message}")


def print_errors(found: Iterable[tuple[Path | str, Mistake]], *, err: bool = True) -> None:
    """Print each error on a line of its own, as `error_line` formats it."""
    for file, mistake in found:
        click.echo(error_line(str(file), mistake), err=err)


def print_check(
    files: Sequence[Path],
    found: Sequence[tuple[Path, Mistake]],
    *,
    as_json: bool,
    is_named: bool,
    valid: Callable[[Path], str],
) -> NoReturn:
    """Print the errors of files, and what `valid` says of those without any; as JSON, each has its file if `is_named`. Ends the
    command: the exit code is 1 if there are errors."""
    if as_json:
        named = [({"file": str(file)} if is_named else {}) | asdict(mistake) for file, mistake in found]
        click.echo(json.dumps(named, indent=2))
    else:
        print_errors(found, err=False)
        invalid = {file for file, _ in found}
        for file in files:
            if file not in invalid:
                click.echo(f"{visible(file)}: {valid(file)}")
    sys.exit(1 if found else 0)
