"""The action `sendgrid`: an e-mail by SendGrid's v3 Mail Send API.

Fields: `to` (an address, or a list of them), `subject`, `text` or `html` or both, and, where it is not to be the
integration's, `from`. Goes out as an Outcome whose output has the answer's `status`, `headers` and `body`, and the
`message_id` that SendGrid gave. It is done once SendGrid has taken the message on (202).

https://www.twilio.com/docs/sendgrid/api-reference/mail-send/mail-send (requests and answers)
https://www.twilio.com/docs/sendgrid/api-reference/mail-send/errors (errors)
https://www.twilio.com/docs/sendgrid/api-reference/how-to-use-the-sendgrid-v3-api/rate-limits (429)

The API knows no idempotency keys: a message whose answer was lost is sent again. The step's key goes along in `custom_args`,
and so comes back with each of SendGrid's events about the message.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from email.headerregistry import Address
from typing import Any

from yarl import URL

from app.actions.context import ActionContext, ActionError
from app.actions.field_checks import Mistakes, check_addresses, check_names, check_text, text_schema
from app.actions.http_call import call
from app.actions.http_request import EXACT_JSON, PLAIN, Request, sendable
from app.actions.retry_policy import MAX_RETRY_AFTER, retry_after
from app.actions.retry_policy import judge as judge_by_status
from app.actions.templates.render import Text, render
from app.core.addresses import read_email
from app.core.config import Settings
from app.core.models import Outcome

FIELDS = ("to", "subject", "text", "html", "from")
MOST_RECIPIENTS = 50
_ADDRESS = text_schema("one address")
SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "to": {
            "anyOf": [_ADDRESS, {"type": "array", "items": _ADDRESS, "minItems": 1, "maxItems": MOST_RECIPIENTS}],
            "description": "an address, or a list of them; templates",
        },
        "subject": text_schema("the subject; a template"),
        "text": text_schema("what to write, as plain text; a template"),
        "html": text_schema("what to write, as HTML; a template"),
        "from": text_schema("the sender, where it is not the integration's"),
    },
    "required": ["to", "subject"],
    "anyOf": [{"required": ["text"]}, {"required": ["html"]}],
    "additionalProperties": False,
    "description": "send an e-mail by SendGrid",
}
ORIGINS = {"global": "https://api.sendgrid.com", "eu": "https://api.eu.sendgrid.com"}
_ACCEPTED = 202
_LONGEST_SUBJECT = 500


def check(fields: Any, path: str) -> Mistakes:
    """All that is wrong with the fields."""
    if not isinstance(fields, Mapping):
        return [(path, "has to be an object such as {to: sales@example.com, subject: Hello, text: Hello}")]
    errors = check_names(fields, "sendgrid", FIELDS, path)
    errors += check_addresses(fields.get("to"), f"{path}.to", MOST_RECIPIENTS)
    errors += check_text(fields.get("subject"), f"{path}.subject", "the subject")
    if "from" in fields:
        errors += check_text(fields["from"], f"{path}.from", "the address of the sender", read=read_email)
    if "text" not in fields and "html" not in fields:
        errors.append((f"{path}.text", "is missing: what to write (text, html or both)"))
    for name in ("text", "html"):
        if name in fields:
            errors += check_text(fields[name], f"{path}.{name}", "what to write")
    return errors


async def act(fields: Any, context: ActionContext) -> Outcome:
    """Send the message once."""
    account = context.credentials("sendgrid")
    outcome = await call(make_request(fields, context, account), context, judge)
    if outcome.kind != "done":
        return outcome
    return replace(outcome, output={**outcome.output, "message_id": outcome.output["headers"].get("x-message-id")})


def make_request(fields: Mapping[str, Any], context: ActionContext, account: Mapping[str, str]) -> Request:
    """The request by the documentation; raises ActionError and TemplateError."""
    message = {
        "personalizations": [{"to": _recipients(fields["to"], context)}],
        "from": _named(_address(_sender(fields, account), "from", context)),
        "subject": _subject(fields["subject"], context),
        "content": _content(fields, context),
        "custom_args": {"idempotency_key": context.idempotency_key},
    }
    key = account["api_key"]
    headers = {
        **PLAIN,
        "Authorization": f"Bearer {key}",
        "Content-Type": "application/json",
        "Accept": "application/json",
    }
    url = URL(f"{_origin(context.settings, account)}/v3/mail/send")
    return Request("POST", url, headers, EXACT_JSON.encode(sendable(message)), (key,))


def _origin(settings: Settings, account: Mapping[str, str]) -> str:
    return settings.sendgrid_base_url or ORIGINS[account.get("region", "global")]


def _sender(fields: Mapping[str, Any], account: Mapping[str, str]) -> Text:
    found: Text | None = fields.get("from", account.get("from"))
    if found is None:
        raise ActionError("bad_address", "from is missing: neither the step nor the integration says who sends")
    return found


def _recipients(value: Any, context: ActionContext) -> list[dict[str, str]]:
    """Whom it goes to, each address once, as the API wants it."""
    templates = value if isinstance(value, list) else [value]
    names = [f"to[{index}]" for index in range(len(templates))] if isinstance(value, list) else ["to"]
    found: dict[str, Address] = {}
    for name, template in zip(names, templates, strict=True):
        address = _address(template, name, context)
        found.setdefault(address.addr_spec.lower(), address)
    return [_named(address) for address in found.values()]


def _address(template: Text, name: str, context: ActionContext) -> Address:
    try:
        return read_email(render(template, context.names))
    except ValueError as exc:
        raise ActionError("bad_address", f"{name}: {exc}") from None


def _named(address: Address) -> dict[str, str]:
    return {"email": address.addr_spec, **({"name": address.display_name} if address.display_name else {})}


def _subject(template: Text, context: ActionContext) -> str:
    """One line of printable characters; SendGrid takes none that is empty."""
    text = render(template, context.names)
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())[:_LONGEST_SUBJECT]
    if not line:
        raise ActionError("bad_text", "the subject is empty")
    return line


def _content(fields: Mapping[str, Any], context: ActionContext) -> list[dict[str, str]]:
    """The parts of the message, plain text first, as the API wants them; it takes none that is empty."""
    parts = [
        {"type": kind, "value": render(fields[name], context.names, as_html=name == "html")}
        for name, kind in (("text", "text/plain"), ("html", "text/html"))
        if name in fields
    ]
    written = [part for part in parts if part["value"].strip()]
    if not written:
        raise ActionError("bad_text", "the message is empty")
    return written


def judge(status: int, headers: Mapping[str, str], body: Any, now: datetime) -> Outcome:
    """What an answer means: only 202 says that the message is on its way; errors say what was wrong with it."""
    if status == _ACCEPTED:
        return Outcome("done")
    outcome = judge_by_status(status, headers, now)
    passing = outcome.kind == "retry"
    told = "; ".join(_errors(body)) or ("the message was not queued" if outcome.kind == "done" else "no reason given")
    return Outcome(
        "retry" if passing else "failed",
        error=f"SendGrid answered {status}: {told}"[:600],
        error_class=f"sendgrid_{status}",
        retry_after=_pause(headers, now) if passing else None,
    )


def _errors(body: Any) -> list[str]:
    """What the answer says was wrong, field by field."""
    errors = body.get("errors") if isinstance(body, Mapping) else None
    found = [error for error in errors if isinstance(error, Mapping)] if isinstance(errors, list) else []
    return [
        f"{str(error['field'])[:100]}: {str(error.get('message'))[:300]}"
        if error.get("field")
        else str(error.get("message"))[:300]
        for error in found[:5]
    ]


def _pause(headers: Mapping[str, str], now: datetime) -> float | None:
    """Seconds until the rate limit is lifted: X-RateLimit-Reset is a moment in seconds since 1970."""
    seconds = retry_after(headers, now)
    reset = (headers.get("X-RateLimit-Reset") or "").strip()
    if seconds is not None or not (reset.isascii() and reset.isdigit()):
        return seconds
    wish = float(reset[:12]) - now.timestamp()
    return min(wish, MAX_RETRY_AFTER) if wish > 0 else None
