"""Augments in a real server: its event loop works together with the calls of APIs."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from app.core.models import SCOPES
from app.services import api_keys
from app.services.context import AppContext
from tests.api.conftest import Rows, settings_of
from tests.support.builders import Sender, a_sender
from tests.support.http_target import Answer, Call, HttpTarget, an_http_target, serving
from tests.support.server import Server, running_server


@pytest.fixture(scope="module")
def server(context: AppContext) -> Iterator[Server]:
    """A server that may call APIs on this machine."""
    with running_server(**settings_of(context), ALLOWED_PRIVATE_TARGETS="127.0.0.0/8") as running:
        yield running


def call(sender: Sender, path: str, body: dict[str, Any]) -> Any:
    headers = {"Authorization": f"Bearer {sender.token}", "Content-Type": "application/json"}
    return sender.client.post(f"/1.0/tenants/{sender.slug}{path}", data=json.dumps(body).encode(), headers=headers)


def a_tenant_with_an_api(context: AppContext, server: Server, url: str) -> Sender:
    sender = a_sender(context, server)
    token = api_keys.create_key(context, sender.account_id, "all", SCOPES)
    tenant = Sender(sender.account_id, sender.slug, token, server)
    assert call(tenant, "/augments", {"name": "CRM", "type": "api", "url": url, "method": "GET"}).status_code == 201
    return tenant


def test_concurrent_events_are_enriched(context: AppContext, server: Server, rows: Rows) -> None:
    with an_http_target(Answer(body=b'{"segment": "gold"}')) as crm, ThreadPoolExecutor(4) as threads:
        tenant = a_tenant_with_an_api(context, server, crm.url)
        answers = list(threads.map(lambda number: call(tenant, "/event", {"key": f"k{number}"}), range(40)))
    assert {answer.status_code for answer in answers} == {200}
    found = rows("SELECT augmented, warnings FROM events WHERE account_id = %s", tenant.account_id)
    assert len(found) == 40
    # On a busy machine some calls take longer than half a second.
    assert all(
        augmented == {"segment": "gold"} or "within 0.5 seconds" in str(warnings) for augmented, warnings in found
    )
    assert ({"segment": "gold"}, None) in found


class Hanging(HttpTarget):
    """Does not answer before the test ends."""

    over = threading.Event()

    def finish_request(self, request: Any, client_address: Any) -> None:
        self.calls.append(Call("GET", "/", {}, b""))
        self.over.wait(20)


def test_events_are_accepted_while_an_api_hangs(context: AppContext, server: Server, rows: Rows) -> None:
    hanging = Hanging()
    with serving(hanging):
        tenant = a_tenant_with_an_api(context, server, hanging.url)
        answers = [call(tenant, "/event", {"key": f"k{number}"}) for number in range(10)]
        hanging.over.set()
    assert {answer.status_code for answer in answers} == {200}
    found = rows("SELECT warnings FROM events WHERE account_id = %s ORDER BY id", tenant.account_id)
    assert len(found) == 10
    assert all("the event was accepted without it" in str(row[0]) for row in found)
    # After five failures the API is not called.
    assert len(hanging.calls) == 5
