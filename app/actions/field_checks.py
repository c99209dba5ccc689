"""Checks of the fields of actions: known names, texts, templates, literal values. Rendering of checked fields."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from app.actions.action_context import ActionContext, ActionError
from app.actions.http_request import parse_url
from app.actions.templates.render import Text, check_texts, is_text, render
from app.core.addresses import read_email

T = TypeVar("T")
FieldErrors = list[tuple[str, str]]


def text_schema(description: str, *, min_length: int = 1) -> dict[str, Any]:
    """The JSON Schema of a template: Liquid of at least `min_length` characters, or Mustache."""
    liquid = {"type": "string", **({"minLength": min_length} if min_length else {})}
    return {"anyOf": [liquid, {"$ref": "#/definitions/mustache"}], "description": description}


def check_names(fields: Mapping[str, Any], action: str, known: Sequence[str], path: str) -> FieldErrors:
    """Errors for the names that the action does not have."""
    return [(f"{path}.{name}", f"is unknown; {action} has {', '.join(known)}") for name in fields if name not in known]


def check_text(value: Any, path: str, description: str, *, parse: Callable[[str], object] | None = None) -> FieldErrors:
    """Errors of a required text: wrong templates; if it has none, what `parse` says in a ValueError.

    Messages contain `description`, which says what the field is.
    """
    if value is None:
        return [(path, f"is required: {description}")]
    if not is_text(value):
        return [(path, f"must be text: {description}")]
    if is_blank(value):
        return [(path, f"is empty: {description}")]
    errors = check_texts(value, path)
    constant = constant_text(value)
    if not errors and parse is not None and constant is not None:
        try:
            parse(constant)
        except ValueError as exc:
            errors.append((path, str(exc)))
    return errors


def check_addresses(value: Any, path: str, max_count: int) -> FieldErrors:
    """Errors of a required e-mail address, or a list of up to `max_count` of them."""
    if not isinstance(value, list):
        return check_text(value, path, "an e-mail address, or a list of them", parse=read_email)
    if not 1 <= len(value) <= max_count:
        return [(path, f"must have 1 to {max_count} addresses")]
    return [
        error
        for index, member in enumerate(value)
        for error in check_text(member, f"{path}[{index}]", "an e-mail address", parse=read_email)
    ]


def is_blank(text: Text) -> bool:
    """Whether a Liquid or Mustache text is empty or blank."""
    return not (text if isinstance(text, str) else text["mustache"]).strip()


def constant_text(text: Text) -> str | None:
    """The text of a Liquid or Mustache text without tags, which is always the same; None if it has some."""
    source = text if isinstance(text, str) else text["mustache"]
    return None if "{{" in source or ("{%" in source and source is text) else source


def is_scalar(value: Any) -> bool:
    """Whether a value is a text, or a number in its place."""
    return is_text(value) or (isinstance(value, int | float) and not isinstance(value, bool))


def read_url(text: str) -> str:
    """A URL as it is written, since it may be signed, without white space around it; encoded where it is not ASCII. Raises
    ValueError."""
    try:
        url = parse_url(text)
    except ActionError as exc:
        raise ValueError(str(exc)) from None
    return text.strip() if text.isascii() else str(url)


def render_parsed(
    template: Text, name: str, context: ActionContext, parse: Callable[[str], T], *, error_class: str = "bad_address"
) -> T:
    """What `parse` makes of a rendered text; a ValueError becomes an ActionError with the name of the field."""
    try:
        return parse(render(template, context.names))
    except ValueError as exc:
        raise ActionError(error_class, f"{name}: {exc}") from None
