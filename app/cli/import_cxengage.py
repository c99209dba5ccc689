"""`signalbox workflow import-cxengage`: prints a CxEngage pattern as a workflow document. Needs no database."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from app.cli.documents import error_line, existing_file, read_source
from app.cli.terminal_text import visible
from app.workflows.cxengage import NotationError, compile_pattern, compile_script
from app.workflows.yaml_loader import InvalidDocument, write_document

_FIELDS = ("when", "then", "code")
_MAX_NAME = 100


@dataclass(frozen=True, slots=True)
class _Source:
    """The texts of a pattern by field, and for each the file (and the JSON field) it comes from."""

    name: str
    key: str | None
    texts: Mapping[str, str]
    files: Mapping[str, str]


@click.command("import-cxengage")
@click.argument("file", type=existing_file)
@click.option("--then", "then_file", type=existing_file, help="The `then` of a 4.1 pattern; FILE is its `when`.")
@click.option("--key", help="The event field to match by (4.2). Default: the key of the resource, else the subject.")
@click.option("--name", help="The workflow's name. Default: the resource's name, else the file's.")
@click.option("--template", "templates", multiple=True, metavar="TM1=FILE", help="A message template; may be repeated.")
def import_cxengage(
    file: Path, then_file: Path | None, key: str | None, name: str | None, templates: tuple[str, ...]
) -> None:
    """Print a CxEngage pattern as a workflow document.

    FILE is a pattern resource (JSON with name and when and then, or code and key), a 4.2 script, or, with --then, the
    `when` of a 4.1 pattern.
    """
    text = _read(file)
    source = (
        _resource(file, text) if text.lstrip("\ufeff \t\r\n").startswith(("{", "[")) else _texts(file, text, then_file)
    )
    title = name or source.name
    texts_of_templates = dict(_template(template) for template in templates)
    try:
        document = _compiled(source, key or source.key, texts_of_templates, title)
    except NotationError as exc:
        position = f"{source.files[exc.field]}:{exc.line}:{exc.column}" if exc.field in source.files else exc.field
        raise click.ClickException(visible(f"{position}: {exc.message}")) from None
    click.echo(write_document(document), nl=False)


def _read(file: Path) -> str:
    try:
        return read_source(file)
    except InvalidDocument as exc:
        raise click.ClickException(error_line(str(file), exc.mistakes[0])) from None


def _compiled(source: _Source, key: str | None, templates: Mapping[str, str], title: str) -> dict[str, Any]:
    texts, name = source.texts, _as_name(title)
    if "code" in texts:
        return compile_script(texts["code"], key=key, templates=templates, name=name)
    return compile_pattern(when=texts["when"], then=texts["then"], templates=templates, name=name)


def _texts(file: Path, text: str, then_file: Path | None) -> _Source:
    if then_file is None:
        return _Source(file.stem, None, {"code": text}, {"code": str(file)})
    texts = {"when": text, "then": _read(then_file)}
    return _Source(file.stem, None, texts, {"when": str(file), "then": str(then_file)})


def _resource(file: Path, text: str) -> _Source:
    try:
        resource = json.loads(text.lstrip("\ufeff"))
    except (ValueError, RecursionError) as exc:
        raise click.ClickException(visible(f"{file}: not JSON: {exc}")) from None
    if not isinstance(resource, dict):
        raise click.ClickException(f"{visible(file)}: contains a list; import one pattern at a time")
    texts = {field: resource[field] for field in _FIELDS if resource.get(field) is not None}
    if set(texts) not in ({"code"}, {"when", "then"}):
        raise click.ClickException(f"{visible(file)}: a pattern needs either when and then, or code")
    for field in (*texts, "name", "key"):
        if not isinstance(resource.get(field, ""), str | None):
            raise click.ClickException(f"{visible(file)}: {field} must be text")
    return _Source(
        resource.get("name") or file.stem, resource.get("key"), texts, {field: f"{file}: {field}" for field in texts}
    )


def _as_name(text: str) -> str:
    """A valid workflow name: `Two event echo` becomes `Two-event-echo`."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", text).strip("-")[:_MAX_NAME] or "pattern"


def _template(option: str) -> tuple[str, str]:
    name, equals, file = option.partition("=")
    if not equals or not name or not Path(file).is_file():
        raise click.ClickException(f"{visible(option)}: expected NAME=FILE, such as TM1=hello.mustache")
    return name.removeprefix("+"), _read(Path(file)).rstrip("\n")
