"""Compiles the texts of a pattern into a validated workflow document."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from app.workflows.cxengage.notation_parser import NotationError, Unexpected
from app.workflows.cxengage.step_builder import StepBuilder
from app.workflows.cxengage.v41_events import EventCompiler
from app.workflows.cxengage.v41_steps import StepCompiler
from app.workflows.cxengage.v42_events import with_key
from app.workflows.cxengage.v42_script import ScriptCompiler
from app.workflows.validate import check_key, check_workflow
from app.workflows.yaml_loader import Document


def compile_pattern(*, when: str, then: str, templates: Mapping[str, str], name: str) -> dict[str, Any]:
    """The document of a 4.1 pattern. `templates` are by name (`TM1`). Raises NotationError."""
    builder = StepBuilder(templates)
    with _errors_in("when"):
        on = EventCompiler(builder.source_map).read(when)
    with _errors_in("then"):
        steps = StepCompiler(builder).read(then)
    document = {"name": name, "on": on, "steps": steps}
    _check(document, builder, {"on": "when", "steps": "then"})
    return document


def compile_script(code: str, *, key: str | None, templates: Mapping[str, str], name: str) -> dict[str, Any]:
    """The document of a 4.2 script, matched per value of the event's field `key` (None: per subject). Other parameters are as
    for `compile_pattern`. Raises NotationError."""
    builder = StepBuilder(templates)
    with _errors_in("key"):
        if key is not None and check_key(f"data.{key}"):
            raise Unexpected(f'expected a key of letters, digits, _ and -, found "{key[:40]}"', 1, 1)
    with _errors_in("code"):
        on, steps = ScriptCompiler(builder).read(code)
    document: dict[str, Any] = {"name": name, "on": on, "steps": steps}
    if key is not None:
        document |= {"on": builder.source_map.replace(on, with_key(on, key)), "key": f"data.{key}"}
    _check(document, builder, {"on": "code", "steps": "code"})
    return document


@contextmanager
def _errors_in(field: str) -> Iterator[None]:
    try:
        yield
    except Unexpected as exc:
        raise NotationError(exc.message, exc.line, exc.column, field) from None
    except RecursionError:
        # The parser limits nesting; this only happens when the caller's own stack is deep.
        raise NotationError("expected fewer nested brackets", 1, 1, field) from None


def _check(document: dict[str, Any], builder: StepBuilder, fields: Mapping[str, str]) -> None:
    """Raises NotationError for errors that only the whole document shows (limits, templates), at their source position.
    The caller checks the name."""
    for mistake in check_workflow(Document(document)):
        part = mistake.path.partition(".")[0].partition("[")[0]
        if part in fields:
            node = builder.source_map.find(document, mistake.path)
            raise NotationError(f"{mistake.path}: {mistake.message}", node.line, node.column, fields[part])
