"""Limits of what all enabled workflows of an account may be together: every process that receives its events compiles them, and
those that no index finds are evaluated for each event of their names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from app.workflows.expressions.cel_analysis import FilterError, find_comparisons
from app.workflows.matching.pattern_ast import ANY_NAME
from app.workflows.matching.predicate_index import is_indexable
from app.workflows.matching.rule import ALWAYS
from app.workflows.yaml_loader import Document, Mistake

MAX_ENABLED = 10_000
# Of the filters of patterns. A compiled filter takes about 80 bytes for each character, and 5 kB.
MAX_FILTER_CHARACTERS = 1_000_000
# Event names, filters and durations in patterns. A filter takes 0.1 ms to compile, each event of a pattern about 2 kB.
MAX_TEXTS = 50_000
# For one event name. An evaluation takes about 150 units of the 200,000 that an event has, or more.
MAX_EVALUATED = 1_000


def check_size(document: Document, others: int, characters: int, texts: int) -> list[Mistake]:
    """Whether a document may be enabled together with `others` workflows, whose filters have so many `characters`, and whose
    patterns have so many `texts`."""
    if others >= MAX_ENABLED:
        return [document.mistake("on", f"{others:,} workflows of the account are enabled, the limit: disable one")]
    texts += _count_texts(document.value["on"])
    if texts > MAX_TEXTS:
        return [
            document.mistake(
                "on",
                f"the patterns of all enabled workflows would have {texts:,} event names, filters and durations, more than "
                f"{MAX_TEXTS:,}: disable a workflow",
            )
        ]
    total = characters + _count_characters(document.value["on"])
    if total <= MAX_FILTER_CHARACTERS:
        return []
    return [
        document.mistake(
            "on",
            f"the filters of all enabled workflows would have {total:,} characters, more than {MAX_FILTER_CHARACTERS:,}: "
            "shorten them, or disable a workflow",
        )
    ]


def check_evaluated(document: Document, name: str, others: Iterable[tuple[Any, Any]]) -> list[Mistake]:
    """Whether a document that needs evaluation may be enabled together with `others` (their `on` and `again`), which look at
    events of the same name."""
    paths: set[str] = set()
    evaluated = 0
    for on, again in others:
        path = find_indexed_path(on, again)
        if path is None:
            evaluated += 1
        else:
            paths.add(path)
    # Each index is looked into for each event.
    if evaluated + len(paths) < MAX_EVALUATED:
        return []
    events = "every event" if name == ANY_NAME else f"every event {name!r}"
    return [
        document.mistake(
            "on",
            f"{evaluated + len(paths):,} enabled workflows are evaluated for {events}, the limit: let the filter begin with "
            'a field that is compared with a constant (data.kind == "a" && …), by which an index finds the workflow, or '
            "disable one",
        )
    ]


def find_indexed_path(on: Any, again: Any) -> str | None:
    """The path by which a predicate index may find a workflow; None for one that is evaluated for each event of its names."""
    where = on.get("where") if isinstance(on, Mapping) and "event" in on else None
    if where is None or again not in (None, ALWAYS):
        return None
    try:
        comparisons = find_comparisons(where)
    except FilterError:
        return None
    return next((comparison.path for comparison in comparisons if is_indexable(comparison)), None)


def _count_texts(on: Any) -> int:
    if isinstance(on, Mapping | list):
        return sum(map(_count_texts, on.values() if isinstance(on, Mapping) else on))
    return isinstance(on, str)


def _count_characters(on: Any) -> int:
    if isinstance(on, Mapping):
        own = len(on["where"]) if isinstance(on.get("where"), str) else 0
        return own + sum(_count_characters(member) for member in on.values())
    return sum(map(_count_characters, on)) if isinstance(on, list) else 0
