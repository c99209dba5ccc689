"""The action `message`: something for applications that listen to the account's stream of messages.

Fields: `text`, and `data` (an object; each text in it is a template). Goes out as an Outcome whose output has the message's
`id` and `text`. The message is kept in Postgres for 30 days, once, however often the step is tried; docs/cxengage-stream.md
tells who gets it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.actions.context import ActionContext, ActionError
from app.actions.field_checks import Mistakes, check_names, check_text, text_schema
from app.actions.http_request import EXACT_JSON, sendable
from app.actions.templates.render import check_texts, render, render_value
from app.core.models import Outcome
from app.core.unstorable import make_storable, replace_unstorable

FIELDS = ("text", "data")
SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "text": text_schema("what it says; a template"),
        "data": {"type": "object", "description": "what goes along with it; every text in it is a template"},
    },
    "required": ["text"],
    "additionalProperties": False,
    "description": "say something to the applications that listen to the account's stream",
}
# Characters of the text, and of the data as JSON: so that some hundred messages make an answer of bearable size.
LONGEST = 16 * 1024


def check(fields: Any, path: str) -> Mistakes:
    """All that is wrong with the fields."""
    if not isinstance(fields, Mapping):
        return [(path, 'has to be an object such as {text: "{{ distinct_id }} is waiting"}')]
    errors = check_names(fields, "message", FIELDS, path)
    errors += check_text(fields.get("text"), f"{path}.text", "what it says")
    data = fields.get("data", {})
    if not isinstance(data, Mapping):
        return [*errors, (f"{path}.data", 'has to be an object such as {order: "{{ data.order_id }}"}')]
    for name, value in data.items():
        errors += check_texts(value, f"{path}.data.{name}")
    return errors


async def act(fields: Any, context: ActionContext) -> Outcome:
    """Keep the message, unless it has been kept already."""
    text = replace_unstorable(render(fields["text"], context.names))
    if not text.strip():
        raise ActionError("bad_text", "the message is empty")
    data = {
        str(name): make_storable(render_value(value, context.names)) for name, value in fields.get("data", {}).items()
    }
    for told, size in (("text", len(text)), ("data", len(EXACT_JSON.encode(sendable(data))))):
        if size > LONGEST:
            raise ActionError("bad_text", f"the {told} has {size} characters; {LONGEST} are allowed")
    message_id = await context.save_message(text, data)
    return Outcome("done", output={"id": str(message_id), "text": text})
