"""The action `sms`: a text message by Twilio's Messages API.

Fields: `to` (a phone number), `text`, and `from` (a number, a short code, a sender name, or the id of a messaging service;
default: the integration's). Output: Twilio's response as `body`, such as `{{ steps.ID.body.sid }}`.

https://www.twilio.com/docs/messaging/api/message-resource (requests and responses)

The API has no idempotency keys: a message whose response is lost is sent again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from app.actions.action_context import ActionContext, ActionError
from app.actions.field_checks import FieldErrors, check_names, check_text, render_parsed, text_schema
from app.actions.http_call import preview_call
from app.actions.http_request import Request
from app.actions.integration_kinds import parse_sender
from app.actions.templates.render import render
from app.actions.twilio import call_twilio, twilio_request
from app.core.addresses import read_phone
from app.core.models import Outcome

FIELDS = ("to", "text", "from")
SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "to": text_schema("the phone number of the recipient; a template"),
        "text": text_schema("the text; a template"),
        "from": text_schema("the sender; default: the integration's"),
    },
    "required": ["to", "text"],
    "additionalProperties": False,
    "description": "send a text message by Twilio",
}
MAX_TEXT = 1_600

_MESSAGING_SERVICE = re.compile(r"MG[0-9a-fA-F]{32}")


def check(fields: Any, path: str) -> FieldErrors:
    """Errors of `to`, `from` and `text`."""
    if not isinstance(fields, Mapping):
        return [(path, 'must be an object such as {to: "{{ phone }}", text: Hello}')]
    errors = check_names(fields, "sms", FIELDS, path)
    errors += check_text(fields.get("to"), f"{path}.to", "the phone number of the recipient", parse=read_phone)
    errors += check_text(fields.get("text"), f"{path}.text", "the text", parse=_parse_text)
    if "from" in fields:
        errors += check_text(fields["from"], f"{path}.from", "the sender", parse=_sender)
    return errors


def _parse_text(text: str) -> str:
    if len(text) > MAX_TEXT:
        raise ValueError(f"has {len(text)} characters; at most {MAX_TEXT} are allowed")
    return text


def _sender(text: str) -> dict[str, str]:
    """The form field that names the sender."""
    if not text:
        raise ValueError("is required: neither the step nor the integration has a sender")
    if _MESSAGING_SERVICE.fullmatch(text):
        return {"MessagingServiceSid": text}
    try:
        return {"From": parse_sender(text)}
    except ValueError:
        raise ValueError("must be a phone number, a short code, a name of up to 11 letters, or MG…") from None


async def act(fields: Any, context: ActionContext) -> Outcome:
    """Send the text message by Twilio."""
    return await call_twilio(make_request, fields, context)


def preview(fields: Any, context: ActionContext) -> Outcome:
    """The request that would go to Twilio."""
    return preview_call(make_request(fields, context, context.credentials("twilio")), context)


def make_request(fields: Mapping[str, Any], context: ActionContext, integration: Mapping[str, str]) -> Request:
    """A form for Twilio's Messages API; raises ActionError and TemplateError."""
    text = render(fields["text"], context.names)
    sender = render(fields["from"], context.names).strip() if "from" in fields else None
    to = render_parsed(fields["to"], "to", context, read_phone)
    try:
        form = {"To": to, **_sender(sender or integration.get("messaging_service_sid") or integration.get("from", ""))}
    except ValueError as exc:
        raise ActionError("bad_address", f"from {exc}") from None
    if not text.strip() or len(text) > MAX_TEXT:
        problem = f"has {len(text)} characters; at most {MAX_TEXT} are allowed" if text.strip() else "is empty"
        raise ActionError("bad_text", f"the text {problem}")
    return twilio_request("Messages", {**form, "Body": text}, integration, context.settings)
