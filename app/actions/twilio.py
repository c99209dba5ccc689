"""What the actions that go by Twilio's REST API have in common: how a request is made and how an answer is judged.

https://www.twilio.com/docs/usage/twilios-response and https://www.twilio.com/docs/api/errors (errors)

The API knows no idempotency keys: what was asked for and whose answer was lost is asked for again.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from yarl import URL

from app.actions.http_request import PLAIN, Request, sendable
from app.actions.retry_policy import judge as judge_by_status
from app.actions.retry_policy import retry_after
from app.core.config import Settings
from app.core.models import Outcome

# Too many requests (20429), too many calls at once (10004), a sender's queue that is full (21611), too many messages
# between two numbers (14107); and the ones that say what a 500 and a 503 say.
PASSING = frozenset((10004, 14107, 20429, 20500, 20503, 21611))


def twilio_request(resource: str, form: Mapping[str, str], account: Mapping[str, str], settings: Settings) -> Request:
    """A POST of `form` to a resource of the account, such as Messages."""
    name, token = account["account_sid"], account["auth_token"]
    login = base64.b64encode(f"{name}:{token}".encode()).decode()
    headers = {**PLAIN, "Authorization": f"Basic {login}", "Content-Type": "application/x-www-form-urlencoded"}
    url = URL(f"{settings.twilio_base_url}/2010-04-01/Accounts/{name}/{resource}.json")
    return Request("POST", url, headers, urlencode(sendable(form)).encode(), (token, login))


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
        retry_after=retry_after(headers, now) if passing else None,
    )
