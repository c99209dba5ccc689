"""Deliveries as providers sign them, over HTTP: accepted once, refused when they are late, early, forged or changed."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import pytest

from app.ingest.sources.delivery_values import DeliveryRequest
from app.services.context import AppContext
from tests.api.conftest import Rows
from tests.support.builders import Sender
from tests.support.server import Answer, Server
from tests.support.sources import a_source
from tests.support.webhook_senders import SENDERS, WebhookSender, a_delivery

BY_NAME = {sender.name: sender for sender in SENDERS}
# A body has no id of its own here: what comes twice would be stored twice.
_MAP = {"event": "'thing'", "distinct_id": "'somebody'", "data": "body"}


def _path(context: AppContext, server: Server, acme: Sender, sender: WebhookSender, **changes: Any) -> str:
    sections = {"secrets": [sender.secret], "verify": sender.section, "events": ..., "map": _MAP, **changes}
    return f"/hooks/{a_source(context, server, acme.account_id, **sections).token}"


def _addressed(sender: WebhookSender, server: Server, path: str) -> WebhookSender:
    """The sender, with deliveries for the URL of a source."""
    query = urlsplit(sender.delivery.url).query
    url = f"http://127.0.0.1:{server.port}{path}{f'?{query}' if query else ''}"
    return replace(sender, delivery=replace(sender.delivery, url=url))


def _post(server: Server, delivery: DeliveryRequest) -> Answer:
    target = delivery.url.removeprefix(f"http://127.0.0.1:{server.port}")
    return server.open(target, method=delivery.method, data=delivery.raw_body, headers=delivery.headers)


@pytest.mark.parametrize("sender", SENDERS, ids=lambda sender: sender.name)
def test_a_signed_delivery_is_accepted_and_one_without_its_signature_is_not(
    context: AppContext, server: Server, acme: Sender, sender: WebhookSender
) -> None:
    sender = _addressed(sender, server, _path(context, server, acme, sender))
    at = datetime.now(UTC)
    answer = _post(server, sender.send(at))
    assert (answer.status_code, answer.json["result"], len(answer.json["events"])) == (200, "accepted", 1)
    assert _post(server, sender.delivery).status_code == 401


@pytest.mark.parametrize("name", ["stripe", "standard-webhooks", "slack", "sendgrid", "hubspot", "mailgun"])
@pytest.mark.parametrize("minutes", [-6, 6], ids=["late", "early"])
def test_a_late_or_early_delivery_is_refused_with_the_reason(
    context: AppContext, server: Server, acme: Sender, name: str, minutes: int
) -> None:
    sender = BY_NAME[name]
    sent = _addressed(sender, server, _path(context, server, acme, sender)).send(
        datetime.now(UTC) + timedelta(minutes=minutes)
    )
    answer = _post(server, sent)
    assert answer.status_code == 401
    assert answer.json["detail"].endswith("the tolerance is 5m.")
    longer = {**sender.section, "tolerance": "1h"}
    path = _path(context, server, acme, sender, name="patient", verify=longer)
    sent = _addressed(sender, server, path).send(datetime.now(UTC) + timedelta(minutes=minutes))
    assert _post(server, sent).status_code == 200


def test_a_delivery_with_the_token_of_another_one_is_a_duplicate(
    context: AppContext, server: Server, acme: Sender, rows: Rows
) -> None:
    sender = BY_NAME["mailgun"]
    path = _path(context, server, acme, sender)
    sent = _addressed(sender, server, path).send(datetime.now(UTC))
    # Mailgun does not sign the rest of the body.
    forged = replace(sent, raw_body=sent.raw_body.replace(b"order.paid", b"order.void"))
    results = [_post(server, one).json["result"] for one in (sent, sent, forged)]
    assert results == ["accepted", "duplicate", "duplicate"]
    assert rows("SELECT count(*) FROM events WHERE account_id = %s", acme.account_id) == [(1,)]


def test_both_secrets_are_valid_during_a_rotation(context: AppContext, server: Server, acme: Sender) -> None:
    sender = BY_NAME["razorpay"]
    path = _path(context, server, acme, sender, secrets=["the new secret", sender.secret])
    for secret, status in (("the new secret", 200), (sender.secret, 200), ("an older one", 401)):
        sent = _addressed(replace(sender, secret=secret), server, path).send(datetime.now(UTC))
        assert _post(server, sent).status_code == status


def test_a_shared_secret_is_not_stored_with_the_delivery(
    context: AppContext, server: Server, acme: Sender, rows: Rows
) -> None:
    sender = BY_NAME["cloudevents"]
    secret = sender.secret.replace(" ", "%20")
    path = _path(context, server, acme, sender)
    url = f"http://127.0.0.1:{server.port}{path}?access_token={secret}&shop=1"
    answer = _post(server, a_delivery(url=url, headers={"authorization": f"Bearer {sender.secret}"}))
    assert answer.status_code == 200
    (row,) = rows("SELECT headers, query FROM deliveries WHERE account_id = %s", acme.account_id)
    assert (row[0]["authorization"], row[1]) == ("***", "access_token=***&shop=1")  # type: ignore[index]


def test_a_secret_that_cannot_be_read_is_answered_as_a_fault_of_ours(
    context: AppContext, server: Server, acme: Sender
) -> None:
    sender = BY_NAME["standard-webhooks"]
    path = _path(context, server, acme, sender, secrets=["not base64!"])
    answer = _post(server, _addressed(sender, server, path).send(datetime.now(UTC)))
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "60")
    assert answer.json["detail"] == ("The delivery cannot be verified: no secret of the source is base64. Retry later.")
