"""What actions check in common about the fields that an author wrote: known names, texts, templates, literal values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from app.act.template import check_texts

Mistakes = list[tuple[str, str]]


def check_names(fields: Mapping[str, Any], action: str, known: Sequence[str], path: str) -> Mistakes:
    """The names that the action does not know."""
    return [(f"{path}.{name}", f"is unknown; {action} has {', '.join(known)}") for name in fields if name not in known]


def check_text(value: Any, path: str, told: str, *, read: Callable[[str], object] | None = None) -> Mistakes:
    """A field that has to be there: a text, its templates right, and, without templates, one that `read` takes.

    `told` says what it is; `read` raises ValueError with what is wrong.
    """
    if value is None:
        return [(path, f"is missing: {told}")]
    if not isinstance(value, str):
        return [(path, f"has to be text: {told}")]
    if not value.strip():
        return [(path, f"is empty: {told}")]
    errors = check_texts(value, path)
    if not errors and read is not None and not has_template(value):
        try:
            read(value)
        except ValueError as wrong:
            errors.append((path, str(wrong)))
    return errors


def has_template(text: str) -> bool:
    """Whether a text is only known once it is rendered."""
    return "{{" in text or "{%" in text


def is_scalar(value: Any) -> bool:
    """Text, or a number that may stand for its text."""
    return isinstance(value, str | int | float) and not isinstance(value, bool)
