"""What actions check in common about the fields that an author wrote: known names, texts, templates, literal values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from app.actions.templates.render import Text, check_texts, is_text
from app.core.addresses import read_email

Mistakes = list[tuple[str, str]]


def text_schema(told: str, *, least: int = 1) -> dict[str, Any]:
    """The JSON Schema of a text that is rendered: Liquid of at least so many characters, or Mustache."""
    liquid = {"type": "string", **({"minLength": least} if least else {})}
    return {"anyOf": [liquid, {"$ref": "#/definitions/mustache"}], "description": told}


def check_names(fields: Mapping[str, Any], action: str, known: Sequence[str], path: str) -> Mistakes:
    """The names that the action does not know."""
    return [(f"{path}.{name}", f"is unknown; {action} has {', '.join(known)}") for name in fields if name not in known]


def check_text(value: Any, path: str, told: str, *, read: Callable[[str], object] | None = None) -> Mistakes:
    """A field that has to be there: a text, its templates right, and, without templates, one that `read` takes.

    `told` says what it is; `read` raises ValueError with what is wrong.
    """
    if value is None:
        return [(path, f"is missing: {told}")]
    if not is_text(value):
        return [(path, f"has to be text: {told}")]
    if is_blank(value):
        return [(path, f"is empty: {told}")]
    errors = check_texts(value, path)
    if not errors and read is not None and isinstance(value, str) and not has_template(value):
        try:
            read(value)
        except ValueError as exc:
            errors.append((path, str(exc)))
    return errors


def check_addresses(value: Any, path: str, most: int) -> Mistakes:
    """A field that has to be there: an e-mail address, or a list of up to `most` of them."""
    if not isinstance(value, list):
        return check_text(value, path, "an e-mail address, or a list of them", read=read_email)
    if not 1 <= len(value) <= most:
        return [(path, f"has to have 1 to {most} addresses")]
    return [
        mistake
        for index, member in enumerate(value)
        for mistake in check_text(member, f"{path}[{index}]", "an e-mail address", read=read_email)
    ]


def is_blank(text: Text) -> bool:
    """Whether nothing is written in a text, be it Liquid or Mustache."""
    return not (text if isinstance(text, str) else text["mustache"]).strip()


def has_template(text: str) -> bool:
    """Whether a text is only known once it is rendered."""
    return "{{" in text or "{%" in text


def is_scalar(value: Any) -> bool:
    """Text, or a number that may stand for its text."""
    return is_text(value) or (isinstance(value, int | float) and not isinstance(value, bool))
