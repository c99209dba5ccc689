"""Is this document a workflow? Checks all its parts: the pattern belongs to `match`, the steps belong to `act`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any
from uuid import UUID

from app.workflows import step_graph, validate_steps
from app.workflows.matching.pattern_ast import ANY_NAME, Pattern
from app.workflows.matching.pattern_parser import MAX_REFERENCES, PatternError, compile_pattern
from app.workflows.matching.progress_bound import find_busiest_name
from app.workflows.matching.rule import Rule, compile_rule
from app.workflows.matching.validate_rule import check_again, check_key, check_leaf, check_pattern
from app.workflows.yaml_loader import Document, Mistake

FIELDS = ("name", "description", "on", "key", "again", "exit_on", "strict", "steps")
NAME = re.compile(r"[A-Za-z0-9_-]{1,100}")
# No event has a longer name.
MAX_EVENT_NAME = 255


# What a document may have beside what it has to have, and what is wrong with it.
_MAY_HAVE: Mapping[str, Callable[[Any], Iterable[tuple[str, str]]]] = {
    "exit_on": lambda leaf: check_leaf(leaf, "exit_on"),
    "key": check_key,
    "again": check_again,
    "strict": lambda strict: validate_steps.check_strict(strict, "strict"),
}


def check_workflow(document: Document) -> list[Mistake]:
    """All that is wrong with a document, in the order of its lines; empty when it can be enabled."""
    if document.value is None and document.mistakes:
        return document.mistakes
    if not isinstance(document.value, dict):
        return [document.mistake("", "a workflow is an object with the fields name, on and steps")]
    found = [
        document.mistake(path, message) for path, message in _check(document.value) if not document.is_unread(path)
    ]
    found += document.mistakes
    return sorted(found, key=lambda mistake: (mistake.line or 0, mistake.column or 0))


def _check(document: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    for name in document:
        if name not in FIELDS:
            yield name, f"is unknown; a workflow has the fields {', '.join(FIELDS)}"
    called = document.get("name")
    if not isinstance(called, str) or not NAME.fullmatch(called):
        yield "name", "has to be 1 to 100 letters, digits, - and _" if "name" in document else "is missing"
    if not isinstance(document.get("description", ""), str):
        yield "description", "has to be text"
    if "on" in document:
        yield from check_pattern(document["on"])
    else:
        yield "on", "is missing: what has to happen, at its simplest the name of an event"
    for name, check in _MAY_HAVE.items():
        if name in document:
            yield from check(document[name])
    if "steps" in document:
        yield from validate_steps.check(document["steps"], check_leaf)
    else:
        yield "steps", "is missing: what is to be done"


def awaited_names(document: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of the events that runs of a checked document may wait for or end by."""
    leaves = step_graph.leaves_awaited(document)
    return tuple(sorted({leaf if isinstance(leaf, str) else leaf["event"] for leaf in leaves}))


def trigger_names(document: Mapping[str, Any]) -> tuple[str, ...]:
    """The event names that a checked document's pattern looks at; `*` alone: any name."""
    return tuple(sorted(name for name in _pattern(document["on"]).triggers if len(name) <= MAX_EVENT_NAME))


def check_together(document: Document, find_others: Callable[[], Iterable[Any]]) -> list[Mistake]:
    """What is wrong with a checked document beside other patterns that look at the same events: what one event may cost
    is bounded for all of them together as it is for each. `find_others` is asked where the document has any weight."""
    own = _pattern(document.value["on"])
    if own.bound.references == 0:
        return []
    most, name = find_busiest_name([own, *_patterns(find_others())], own.names)
    if most <= MAX_REFERENCES:
        return []
    return [
        document.mistake(
            "on",
            f"may have to remember {own.bound.references:,} events per subject, and all enabled workflows that look at "
            f"{'all events' if name == ANY_NAME else repr(name)} together {most:,}, more than {MAX_REFERENCES:,}: lower "
            "the counts, or disable one",
        )
    ]


def _patterns(found: Iterable[Any]) -> Iterator[Pattern]:
    for on in found:
        # One that another release has saved and this one cannot compile looks at nothing.
        with suppress(PatternError):
            yield _pattern(on)


def _pattern(on: Any) -> Pattern:
    """Only its size counts here: what its filters say does not."""
    return compile_pattern(on, lambda text: lambda event: True)


def as_kept(document: Mapping[str, Any]) -> dict[str, Any]:
    """A document as it goes into Postgres, with whatever mistakes it has."""
    return {name: step_graph.in_order(part) if name == "steps" else part for name, part in document.items()}


def compile_stored(name: str, document: Mapping[str, Any]) -> Rule:
    """A stored document, ready to match; for looking at it only."""
    return compile_rule(UUID(int=0), name, 0, document)
