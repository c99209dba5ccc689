"""`signalbox workflow check` and `schema`, which need neither a database nor settings, and import neither."""

from __future__ import annotations

import json
from pathlib import Path
from uuid import UUID

import click

from app.cli.documents import files_argument, print_check
from app.cli.terminal_text import counted
from app.workflows.json_schema import workflow_schema
from app.workflows.matching.rule import compile_rule
from app.workflows.validate import find_mistakes
from app.workflows.yaml_loader import read_document


@click.command("check")
@files_argument
@click.option("--json", "as_json", is_flag=True, help="A list of {path, message, line, column}, with file for several.")
def check(files: tuple[Path, ...], as_json: bool) -> None:
    """Print all errors in FILES. Needs no database and no settings. The exit code is 1 if there are errors."""
    found = [(file, mistake) for file in files for mistake in find_mistakes(file.read_bytes())]
    print_check(files, found, as_json=as_json, is_named=len(files) > 1, valid=_describe_valid)


def _describe_valid(file: Path) -> str:
    """With the largest match state of the pattern."""
    document = read_document(file.read_text("utf-8")).value
    pattern = compile_rule(UUID(int=0), document["name"], 1, document).pattern
    if pattern.bound.references == 0:
        return "no errors; its pattern keeps no match state"
    size, events = pattern.bound.max_bytes(id_length=36), counted(pattern.bound.references, "event")
    return f"no errors; its match state is at most {events} ({size:,} bytes) per subject"


@click.command("schema")
def schema() -> None:
    """Print the JSON Schema of workflow documents, for editors. It is also in docs/workflow.schema.json."""
    click.echo(json.dumps(workflow_schema(), indent=2, ensure_ascii=False))
