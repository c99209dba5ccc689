"""The action `message`: a message for the applications that read the account's message stream (docs/cxengage-stream.md).

Fields: `text`, and `data` (an object; each text in it is a template). Output: the message's `id` and `text`. The message is
stored once, however often the step is attempted, and kept for RETENTION.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from app.actions.action_context import ActionContext, ActionError
from app.actions.field_checks import FieldErrors, check_names, check_text, text_schema
from app.actions.http_request import EXACT_JSON, encodable
from app.actions.templates.render import check_texts, render, render_value
from app.core.exact_json import make_storable, replace_unstorable
from app.core.models import Outcome

FIELDS = ("text", "data")
SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "text": text_schema("the text; a template"),
        "data": {"type": "object", "description": "further data; every text in it is a template"},
    },
    "required": ["text"],
    "additionalProperties": False,
    "description": "send a message to the applications that read the account's message stream",
}
# Characters of the text, and of the data as JSON. A response of the stream contains hundreds of messages.
MAX_CHARS = 16 * 1024


def check(fields: Any, path: str) -> FieldErrors:
    """Errors of the text and of `data`."""
    if not isinstance(fields, Mapping):
        return [(path, 'must be an object such as {text: "{{ distinct_id }} is waiting"}')]
    errors = check_names(fields, "message", FIELDS, path)
    errors += check_text(fields.get("text"), f"{path}.text", "the text of the message")
    data = fields.get("data", {})
    if not isinstance(data, Mapping):
        return [*errors, (f"{path}.data", 'must be an object such as {order: "{{ data.order_id }}"}')]
    for name, value in data.items():
        errors += check_texts(value, f"{path}.data.{name}")
    return errors


async def act(fields: Any, context: ActionContext) -> Outcome:
    """Store the message, unless an earlier attempt has."""
    text, data = await context.compose(_compose, fields, context)
    message_id = await context.save_message(text, data)
    return Outcome("done", output={"id": str(message_id), "text": text})


def preview(fields: Any, context: ActionContext) -> Outcome:
    """The message, which is not stored."""
    text, data = _compose(fields, context)
    return Outcome("done", output={"id": str(UUID(int=0)), "text": text}, request={"text": text, "data": data})


def _compose(fields: Mapping[str, Any], context: ActionContext) -> tuple[str, dict[str, Any]]:
    """The text and the data; raises ActionError and TemplateError."""
    text = replace_unstorable(render(fields["text"], context.names))
    if not text.strip():
        raise ActionError("bad_text", "the message is empty")
    data = {
        str(name): make_storable(render_value(value, context.names)) for name, value in fields.get("data", {}).items()
    }
    for name, size in (("text", len(text)), ("data", len(EXACT_JSON.encode(encodable(data))))):
        if size > MAX_CHARS:
            raise ActionError("bad_text", f"the {name} has {size} characters; {MAX_CHARS} are allowed")
    return text, data
