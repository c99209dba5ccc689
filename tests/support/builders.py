"""Builds bodies, senders and workflows for tests. Each test has its own accounts, so nothing has to be undone."""

from __future__ import annotations

import itertools
import json
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from flask.testing import FlaskClient

from app.core.models import EVENTS_WRITE, PLANS
from app.services import accounts, api_keys
from app.services.context import AppContext

if TYPE_CHECKING:
    from tests.support.server import Server

_numbers = itertools.count(1)

EVENTS_PATH = "/api/v1/cvf-events"
BATCH_PATH = f"{EVENTS_PATH}/batch"


def an_event(**changes: Any) -> dict[str, Any]:
    """The seed's first example, with `changes`; a change to `...` leaves the field out."""
    event: dict[str, Any] = {
        "distinct_id": "915673412780",
        "phone": "+915673412780",
        "event": "product_view",
        "data": {
            "product_id": "65432",
            "product_name": "Cool Sneakers",
            "category": "Footwear",
            "currency": "INR",
        },
        **changes,
    }
    return {name: value for name, value in event.items() if value is not ...}


@dataclass(frozen=True)
class Sender:
    """An account and a key of it, ready to post through Flask's test client or to a real server."""

    account_id: int
    slug: str
    token: str
    client: FlaskClient | Server = field(repr=False)

    def headers(self, **changes: str) -> dict[str, str]:
        headers = {"x-limechat-uat": self.token, "x-fb-account-id": str(self.account_id)}
        return {**headers, **{name.replace("_", "-"): value for name, value in changes.items()}}

    def post(self, body: Any = None, **headers: str) -> Any:
        """Post `body`: a dict becomes JSON, text and bytes go as they are."""
        raw = body if isinstance(body, bytes) else body.encode() if isinstance(body, str) else json.dumps(body).encode()
        sent = {"Content-Type": "application/json", **self.headers(**headers)}
        return self.client.post(EVENTS_PATH, data=raw, headers=sent)

    def post_batch(self, items: Any, **headers: str) -> Any:
        """Post many events: a list becomes a JSON array, text and bytes go as they are."""
        raw = (
            items
            if isinstance(items, bytes)
            else items.encode()
            if isinstance(items, str)
            else json.dumps(items).encode()
        )
        sent = {"Content-Type": "application/json", **self.headers(**headers)}
        return self.client.post(BATCH_PATH, data=raw, headers=sent)

    def post_lines(self, lines: Any, **headers: str) -> Any:
        """The same as application/x-ndjson: a list becomes one line for each event."""
        raw = lines if isinstance(lines, bytes) else "\n".join(map(json.dumps, lines)).encode()
        return self.post_batch(raw, **{"Content_Type": "application/x-ndjson", **headers})


def a_sender(context: AppContext, client: FlaskClient | Server, name: str = "acme", plan: str = "unlimited") -> Sender:
    """A new account whose slug begins with `name`, and a key of it."""
    slug = f"{name}-{os.getpid()}-{next(_numbers)}"
    account_id = accounts.create_account(context, slug, PLANS[plan])
    return Sender(account_id, slug, api_keys.create_key(context, account_id, "test", (EVENTS_WRITE,)), client)


def a_workflow(**changes: Any) -> str:
    """The text of a workflow that logs every product view, with `changes`."""
    document: dict[str, Any] = {"name": "watch", "on": "product_view", "steps": [{"log": "{{ event }}"}], **changes}
    return json.dumps({name: value for name, value in document.items() if value is not ...})
