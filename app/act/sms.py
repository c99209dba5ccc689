"""The action `sms`: a text message by Twilio's Messages API.

Fields: `to` (a phone number), `text`, and, where it is not to be the integration's, `from` (a number, a short code, a
sender name, or the id of a messaging service). Goes out as an Outcome whose output has Twilio's answer as `body`:
`{{ steps.told.body.sid }}`.

https://www.twilio.com/docs/messaging/api/message-resource (requests and answers)
https://www.twilio.com/docs/usage/twilios-response and https://www.twilio.com/docs/api/errors (errors)

The API knows no idempotency keys: a message whose answer was lost is sent again.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from yarl import URL

from app.act.calling import call
from app.act.fields import Mistakes, check_names, check_text
from app.act.requests import PLAIN, Request, sendable
from app.act.retry import judge as judge_by_status
from app.act.retry import read_retry_after
from app.act.situation import Situation, Unfit
from app.act.template import render
from app.addresses import read_phone
from app.integrations import read_sender
from app.words import Outcome

FIELDS = ("to", "text", "from")
SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "to": {"type": "string", "minLength": 1, "description": "the phone number to write to; a template"},
        "text": {"type": "string", "minLength": 1, "description": "what to write; a template"},
        "from": {"type": "string", "minLength": 1, "description": "the sender, where it is not the integration's"},
    },
    "required": ["to", "text"],
    "additionalProperties": False,
    "description": "send a text message by Twilio",
}
LONGEST_TEXT = 1_600

# Too many requests (20429), a sender's queue that is full (21611), too many messages between two numbers (14107); and
# the ones that say what a 500 and a 503 say.
PASSING = frozenset((14107, 20429, 20500, 20503, 21611))

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
    if _MESSAGING_SERVICE.fullmatch(text):
        return {"MessagingServiceSid": text}
    try:
        return {"From": read_sender(text)}
    except ValueError:
        raise ValueError("has to be a phone number, a short code, a name of up to 11 letters, or MG…") from None


async def act(fields: Any, situation: Situation) -> Outcome:
    """Send the message once."""
    account = situation.credentials("twilio")
    return await call(make_request(fields, situation, account), situation, judge)


def make_request(fields: Mapping[str, Any], situation: Situation, account: Mapping[str, str]) -> Request:
    """The request by the documentation; raises Unfit and TemplateError."""
    text = render(fields["text"], situation.names)
    sender = render(fields["from"], situation.names).strip() if "from" in fields else None
    try:
        to = read_phone(render(fields["to"], situation.names))
    except ValueError as wrong:
        raise Unfit("bad_address", f"to: {wrong}") from None
    try:
        form = {"To": to, **_sender(sender or account.get("messaging_service_sid") or account["from"])}
    except ValueError as wrong:
        raise Unfit("bad_address", f"from {wrong}") from None
    if not text.strip() or len(text) > LONGEST_TEXT:
        told = f"has {len(text)} characters; Twilio takes {LONGEST_TEXT}" if text.strip() else "is empty"
        raise Unfit("bad_text", f"the text {told}")
    name, token = account["account_sid"], account["auth_token"]
    login = base64.b64encode(f"{name}:{token}".encode()).decode()
    headers = {**PLAIN, "Authorization": f"Basic {login}", "Content-Type": "application/x-www-form-urlencoded"}
    url = URL(f"{situation.settings.twilio_base_url}/2010-04-01/Accounts/{name}/Messages.json")
    body = urlencode({**form, "Body": sendable(text)}).encode()
    return Request("POST", url, headers, body, (token, login))


def judge(status: int, headers: Mapping[str, str], body: Any, now: datetime) -> Outcome:
    """What an answer means: by its status, and by its error code where it has one."""
    outcome = judge_by_status(status, headers, now)
    if outcome.kind == "done" or not isinstance(body, Mapping) or not isinstance(body.get("code"), int):
        return outcome
    code = body["code"]
    passing = code in PASSING or outcome.kind == "retry"
    more = f" ({str(body['more_info'])[:100]})" if body.get("more_info") else ""
    return Outcome(
        "retry" if passing else "failed",
        error=f"Twilio answered {status}, code {code}: {str(body.get('message', ''))[:300]}{more}",
        error_class=f"twilio_{code}",
        retry_after=read_retry_after(headers.get("Retry-After"), now) if passing else None,
    )
