"""Unknown keys, clients and tickets: their look-ups are bounded, and known ones are not affected."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from structlog.testing import capture_logs

from app import create_app
from app.core import config, metrics
from app.core.api_keys import make_client, make_key, make_token_prefix
from app.core.lookup_budget import BURST
from app.core.models import ACCOUNT_MANAGE, EVENTS_READ, EVENTS_WRITE
from app.services import api_keys, message_stream
from app.services.context import AppContext
from tests.api.conftest import settings_of
from tests.support.builders import Sender, a_sender, an_event

Request = Callable[[FlaskClient, str], Any]


@pytest.fixture
def fresh(context: AppContext) -> Flask:
    """A process whose budget is unused."""
    return create_app(config.from_environment(settings_of(context)))


def post_event(client: FlaskClient, key: str) -> Any:
    return client.post("/api/v1/cvf-events", json=an_event(), headers={"x-limechat-uat": key, "x-fb-account-id": "1"})


def post_batch(client: FlaskClient, key: str) -> Any:
    headers = {"x-limechat-uat": key, "x-fb-account-id": "1"}
    return client.post("/api/v1/cvf-events/batch", json=[an_event()], headers=headers)


def post_to_tenant(client: FlaskClient, key: str) -> Any:
    return client.post("/1.0/tenants/x/event", json={}, headers={"Authorization": f"Bearer {key}"})


def list_patterns(client: FlaskClient, key: str) -> Any:
    return client.get("/1.0/tenants/x/patterns", headers={"Authorization": f"Bearer {key}"})


def post_to_listener(client: FlaskClient, key: str) -> Any:
    return client.post(f"/1.0/tenants/x/listeners/LI1/receive?token={key}", json={})


def an_unknown_token() -> str:
    return f"sbt_{make_token_prefix()}_{'x' * 43}"


def use_up(client: FlaskClient) -> None:
    """Send unknown keys until the process does not look any further one up."""
    for _ in range(int(BURST) + 50):
        if post_event(client, make_key()[0]).status_code == 503:
            return
    raise AssertionError("every unknown key was looked up")


@pytest.mark.parametrize(
    ("request_with", "make", "status"),
    [
        (post_event, lambda: make_key()[0], 503),
        (post_event, an_unknown_token, 503),
        (post_batch, lambda: make_key()[0], 503),
        (post_to_tenant, an_unknown_token, 403),
        (list_patterns, lambda: make_key()[0], 403),
        (post_to_listener, lambda: make_key()[0], 403),
    ],
)
def test_an_unknown_key_beyond_the_budget_is_asked_to_come_again(
    fresh: Flask, request_with: Request, make: Callable[[], str], status: int
) -> None:
    client = fresh.test_client()
    use_up(client)
    before = metrics.lookups_refused._value.get()
    # The budget grows with time: one of a few requests finds it used up.
    answers = [request_with(client, make()) for _ in range(20)]
    refused = [answer for answer in answers if answer.status_code == status]
    assert {answer.headers["Retry-After"] for answer in refused} == {"2"}
    assert metrics.lookups_refused._value.get() >= before + len(refused) > before


def test_a_known_key_is_not_affected(context: AppContext, fresh: Flask) -> None:
    sender = a_sender(context, fresh.test_client())
    assert sender.post(an_event()).status_code == 200
    use_up(fresh.test_client())
    assert [sender.post(an_event()).status_code for _ in range(50)] == [200] * 50


def test_a_new_key_is_answered_at_the_latest_by_its_retry(context: AppContext, fresh: Flask) -> None:
    client = fresh.test_client()
    sender = a_sender(context, client)
    # Its account is known: only the key is new.
    assert sender.post(an_event()).status_code == 200
    new = replace(sender, token=api_keys.create_key(context, sender.account_id, "new", (EVENTS_WRITE,)))
    freeze(fresh)
    use_up(client)
    assert new.post(an_event()).status_code == 503
    advance(fresh, 2.0)
    exhaust(fresh)
    assert new.post(an_event()).status_code == 200
    assert sender.post(an_event()).status_code == 200


def test_a_client_with_the_right_secret_gets_its_token_at_the_latest_by_its_retry(
    context: AppContext, fresh: Flask
) -> None:
    client = fresh.test_client()
    sender = a_sender(context, client)
    client_id, secret = api_keys.create_client(context, sender.account_id, "shop")
    freeze(fresh)

    def token(client_id: str, secret: str) -> int:
        form = {"grant_type": "client_credentials", "client_id": client_id, "client_secret": secret}
        return client.post("/1.0/token", data=form).status_code

    statuses = [token(*make_client()[:2]) for _ in range(int(BURST) + 1)]
    assert statuses == [401] * int(BURST) + [403]
    assert token(client_id, secret) == 403
    advance(fresh, 2.0)
    exhaust(fresh)
    assert token(client_id, secret) == 200


def test_a_wrong_secret_of_a_known_client_counts(context: AppContext, fresh: Flask, acme: Sender) -> None:
    client_id, secret = api_keys.create_client(context, acme.account_id, "shop")
    own: AppContext = fresh.extensions["context"]
    freeze(fresh)
    for _ in range(int(BURST) - 1):
        assert api_keys.authenticate_client(own, client_id, "cs_wrong") is None
    for _ in range(3):
        assert api_keys.authenticate_client(own, client_id, secret) is not None


def test_unknown_tickets_are_answered_with_an_empty_stream_beyond_the_budget(
    context: AppContext, fresh: Flask, acme: Sender
) -> None:
    client = fresh.test_client()
    key = api_keys.create_key(context, acme.account_id, "reader", (EVENTS_READ, ACCOUNT_MANAGE))
    ticket = message_stream.make_ticket(context, acme.account_id, key[3:11]).ticket
    freeze(fresh)

    def stream(ticket: str) -> Any:
        return client.get(f"/1.0/tenants/{acme.slug}/stream?ticket={ticket}")

    assert {stream(f"unknown{number}").status_code for number in range(int(BURST))} == {401}
    with capture_logs() as logged:
        beyond = stream("unknown")
    assert logged == []
    assert (beyond.status_code, beyond.text) == (200, "retry: 5000\n\n")
    advance(fresh, 2.0)
    exhaust(fresh)
    stream(ticket)
    advance(fresh, 2.0)
    exhaust(fresh)
    assert stream(ticket).text.startswith("retry: 1000\n")


def budgets(app: Flask) -> list[Any]:
    own: AppContext = app.extensions["context"]
    return [own.limits.key_lookups, own.limits.client_lookups, own.limits.ticket_lookups]


def freeze(app: Flask) -> None:
    """Let the budgets' time stand still, so that they do not grow while the test runs."""
    for budget in budgets(app):
        now = budget._monotonic()
        budget._monotonic = lambda now=now: now


def advance(app: Flask, seconds: float) -> None:
    """Let the frozen time pass."""
    for budget in budgets(app):
        now = budget._monotonic() + seconds
        budget._monotonic = lambda now=now: now


def exhaust(app: Flask) -> None:
    """Use up what has grown meanwhile, as further unknown names would."""
    for budget in budgets(app):
        budget._left, budget._counted_at = 0.0, budget._monotonic()
