"""The two compilers: from the texts of a pattern to a whole document, checked as every document is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from app.workflows.cxengage.errors import NotationError, Unexpected
from app.workflows.cxengage.parser import Node
from app.workflows.cxengage.step_builder import Workshop
from app.workflows.cxengage.text_fields import verbatim
from app.workflows.cxengage.v41_events import Events41
from app.workflows.cxengage.v41_steps import Steps41
from app.workflows.cxengage.v42_script import Script42
from app.workflows.matching.validate_rule import check_key
from app.workflows.validate import check_workflow
from app.workflows.yaml_loader import Document


def compile_pattern(
    *, when: str, then: str, templates: Mapping[str, str], name: str, title: str | None = None
) -> dict[str, Any]:
    """The document of a pattern of 4.1: `when` is what has to happen, `then` the reaction. `title` is what people call it
    (None: its name), for messages without words of their own. Raises NotationError."""
    workshop = _workshop(templates, name, title)
    with _mistakes_in("when"):
        on = Events41(workshop.places).read(when)
    with _mistakes_in("then"):
        steps = Steps41(workshop).read(then)
    document = {"name": name, "on": on, "steps": steps}
    _check(document, workshop, {"on": "when", "steps": "then"})
    return document


def compile_script(
    code: str, *, key: str | None, templates: Mapping[str, str], name: str, title: str | None = None
) -> dict[str, Any]:
    """The document of a script of 4.2, whose progress is counted per value of the event's field `key` (None: per subject).
    `title` as for `compile_pattern`. Raises NotationError."""
    workshop = _workshop(templates, name, title)
    with _mistakes_in("key"):
        if key is not None and check_key(f"data.{key}"):
            raise Unexpected(f'expected a key of letters, digits, _ and -, found "{key[:40]}"', 1, 1)
    with _mistakes_in("code"):
        on, steps = Script42(workshop).read(code)
    document = {"name": name, "on": on, **({} if key is None else {"key": f"data.{key}"}), "steps": steps}
    _check(document, workshop, {"on": "code", "steps": "code"})
    return document


def _workshop(templates: Mapping[str, str], name: str, title: str | None) -> Workshop:
    return Workshop(templates, (title and verbatim(title)) or name)


@contextmanager
def _mistakes_in(field: str) -> Iterator[None]:
    try:
        yield
    except Unexpected as wrong:
        raise NotationError(wrong.message, wrong.line, wrong.column, field) from None
    except RecursionError:
        # The reader's bound on brackets leaves room enough below any caller of ours; this is for one that stands deeper.
        raise NotationError("expected fewer brackets inside of each other", 1, 1, field) from None


def _check(document: dict[str, Any], workshop: Workshop, fields: Mapping[str, str]) -> None:
    """What only the finished document shows, such as bounds and templates, at the place that it comes from. The name is the
    caller's."""
    for mistake in check_workflow(Document(document)):
        part = mistake.path.partition(".")[0].partition("[")[0]
        if part in fields:
            place: Node = workshop.places.of(document, mistake.path)
            raise NotationError(f"{mistake.path}: {mistake.message}", place.line, place.column, fields[part])
