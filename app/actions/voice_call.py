"""The action `call`: a phone call by Twilio's Calls API.

Fields: `to` (a phone number), what is to be done when it is answered, either `say` (a text, spoken) or `url` (where Twilio
gets its instructions, TwiML), and, where it is not to be the integration's, `from` (a phone number). Goes out as an Outcome
whose output has Twilio's answer as `body`: `{{ steps.rang.body.sid }}`, `{{ steps.rang.body.status }}`. It is done once
Twilio has taken the call on; nobody has answered it yet.

https://www.twilio.com/docs/voice/api/call-resource (requests and answers)
https://www.twilio.com/docs/voice/twiml/say (what is spoken)

The API knows no idempotency keys: a call whose answer was lost is made again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from xml.sax.saxutils import escape

from app.actions.context import ActionContext, ActionError
from app.actions.field_checks import Mistakes, check_names, check_text, text_schema
from app.actions.http_call import call
from app.actions.http_request import Request, read_url
from app.actions.templates.render import Text, render
from app.actions.twilio import judge, twilio_request
from app.core.addresses import read_phone
from app.core.models import Outcome

FIELDS = ("to", "say", "url", "from")
SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "to": text_schema("the phone number to call; a template"),
        "say": text_schema("what is spoken when the call is answered; a template"),
        "url": text_schema("where Twilio gets its instructions (TwiML) when the call is answered; a template"),
        "from": text_schema("the phone number that calls, where it is not the integration's"),
    },
    "required": ["to"],
    "oneOf": [{"required": ["say"]}, {"required": ["url"]}],
    "additionalProperties": False,
    "description": "make a phone call by Twilio",
}
LONGEST_TWIML = 4_000
# What XML 1.0 has no characters for.
_NOT_IN_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def check(fields: Any, path: str) -> Mistakes:
    """All that is wrong with the fields."""
    if not isinstance(fields, Mapping):
        return [(path, 'has to be an object such as {to: "{{ phone }}", say: Hello}')]
    errors = check_names(fields, "call", FIELDS, path)
    errors += check_text(fields.get("to"), f"{path}.to", "the phone number to call", read=read_phone)
    if "from" in fields:
        errors += check_text(fields["from"], f"{path}.from", "the phone number that calls", read=read_phone)
    if "say" in fields and "url" in fields:
        errors.append((f"{path}.url", "say and url exclude each other"))
    if "say" not in fields and "url" not in fields:
        errors.append((f"{path}.say", "is missing: what is spoken (or url: where Twilio gets its instructions)"))
    if "say" in fields:
        errors += check_text(fields["say"], f"{path}.say", "what is spoken", read=_twiml)
    if "url" in fields:
        errors += check_text(fields["url"], f"{path}.url", "where Twilio gets its instructions", read=_url)
    return errors


def _twiml(text: str) -> str:
    """The instructions to say a text."""
    made = f"<Response><Say>{escape(_NOT_IN_XML.sub(' ', text))}</Say></Response>"
    if len(made) > LONGEST_TWIML:
        raise ValueError(f"becomes {len(made)} characters as TwiML; Twilio takes {LONGEST_TWIML}")
    return made


def _url(text: str) -> str:
    try:
        return str(read_url(text))
    except ActionError as exc:
        raise ValueError(str(exc)) from None


async def act(fields: Any, context: ActionContext) -> Outcome:
    """Ask for the call once."""
    account = context.credentials("twilio")
    return await call(make_request(fields, context, account), context, judge)


def make_request(fields: Mapping[str, Any], context: ActionContext, account: Mapping[str, str]) -> Request:
    """The request by the documentation; raises ActionError and TemplateError."""
    form = {"To": _number(fields["to"], "to", context)}
    if "from" in fields:
        form["From"] = _number(fields["from"], "from", context)
    else:
        form["From"] = _caller(account)
    if "url" in fields:
        form["Url"] = str(read_url(render(fields["url"], context.names)))
    else:
        form["Twiml"] = _spoken(render(fields["say"], context.names))
    return twilio_request("Calls", form, account, context.settings)


def _number(template: Text, name: str, context: ActionContext) -> str:
    try:
        return read_phone(render(template, context.names))
    except ValueError as exc:
        raise ActionError("bad_address", f"{name}: {exc}") from None


def _caller(account: Mapping[str, str]) -> str:
    """The integration's sender, if it is one that can call."""
    try:
        return read_phone(account.get("from", ""))
    except ValueError:
        told = "the twilio integration has no phone number as its sender; name one that may call with from"
        raise ActionError("bad_address", told) from None


def _spoken(text: str) -> str:
    if not text.strip():
        raise ActionError("bad_text", "there is nothing to say")
    try:
        return _twiml(text)
    except ValueError as exc:
        raise ActionError("bad_text", f"the text {exc}") from None
