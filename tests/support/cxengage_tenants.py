"""Calls the CxEngage routes of a sender's account, through the sender's client."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from app.core.ids import read_cxengage_id
from app.core.models import ACCOUNT_MANAGE, EVENTS_READ, EVENTS_WRITE
from app.db.accounts import AccountDetails
from app.services import accounts, api_keys
from app.services.context import AppContext
from tests.support.builders import Sender, a_sender

JSON = {"Content-Type": "application/json"}
PREFIXES = ("/1.0", "")


@dataclass(frozen=True)
class Tenant:
    """An account with a token that has all scopes, as a CxEngage client sees it."""

    sender: Sender
    token: str
    prefix: str = "/1.0"

    @property
    def account_id(self) -> int:
        return self.sender.account_id

    @property
    def slug(self) -> str:
        return self.sender.slug

    def call(self, path: str, method: str = "GET", body: Any = None, **headers: str) -> Any:
        """One request below the tenant; `headers` have underscores for dashes, empty ones are left out."""
        return self.call_at(f"{self.prefix}/tenants/{self.slug}{path}", method, body, **headers)

    def call_at(self, path: str, method: str = "GET", body: Any = None, **headers: str) -> Any:
        """One request to any path. Bytes and text are sent unchanged, other bodies as JSON."""
        sent = {"Authorization": f"Bearer {self.token}", **(JSON if body is not None else {})}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        raw = body if isinstance(body, bytes) else body.encode() if isinstance(body, str) else json.dumps(body).encode()
        return self.sender.client.open(
            path,
            method=method,
            data=None if body is None else raw,
            headers={name: value for name, value in sent.items() if value},
        )

    def post(self, body: Any, **headers: str) -> Any:
        """Send an event."""
        return self.call("/event", "POST", body, **headers)

    def history(self) -> list[dict[str, Any]]:
        """The last events."""
        answer = self.call("/event/history")
        assert answer.status_code == 200, answer.text
        found: list[dict[str, Any]] = json.loads(answer.data)["history"]
        return found


def a_tenant(context: AppContext, client: Any, name: str = "acme", plan: str = "unlimited") -> Tenant:
    """A new account with a key that has all scopes."""
    sender = a_sender(context, client, name, plan)
    scopes = (EVENTS_WRITE, EVENTS_READ, ACCOUNT_MANAGE)
    return Tenant(sender, api_keys.create_key(context, sender.account_id, "all", scopes))


def described(context: AppContext, tenant: Tenant, **changes: str) -> Tenant:
    """The tenant after changing the details of its account."""
    accounts.update_account_details(context, tenant.account_id, AccountDetails(**changes))
    return tenant


def uuid_of(identifier: str) -> str:
    """The event's UUID in an id of the receiver."""
    found = read_cxengage_id(identifier)
    assert found is not None, identifier
    return str(found[1])


def assert_error(answer: Any, status: int) -> str:
    """The error text of a response."""
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.headers["X-Request-Id"]
    assert list(answer.json) == ["error"]
    text = answer.json["error"]
    assert isinstance(text, str)
    assert text
    return text


def stored(rows: Callable[..., Any], identifier: str) -> dict[str, Any]:
    """The row of an event."""
    ((row,),) = rows("SELECT to_jsonb(events) FROM events WHERE id = %s", uuid_of(identifier))
    assert isinstance(row, dict)
    return row
