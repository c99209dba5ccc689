"""Requests to Twilio's REST API, and the classification of its responses.

https://www.twilio.com/docs/usage/twilios-response and https://www.twilio.com/docs/api/errors (errors)

The API has no idempotency keys: a request whose response is lost is repeated.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from yarl import URL

from app.actions.action_context import ActionContext
from app.actions.http_call import call
from app.actions.http_request import DEFAULT_HEADERS, Request, encodable
from app.actions.retry_policy import classify_status, retry_after
from app.core.config import Settings
from app.core.models import Outcome

# Too many requests (20429), too many concurrent calls (10004), full queue of the sender (21611), too many messages between
# two numbers (14107), server error (20500), unavailable (20503).
TRANSIENT_CODES = frozenset((10004, 14107, 20429, 20500, 20503, 21611))
# By the resource.
_ACTIONS = {"Messages": "sms", "Calls": "call"}


async def call_twilio(make_request: Callable[..., Request], fields: Any, context: ActionContext) -> Outcome:
    """Make the call of `make_request(fields, context, integration)` once. Raises ActionError without an integration."""
    integration = context.credentials("twilio")
    request = await context.compose(make_request, fields, context, integration)
    return await call(request, context, classify_response)


def twilio_request(
    resource: str, form: Mapping[str, str], integration: Mapping[str, str], settings: Settings
) -> Request:
    """A POST of `form` to a resource of the account, such as Messages. The sender is the target."""
    sender = form.get("From") or form.get("MessagingServiceSid")
    sid, token = integration["account_sid"], integration["auth_token"]
    credentials = base64.b64encode(f"{sid}:{token}".encode()).decode()
    headers = {
        **DEFAULT_HEADERS,
        "Authorization": f"Basic {credentials}",
        "Content-Type": "application/x-www-form-urlencoded",
    }
    url = URL(f"{settings.twilio_base_url}/2010-04-01/Accounts/{sid}/{resource}.json")
    body = urlencode(encodable(form)).encode()
    return Request("POST", url, headers, body, f"{_ACTIONS[resource]} from {sender}")


def classify_response(status: int, headers: Mapping[str, str], body: Any, now: datetime) -> Outcome:
    """The outcome of a response, by its status and its error code if it has one."""
    outcome = classify_status(status, headers, now)
    if outcome.kind == "done" or not isinstance(body, Mapping) or not isinstance(body.get("code"), int):
        return outcome
    code = body["code"]
    is_transient = code in TRANSIENT_CODES or outcome.kind == "retry"
    more = f" ({str(body['more_info'])[:100]})" if body.get("more_info") else ""
    return Outcome(
        "retry" if is_transient else "failed",
        error=f"Twilio answered {status}, code {code}: {str(body.get('message', ''))[:300]}{more}",
        error_class=f"twilio_{code}",
        retry_after=retry_after(headers, now) if is_transient else None,
    )
