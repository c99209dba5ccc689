"""The action `sms`: a text message by Twilio's Messages API.

Fields: `to` (a phone number), `text`, and, where it is not to be the integration's, `from` (a number, a short code, a
sender name, or the id of a messaging service). Goes out as an Outcome whose output has Twilio's answer as `body`:
`{{ steps.told.body.sid }}`.

https://www.twilio.com/docs/messaging/api/message-resource (requests and answers)

The API knows no idempotency keys: a message whose answer was lost is sent again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from app.actions.context import ActionContext, ActionError
from app.actions.field_checks import Mistakes, check_names, check_text, text_schema
from app.actions.http_call import call
from app.actions.http_request import Request
from app.actions.integration_kinds import read_sender
from app.actions.templates.render import render
from app.actions.twilio import judge, twilio_request
from app.core.addresses import read_phone
from app.core.models import Outcome

FIELDS = ("to", "text", "from")
SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "to": text_schema("the phone number to write to; a template"),
        "text": text_schema("what to write; a template"),
        "from": text_schema("the sender, where it is not the integration's"),
    },
    "required": ["to", "text"],
    "additionalProperties": False,
    "description": "send a text message by Twilio",
}
LONGEST_TEXT = 1_600

_MESSAGING_SERVICE = re.compile(r"MG[0-9a-fA-F]{32}")


def check(fields: Any, path: str) -> Mistakes:
    """All that is wrong with the fields."""
    if not isinstance(fields, Mapping):
        return [(path, 'has to be an object such as {to: "{{ phone }}", text: Hello}')]
    errors = check_names(fields, "sms", FIELDS, path)
    errors += check_text(fields.get("to"), f"{path}.to", "the phone number to write to", read=read_phone)
    errors += check_text(fields.get("text"), f"{path}.text", "what to write", read=_read_text)
    if "from" in fields:
        errors += check_text(fields["from"], f"{path}.from", "the sender", read=_sender)
    return errors


def _read_text(text: str) -> str:
    if len(text) > LONGEST_TEXT:
        raise ValueError(f"has {len(text)} characters; Twilio takes {LONGEST_TEXT}")
    return text


def _sender(text: str) -> dict[str, str]:
    """The form field that names the sender."""
    if not text:
        raise ValueError("is missing: neither the step nor the integration says who sends")
    if _MESSAGING_SERVICE.fullmatch(text):
        return {"MessagingServiceSid": text}
    try:
        return {"From": read_sender(text)}
    except ValueError:
        raise ValueError("has to be a phone number, a short code, a name of up to 11 letters, or MG…") from None


async def act(fields: Any, context: ActionContext) -> Outcome:
    """Send the message once."""
    account = context.credentials("twilio")
    return await call(make_request(fields, context, account), context, judge)


def make_request(fields: Mapping[str, Any], context: ActionContext, account: Mapping[str, str]) -> Request:
    """The request by the documentation; raises ActionError and TemplateError."""
    text = render(fields["text"], context.names)
    sender = render(fields["from"], context.names).strip() if "from" in fields else None
    try:
        to = read_phone(render(fields["to"], context.names))
    except ValueError as exc:
        raise ActionError("bad_address", f"to: {exc}") from None
    try:
        form = {"To": to, **_sender(sender or account.get("messaging_service_sid") or account.get("from", ""))}
    except ValueError as exc:
        raise ActionError("bad_address", f"from {exc}") from None
    if not text.strip() or len(text) > LONGEST_TEXT:
        told = f"has {len(text)} characters; Twilio takes {LONGEST_TEXT}" if text.strip() else "is empty"
        raise ActionError("bad_text", f"the text {told}")
    return twilio_request("Messages", {**form, "Body": text}, account, context.settings)
