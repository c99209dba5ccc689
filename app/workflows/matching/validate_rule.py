"""Validates the parts of a workflow document that decide when it starts: the pattern, `key` and `again`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from app.core.durations import read_duration
from app.workflows.expressions.cel_analysis import FilterError
from app.workflows.matching import pattern_parser
from app.workflows.matching.rule import ALWAYS, ONCE, EventView, compile_test

KEY = re.compile(r"distinct_id|phone|data(\.[A-Za-z_][A-Za-z0-9_-]*)+")


def check_pattern(on: Any, path: str = "on") -> list[tuple[str, str]]:
    """Every mistake in a pattern, as (path, message)."""
    return pattern_parser.check(on, _compile_test, path)


def check_leaf(leaf: Any, path: str) -> list[tuple[str, str]]:
    """Every mistake in a leaf of `wait_for` or `exit_on`: the name of an event, or {event, where}."""
    if isinstance(leaf, Mapping) and set(leaf) - {"event", "where"}:
        return [(path, "must be one event: its name, or {event: NAME, where: CEL}")]
    return check_pattern(leaf, path)


def _compile_test(text: str) -> Callable[[EventView], bool]:
    try:
        return compile_test(text)
    except FilterError as exc:
        raise ValueError(str(exc)) from None


def check_key(key: Any, path: str = "key") -> list[tuple[str, str]]:
    """Every mistake in a workflow's `key`."""
    if isinstance(key, str) and KEY.fullmatch(key):
        return []
    return [(path, "must be distinct_id, phone, or a path into data such as data.order_id")]


def check_again(again: Any, path: str = "again") -> list[tuple[str, str]]:
    """Every mistake in a workflow's `again`."""
    if again in (ALWAYS, ONCE):
        return []
    try:
        read_duration(again)
    except ValueError:
        return [(path, f"{again!r} must be always, once, or a duration such as 1d")]
    return []
