"""The action `call`: a phone call by Twilio's Calls API.

Fields: `to` (a phone number), either `say` (a text to speak) or `url` (where Twilio reads its instructions, TwiML), and
`from` (a phone number; default: the integration's). Output: Twilio's response as `body`, such as `{{ steps.ID.body.sid }}`.
The step is done when Twilio has accepted the call, before anybody answers it.

https://www.twilio.com/docs/voice/api/call-resource (requests and responses)
https://www.twilio.com/docs/voice/twiml/say (TwiML)

The API has no idempotency keys: a call whose response is lost is made again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from xml.sax.saxutils import escape

from app.actions.action_context import ActionContext, ActionError
from app.actions.field_checks import FieldErrors, check_names, check_text, read_url, render_parsed, text_schema
from app.actions.http_call import preview_call
from app.actions.http_request import Request, parse_url
from app.actions.templates.render import render
from app.actions.twilio import call_twilio, twilio_request
from app.core.addresses import read_phone
from app.core.models import Outcome

FIELDS = ("to", "say", "url", "from")
SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "to": text_schema("the phone number to call; a template"),
        "say": text_schema("the text to speak when the call is answered; a template"),
        "url": text_schema("the URL of the instructions (TwiML) for the answered call; a template"),
        "from": text_schema("the calling phone number; default: the integration's"),
    },
    "required": ["to"],
    "oneOf": [{"required": ["say"]}, {"required": ["url"]}],
    "additionalProperties": False,
    "description": "make a phone call by Twilio",
}
MAX_TWIML = 4_000
# Characters that XML 1.0 does not allow.
_NOT_IN_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def check(fields: Any, path: str) -> FieldErrors:
    """Errors of the two phone numbers, and of the text or the URL."""
    if not isinstance(fields, Mapping):
        return [(path, 'must be an object such as {to: "{{ phone }}", say: Hello}')]
    errors = check_names(fields, "call", FIELDS, path)
    errors += check_text(fields.get("to"), f"{path}.to", "the phone number to call", parse=read_phone)
    if "from" in fields:
        errors += check_text(fields["from"], f"{path}.from", "the calling phone number", parse=read_phone)
    if "say" in fields and "url" in fields:
        errors.append((f"{path}.url", "cannot be combined with say"))
    if "say" not in fields and "url" not in fields:
        errors.append((f"{path}.say", "is required: the text to speak (or url: the instructions for Twilio)"))
    if "say" in fields:
        errors += check_text(fields["say"], f"{path}.say", "the text to speak", parse=_twiml)
    if "url" in fields:
        errors += check_text(fields["url"], f"{path}.url", "the URL of the instructions", parse=read_url)
    return errors


def _twiml(text: str) -> str:
    """The TwiML that speaks a text."""
    twiml = f"<Response><Say>{escape(_NOT_IN_XML.sub(' ', text))}</Say></Response>"
    if len(twiml) > MAX_TWIML:
        raise ValueError(f"becomes {len(twiml)} characters of TwiML; at most {MAX_TWIML} are allowed")
    return twiml


async def act(fields: Any, context: ActionContext) -> Outcome:
    """Request the call once."""
    return await call_twilio(make_request, fields, context)


def preview(fields: Any, context: ActionContext) -> Outcome:
    """The request that would go to Twilio."""
    return preview_call(make_request(fields, context, context.credentials("twilio")), context)


def make_request(fields: Mapping[str, Any], context: ActionContext, integration: Mapping[str, str]) -> Request:
    """A form for Twilio's Calls API; raises ActionError and TemplateError."""
    form = {"To": render_parsed(fields["to"], "to", context, read_phone)}
    if "from" in fields:
        form["From"] = render_parsed(fields["from"], "from", context, read_phone)
    else:
        form["From"] = _caller(integration)
    if "url" in fields:
        form["Url"] = str(parse_url(render(fields["url"], context.names)))
    else:
        form["Twiml"] = _spoken(render(fields["say"], context.names))
    return twilio_request("Calls", form, integration, context.settings)


def _caller(integration: Mapping[str, str]) -> str:
    """The integration's sender, which must be a phone number."""
    try:
        return read_phone(integration.get("from", ""))
    except ValueError:
        message = "the sender of the twilio integration is not a phone number; add from to the step"
        raise ActionError("bad_address", message) from None


def _spoken(text: str) -> str:
    if not text.strip():
        raise ActionError("bad_text", "say is empty")
    try:
        return _twiml(text)
    except ValueError as exc:
        raise ActionError("bad_text", f"the text {exc}") from None
