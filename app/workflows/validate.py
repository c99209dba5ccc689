"""Validates a workflow document."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any
from uuid import UUID

from app.actions.field_checks import FieldErrors
from app.core.durations import read_duration
from app.workflows import step_graph, validate_steps
from app.workflows.expressions.cel_check import check_filter
from app.workflows.matching import pattern_parser
from app.workflows.matching.pattern_ast import ANY_NAME, Pattern
from app.workflows.matching.pattern_parser import MAX_REFERENCES, PatternError, compile_pattern
from app.workflows.matching.progress_bound import find_busiest_name
from app.workflows.matching.rule import ALWAYS, ONCE, EventView, Rule, compile_rule, compile_test
from app.workflows.yaml_loader import Document, Mistake, read_bytes

FIELDS = ("name", "description", "on", "key", "again", "exit_on", "strict", "steps")
NAME = re.compile(r"[A-Za-z0-9_-]{1,100}")
# No event has a longer name.
MAX_EVENT_NAME = 255
KEY = re.compile(r"distinct_id|phone|data(\.[A-Za-z_][A-Za-z0-9_-]*)+")


def _compile_checked(text: str) -> Callable[[EventView], bool]:
    check_filter(text)
    return compile_test(text)


def check_leaf(leaf: Any, path: str) -> FieldErrors:
    """Every mistake in a leaf of `wait_for` or `exit_on`: the name of an event, or {event, where}."""
    if isinstance(leaf, Mapping) and set(leaf) - {"event", "where"}:
        return [(path, "must be one event: its name, or {event: NAME, where: CEL}")]
    return pattern_parser.check(leaf, _compile_checked, path)


def check_key(key: Any, path: str = "key") -> FieldErrors:
    """Every mistake in a workflow's `key`."""
    if isinstance(key, str) and KEY.fullmatch(key):
        return []
    return [(path, "must be distinct_id, phone, or a path into data such as data.order_id")]


def check_again(again: Any, path: str = "again") -> FieldErrors:
    """Every mistake in a workflow's `again`."""
    if again in (ALWAYS, ONCE):
        return []
    try:
        read_duration(again)
    except ValueError:
        return [(path, f"{again!r} must be always, once, or a duration such as 1d")]
    return []


# The checks of the optional fields.
_OPTIONAL: Mapping[str, Callable[[Any], Iterable[tuple[str, str]]]] = {
    "exit_on": lambda leaf: check_leaf(leaf, "exit_on"),
    "key": check_key,
    "again": check_again,
    "strict": lambda strict: validate_steps.check_strict(strict, "strict"),
}


def check_workflow(document: Document) -> list[Mistake]:
    """Every mistake in a document, in the order of its lines. A document without mistakes can be enabled."""
    return document.check(_check, otherwise="a workflow must be an object with the fields name, on and steps")


def find_mistakes(raw: bytes) -> list[Mistake]:
    """All mistakes of a document in a file. Needs neither the database nor settings."""
    return check_workflow(read_bytes(raw))


def _check(document: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    for name in document:
        if name not in FIELDS:
            yield name, f"is unknown; a workflow has the fields {', '.join(FIELDS)}"
    workflow = document.get("name")
    if not isinstance(workflow, str) or not NAME.fullmatch(workflow):
        yield "name", "must be 1 to 100 letters, digits, - and _" if "name" in document else "is missing"
    if not isinstance(document.get("description", ""), str):
        yield "description", "must be text"
    if "on" in document:
        yield from pattern_parser.check(document["on"], _compile_checked)
    else:
        yield "on", "is missing: the event or pattern that starts the workflow"
    for name, check in _OPTIONAL.items():
        if name in document:
            yield from check(document[name])
    if "steps" in document:
        yield from validate_steps.check(document["steps"], check_leaf)
    else:
        yield "steps", "is missing: the list of steps"


def awaited_names(document: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of the events that runs of a valid document may wait for or end by."""
    leaves = step_graph.find_awaited_leaves(document)
    return tuple(sorted({leaf if isinstance(leaf, str) else leaf["event"] for leaf in leaves}))


def trigger_names(document: Mapping[str, Any]) -> tuple[str, ...]:
    """The event names that a checked document's pattern looks at; `*` alone: any name."""
    return tuple(sorted(name for name in _pattern(document["on"]).triggers if len(name) <= MAX_EVENT_NAME))


def check_together(document: Document, find_others: Callable[[], Iterable[Any]]) -> list[Mistake]:
    """Check the limit that a valid document shares with all enabled patterns that read the same events: the cost of one
    event is limited for all of them together. `find_others` returns their `on`; it is called only if needed."""
    own = _pattern(document.value["on"])
    if own.bound.references == 0:
        return []
    total, name = find_busiest_name([own, *_patterns(find_others())], own.names)
    if total <= MAX_REFERENCES:
        return []
    return [
        document.mistake(
            "on",
            f"may have to remember {own.bound.references:,} events per subject, and all enabled workflows that read "
            f"{'all events' if name == ANY_NAME else repr(name)} together {total:,}, more than {MAX_REFERENCES:,}: lower "
            "the counts, or disable one",
        )
    ]


def _patterns(documents: Iterable[Any]) -> Iterator[Pattern]:
    for on in documents:
        # A pattern that an older release saved and this one cannot compile reads no event.
        with suppress(PatternError):
            yield _pattern(on)


def _pattern(on: Any) -> Pattern:
    """Compile a pattern without its filters, for its size only."""
    return compile_pattern(on, lambda text: lambda event: True)


def to_stored(document: Mapping[str, Any]) -> dict[str, Any]:
    """A document as it is stored, valid or not."""
    return {name: step_graph.to_stored(part) if name == "steps" else part for name, part in document.items()}


def compile_stored(name: str, document: Mapping[str, Any]) -> Rule:
    """Compile a stored document for inspection."""
    return compile_rule(UUID(int=0), name, 0, document)
