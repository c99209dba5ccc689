"""The action `sendgrid`: an e-mail by SendGrid's v3 Mail Send API.

Fields: `to` (an address, or a list of them), `subject`, `text` or `html` or both, and `from` (default: the integration's).
Output: `status`, `headers` and `body` of the response, and SendGrid's `message_id`. The step is done when SendGrid has
accepted the message (202).

https://www.twilio.com/docs/sendgrid/api-reference/mail-send/mail-send (requests and responses)
https://www.twilio.com/docs/sendgrid/api-reference/mail-send/errors (errors)
https://www.twilio.com/docs/sendgrid/api-reference/how-to-use-the-sendgrid-v3-api/rate-limits (429)

The API has no idempotency keys: a message whose response is lost is sent again. The step's key is sent in `custom_args`, so
that all of SendGrid's events about the message contain it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from email.headerregistry import Address
from typing import Any

from yarl import URL

from app.actions.action_context import ActionContext, ActionError
from app.actions.field_checks import FieldErrors
from app.actions.http_call import call, preview_call
from app.actions.http_request import DEFAULT_HEADERS, EXACT_JSON, Request, encodable
from app.actions.mail_fields import (
    MAIL_FIELDS,
    check_mail,
    mail_schema,
    render_address,
    render_addresses,
    render_parts,
    render_subject,
)
from app.actions.retry_policy import MAX_RETRY_AFTER, classify_status, retry_after
from app.actions.templates.render import Text
from app.core.config import Settings
from app.core.models import Outcome

FIELDS = MAIL_FIELDS
SCHEMA = mail_schema("send an e-mail by SendGrid")
ORIGINS = {"global": "https://api.sendgrid.com", "eu": "https://api.eu.sendgrid.com"}
_ACCEPTED = 202


def check(fields: Any, path: str) -> FieldErrors:
    """Errors of addresses, subject and text."""
    return check_mail(fields, path, "sendgrid", FIELDS)


async def act(fields: Any, context: ActionContext) -> Outcome:
    """Send the e-mail by SendGrid."""
    integration = context.credentials("sendgrid")
    request = await context.compose(make_request, fields, context, integration)
    outcome = await call(request, context, classify_response)
    if outcome.kind != "done":
        return outcome
    return replace(outcome, output={**outcome.output, "message_id": outcome.output["headers"].get("x-message-id")})


def preview(fields: Any, context: ActionContext) -> Outcome:
    """The request that would go to SendGrid."""
    return preview_call(make_request(fields, context, context.credentials("sendgrid")), context)


def make_request(fields: Mapping[str, Any], context: ActionContext, integration: Mapping[str, str]) -> Request:
    """The JSON for SendGrid's API; raises ActionError and TemplateError."""
    sender = _named(render_address(_sender(fields, integration), "from", context))
    message = {
        "personalizations": [{"to": _recipients(fields["to"], context)}],
        "from": sender,
        "subject": render_subject(fields["subject"], context),
        "content": [{"type": f"text/{kind}", "value": text} for kind, text in render_parts(fields, context)],
        "custom_args": {"idempotency_key": context.idempotency_key},
    }
    key = integration["api_key"]
    headers = {
        **DEFAULT_HEADERS,
        "Authorization": f"Bearer {key}",
        "Content-Type": "application/json",
        "Accept": "application/json",
    }
    url = URL(f"{_origin(context.settings, integration)}/v3/mail/send")
    body = EXACT_JSON.encode(encodable(message))
    return Request("POST", url, headers, body, f"sendgrid from {sender['email']}")


def _origin(settings: Settings, integration: Mapping[str, str]) -> str:
    return settings.sendgrid_base_url or ORIGINS[integration.get("region", "global")]


def _sender(fields: Mapping[str, Any], integration: Mapping[str, str]) -> Text:
    found: Text | None = fields.get("from", integration.get("from"))
    if found is None:
        raise ActionError("bad_address", "from is required: neither the step nor the integration has a sender")
    return found


def _recipients(value: Any, context: ActionContext) -> list[dict[str, str]]:
    """The recipients for the API, each address once."""
    found: dict[str, Address] = {}
    for address in render_addresses(value, "to", context):
        found.setdefault(address.addr_spec.lower(), address)
    return [_named(address) for address in found.values()]


def _named(address: Address) -> dict[str, str]:
    return {"email": address.addr_spec, **({"name": address.display_name} if address.display_name else {})}


def classify_response(status: int, headers: Mapping[str, str], body: Any, now: datetime) -> Outcome:
    """The outcome of a response: 202 is done; others have an error message."""
    if status == _ACCEPTED:
        return Outcome("done")
    outcome = classify_status(status, headers, now)
    is_transient = outcome.kind == "retry"
    reason = "; ".join(_errors(body)) or ("the message was not queued" if outcome.kind == "done" else "no reason given")
    return Outcome(
        "retry" if is_transient else "failed",
        error=f"SendGrid answered {status}: {reason}"[:600],
        error_class=f"sendgrid_{status}",
        retry_after=_retry_after(headers, now) if is_transient else None,
    )


def _errors(body: Any) -> list[str]:
    """The error messages of a response, by field."""
    errors = body.get("errors") if isinstance(body, Mapping) else None
    found = [error for error in errors if isinstance(error, Mapping)] if isinstance(errors, list) else []
    return [
        f"{str(error['field'])[:100]}: {str(error.get('message'))[:300]}"
        if error.get("field")
        else str(error.get("message"))[:300]
        for error in found[:5]
    ]


def _retry_after(headers: Mapping[str, str], now: datetime) -> float | None:
    """Seconds by Retry-After, or until X-RateLimit-Reset (in seconds since 1970)."""
    seconds = retry_after(headers, now)
    reset = (headers.get("X-RateLimit-Reset") or "").strip()
    if seconds is not None or not (reset.isascii() and reset.isdigit()):
        return seconds
    seconds = float(reset[:12]) - now.timestamp()
    return min(seconds, MAX_RETRY_AFTER) if seconds > 0 else None
