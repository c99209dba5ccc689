"""The fields that the actions `email` and `sendgrid` share: their schema, their checks, and their rendering."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from email.headerregistry import Address
from typing import Any

from app.actions.action_context import ActionContext, ActionError
from app.actions.field_checks import (
    FieldErrors,
    check_addresses,
    check_names,
    check_text,
    render_parsed,
    text_schema,
)
from app.actions.http_request import encodable
from app.actions.templates.render import Text, render
from app.core.addresses import read_email
from app.core.printable import is_printable

MAIL_FIELDS = ("to", "subject", "text", "html", "from")
MAX_RECIPIENTS = 50
_MAX_SUBJECT = 500
_ADDRESS = text_schema("one address")
ADDRESSES: dict[str, Any] = {
    "anyOf": [_ADDRESS, {"type": "array", "items": _ADDRESS, "minItems": 1, "maxItems": MAX_RECIPIENTS}]
}


def mail_schema(description: str, **more: Any) -> dict[str, Any]:
    """The JSON Schema of a mail action; `more` are its further fields."""
    return {
        "type": "object",
        "properties": {
            "to": {**ADDRESSES, "description": "an address, or a list of them; templates"},
            "subject": text_schema("the subject; a template"),
            "text": text_schema("the message as plain text; a template"),
            "html": text_schema("the message as HTML; a template"),
            "from": text_schema("the sender; default: the integration's"),
            **more,
        },
        "required": ["to", "subject"],
        "anyOf": [{"required": ["text"]}, {"required": ["html"]}],
        "additionalProperties": False,
        "description": description,
    }


def check_mail(fields: Any, path: str, action: str, known: Sequence[str]) -> FieldErrors:
    """All errors in the fields of a mail action. The `known` fields beyond MAIL_FIELDS contain addresses."""
    if not isinstance(fields, Mapping):
        return [(path, "must be an object such as {to: sales@example.com, subject: Hello, text: Hello}")]
    errors = check_names(fields, action, known, path)
    errors += check_addresses(fields.get("to"), f"{path}.to", MAX_RECIPIENTS)
    errors += check_text(fields.get("subject"), f"{path}.subject", "the subject")
    for name in known:
        if name in fields and name not in MAIL_FIELDS:
            errors += check_addresses(fields[name], f"{path}.{name}", MAX_RECIPIENTS)
    if "from" in fields:
        errors += check_text(fields["from"], f"{path}.from", "the address of the sender", parse=read_email)
    if "text" not in fields and "html" not in fields:
        errors.append((f"{path}.text", "is required: the message (text, html or both)"))
    for name in ("text", "html"):
        if name in fields:
            errors += check_text(fields[name], f"{path}.{name}", "the message")
    return errors


def render_address(template: Text, name: str, context: ActionContext) -> Address:
    """The address of a rendered text; raises ActionError and TemplateError."""
    return render_parsed(template, name, context, read_email)


def render_addresses(value: Any, name: str, context: ActionContext) -> list[Address]:
    """The addresses of a field with one or a list of them; raises ActionError and TemplateError."""
    if not isinstance(value, list):
        return [render_address(value, name, context)]
    return [render_address(member, f"{name}[{index}]", context) for index, member in enumerate(value)]


def render_subject(template: Text, context: ActionContext) -> str:
    """The subject as one line of printable characters; raises ActionError if it is empty."""
    text = encodable(render(template, context.names))
    subject = " ".join("".join(letter if is_printable(letter) else " " for letter in text).split())[:_MAX_SUBJECT]
    if not subject:
        raise ActionError("bad_text", "the subject is empty")
    return subject


def render_parts(fields: Mapping[str, Any], context: ActionContext) -> list[tuple[str, str]]:
    """The parts of the message as (subtype, text), none empty: plain text first. Raises ActionError if there are none."""
    rendered = [
        (subtype, encodable(render(fields[name], context.names, as_html=name == "html")))
        for name, subtype in (("text", "plain"), ("html", "html"))
        if name in fields
    ]
    parts = [(subtype, text) for subtype, text in rendered if text.strip()]
    if not parts:
        raise ActionError("bad_text", "the message is empty")
    return parts
