"""A web process that is killed while deliveries arrive: each delivery is stored as a whole or not at all, each event once."""

from __future__ import annotations

import base64
import hmac
import http.client
import json
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest

from app.services.context import AppContext
from tests.api.conftest import Rows, settings_of
from tests.support.builders import Sender, a_sender
from tests.support.server import Answer, Server, running_server
from tests.support.sources import SECRET, ASource, a_source, an_order

REDELIVERIES = 5


@pytest.fixture(scope="module")
def own_server(context: AppContext) -> Iterator[Server]:
    """A server whose web process may be killed; gunicorn starts another one."""
    with running_server(**settings_of(context)) as running:
        yield running


@pytest.fixture
def own_acme(context: AppContext, own_server: Server) -> Sender:
    """An account that posts to that server."""
    return a_sender(context, own_server, "acme")


def post_and_kill(server: Server, post: Callable[[], Answer], delay: float) -> Answer | None:
    """Post, and kill the web process after a while; the answer, if there was one."""
    (pid,) = server.processes()
    answers: list[Answer] = []

    def try_to_post() -> None:
        with suppress(OSError, http.client.HTTPException):
            answers.append(post())
        server.hang_up()

    thread = threading.Thread(target=try_to_post)
    thread.start()
    time.sleep(delay)
    os.kill(pid, signal.SIGKILL)
    thread.join(30)
    _wait_for_another(server, pid)
    return answers[0] if answers else None


def _wait_for_another(server: Server, pid: int) -> None:
    deadline = time.monotonic() + 30
    while True:
        with suppress(OSError, http.client.HTTPException):
            if server.processes() not in ([], [pid]) and server.open("/health").status_code == 200:
                return
        server.hang_up()
        assert time.monotonic() < deadline, server.output()
        time.sleep(0.02)


def deliver_again_and_again(
    server: Server, source: ASource, body: Any, rows: Rows, expected: int, **headers: str
) -> list[str]:
    """Deliver a body until it was answered five times, with a kill -9 during some deliveries; the ids of its events. After each
    kill either all of its events are stored or none."""
    rng = random.Random(expected)
    answers: list[dict[str, Any]] = []
    for _ in range(REDELIVERIES):
        answer = post_and_kill(server, lambda: source.post(body, **headers), rng.uniform(0, 0.02))
        (count,) = rows("SELECT count(*) FROM events WHERE account_id = %s", source.account_id)[0]
        assert count in (0, expected)
        if answer is not None:
            assert answer.status_code == 200, answer.text
            assert count == expected
            answers.append(answer.json)
        answers.append(source.post(body, **headers).json)
    assert len(answers) >= REDELIVERIES
    stored = rows("SELECT id::text FROM events WHERE account_id = %s ORDER BY id", source.account_id)
    assert len(stored) == expected
    assert {tuple(answer["events"]) for answer in answers} == {tuple(event for (event,) in stored)}
    # The answer to the delivery that stored the events may be lost, but each delivery that was answered is kept.
    kept = rows("SELECT id::text, result FROM deliveries WHERE account_id = %s ORDER BY id", source.account_id)
    assert {(answer["delivery"], answer["result"]) for answer in answers} <= set(kept)  # type: ignore[comparison-overlap]
    assert [result for _, result in kept] == ["accepted", *["duplicate"] * (len(kept) - 1)]
    return [str(event) for (event,) in stored]


def test_an_array_of_50_is_stored_once(context: AppContext, own_server: Server, own_acme: Sender, rows: Rows) -> None:
    source = a_source(context, own_server, own_acme.account_id, events=[{"each": "body[]"}])
    body = json.dumps([an_order(number) for number in range(50)]).encode()
    events = deliver_again_and_again(own_server, source, body, rows, 50)
    found = rows(
        "SELECT data ->> 'id' FROM events WHERE account_id = %s AND id::text = ANY (%s) ORDER BY id",
        own_acme.account_id,
        events,
    )
    assert found == [(f"order-{number}",) for number in range(50)]


def test_single_events_at_the_same_time_are_stored_once(
    context: AppContext, own_server: Server, own_acme: Sender, rows: Rows
) -> None:
    source = a_source(context, own_server, own_acme.account_id)
    (pid,) = own_server.processes()
    accepted: list[tuple[int, str]] = []

    def post_all(numbers: range) -> None:
        for number in numbers:
            while True:
                try:
                    answer = source.post(an_order(number))
                except (OSError, http.client.HTTPException):
                    own_server.hang_up()
                    continue
                accepted.append((number, *answer.json["events"]))
                break

    threads = [threading.Thread(target=post_all, args=(range(start, start + 40),)) for start in (0, 20, 40, 60)]
    for thread in threads:
        thread.start()
    time.sleep(0.1)
    os.kill(pid, signal.SIGKILL)
    for thread in threads:
        thread.join(60)
    stored = dict(
        rows("SELECT (data ->> 'id'), id::text FROM events WHERE account_id = %s", own_acme.account_id)  # type: ignore[arg-type]
    )
    assert len(stored) == 100
    assert rows("SELECT count(*) FROM events WHERE account_id = %s", own_acme.account_id) == [(100,)]
    assert {(f"order-{number}", event) for number, event in accepted} == set(stored.items())


def whatsapp_body() -> bytes:
    """A delivery of WhatsApp with three messages and two statuses."""
    contact = {"profile": {"name": "Asha"}, "wa_id": "915673412780"}
    head = {"messaging_product": "whatsapp", "metadata": {"phone_number_id": "106540352242922"}, "contacts": [contact]}
    messages = [
        {
            "from": "915673412780",
            "id": f"wamid.{number}",
            "timestamp": "1764400000",
            "type": "text",
            "text": {"body": "hi"},
        }
        for number in range(3)
    ]
    statuses = [
        {"id": "wamid.sent", "status": status, "timestamp": "1764400001", "recipient_id": "915673412781"}
        for status in ("sent", "delivered")
    ]
    changes = [{"field": "messages", "value": {**head, "messages": messages}}]
    changes.append({"field": "messages", "value": {**head, "statuses": statuses}})
    entry = {"id": "102290129340398", "changes": changes}
    return json.dumps({"object": "whatsapp_business_account", "entry": [entry]}).encode()


def test_a_delivery_of_whatsapp_with_messages_and_statuses_is_stored_once(
    context: AppContext, own_server: Server, own_acme: Sender, rows: Rows
) -> None:
    source = a_source(context, own_server, own_acme.account_id, provider="whatsapp", verify=..., events=..., map=...)
    body = whatsapp_body()
    signature = "sha256=" + hmac.digest(SECRET.encode(), body, "sha256").hex()
    deliver_again_and_again(own_server, source, body, rows, 5, X_Hub_Signature_256=signature)
    found = rows(
        "SELECT event, distinct_id, phone, data ->> 'id' FROM events WHERE account_id = %s ORDER BY id",
        own_acme.account_id,
    )
    assert found == [
        *(("message.text", "915673412780", "+915673412780", f"wamid.{number}") for number in range(3)),
        ("message.status.sent", "915673412781", "+915673412781", "wamid.sent"),
        ("message.status.delivered", "915673412781", "+915673412781", "wamid.sent"),
    ]


def test_an_order_of_shopify_that_is_split_into_lines_is_stored_once(
    context: AppContext, own_server: Server, own_acme: Sender, rows: Rows
) -> None:
    document = {
        "provider": "shopify",
        "verify": ...,
        "events": [{"each": "body.line_items[]"}],
        "map": {"event": "'order.line'", "data": "item", "distinct_id": "body.customer.id"},
    }
    source = a_source(context, own_server, own_acme.account_id, **document)
    lines = [{"id": 700 + number, "sku": f"S-{number}", "quantity": 1} for number in range(4)]
    body = json.dumps({"id": 1, "customer": {"id": 17, "phone": "+915673412780"}, "line_items": lines}).encode()
    headers = {
        "X_Shopify_Hmac_Sha256": base64.b64encode(hmac.digest(SECRET.encode(), body, "sha256")).decode(),
        "X_Shopify_Topic": "orders/create",
        "X_Shopify_Webhook_Id": "b54557e4-bdd9-4b37-8a5f-bf7d70bcd043",
    }
    deliver_again_and_again(own_server, source, body, rows, 4, **headers)
    found = rows(
        "SELECT event, distinct_id, phone, data ->> 'sku' FROM events WHERE account_id = %s ORDER BY id",
        own_acme.account_id,
    )
    assert found == [("order.line", "17", "+915673412780", f"S-{number}") for number in range(4)]
