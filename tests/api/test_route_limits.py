"""The limits of token and management routes: whom a request counts for, and the `flask limiter` commands."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from flask import Flask
from flask.testing import FlaskClient

from app import create_app
from app.api import bearer_limit
from app.api.cxengage import stream
from app.core.models import ACCOUNT_MANAGE, EVENTS_READ
from app.services import api_keys
from app.services.context import AppContext
from tests.support.builders import a_sender

FAILURES = 300


@pytest.fixture
def clients(context: AppContext) -> Iterator[dict[int | None, FlaskClient]]:
    """Clients of applications with that many trusted proxies (None: the setting is absent)."""
    apps = {count: create_app(replace(context.settings, trusted_proxies=count)) for count in (0, 1, None)}
    yield {count: app.test_client() for count, app in apps.items()}
    for app in apps.values():
        app.extensions["context"].database.close()


def request_token(client: FlaskClient, forwarded: str, peer: str | None = "127.0.0.1") -> int:
    """The status of a failed request for a token from `peer` (None: through a Unix socket)."""
    environ = {"REMOTE_ADDR": peer or ""}
    return client.post("/token", headers={"X-Forwarded-For": forwarded}, environ_overrides=environ).status_code


def failures_of(client: FlaskClient, address: str, peer: str | None = "127.0.0.1") -> int:
    """How many of so many failed requests for a token are answered before the limit."""
    statuses = [request_token(client, address, peer) for _ in range(FAILURES + 1)]
    assert set(statuses) <= {401, 429}
    return statuses.count(401)


def test_behind_a_trusted_proxy_failures_count_for_the_forwarded_address(
    clients: dict[int | None, FlaskClient],
) -> None:
    assert failures_of(clients[1], "192.0.2.1") == FAILURES
    assert clients[1].post("/token", headers={"X-Forwarded-For": "192.0.2.2"}).status_code == 401
    assert clients[1].post("/token", headers={"X-Forwarded-For": "192.0.2.2, 192.0.2.1"}).status_code == 429


def test_without_trusted_proxies_a_forwarded_address_is_ignored(clients: dict[int | None, FlaskClient]) -> None:
    assert failures_of(clients[0], "192.0.2.1") == FAILURES
    assert clients[0].post("/token", headers={"X-Forwarded-For": "192.0.2.2"}).status_code == 429


@pytest.mark.parametrize("peer", ["127.0.0.1", "::1", None])
def test_without_the_setting_a_proxy_on_this_machine_is_trusted(
    clients: dict[int | None, FlaskClient], peer: str | None
) -> None:
    address = f"192.0.2.{len(peer or '')}"
    assert failures_of(clients[None], f"198.51.100.9, {address}", peer) == FAILURES
    assert request_token(clients[None], address, peer) == 429
    assert request_token(clients[None], "192.0.2.99", peer) == 401


def test_without_the_setting_no_other_peer_is_trusted(clients: dict[int | None, FlaskClient]) -> None:
    assert failures_of(clients[None], "192.0.2.50", "203.0.113.1") == FAILURES
    assert request_token(clients[None], "192.0.2.51", "203.0.113.1") == 429
    assert request_token(clients[None], "192.0.2.50", "203.0.113.2") == 401


def bearer(context: AppContext, client: FlaskClient) -> tuple[str, dict[str, str]]:
    """The slug of a new account, and headers that may manage it."""
    sender = a_sender(context, client)
    token = api_keys.create_key(context, sender.account_id, "manage", (ACCOUNT_MANAGE,))
    return sender.slug, {"Authorization": f"Bearer {token}"}


def test_management_routes_count_for_the_account(
    context: AppContext, client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bearer_limit, "MAX_PER_MINUTE", 3)
    (acme, by_acme), (globex, by_globex) = bearer(context, client), bearer(context, client)
    paths = [f"/tenants/{acme}/patterns", "/1.0/account", f"/1.0/tenants/{acme}/", f"/tenants/{acme}/templates"]
    assert [client.get(path, headers=by_acme).status_code for path in paths] == [200, 200, 200, 429]
    assert client.get(f"/tenants/{globex}/patterns", headers=by_globex).status_code == 200


def test_management_requests_without_a_valid_token_count_for_the_address(
    context: AppContext, client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bearer_limit, "MAX_PER_MINUTE", 3)
    slug, headers = bearer(context, client)
    assert [client.get("/account").status_code for _ in range(4)] == [401, 401, 401, 429]
    assert client.get(f"/tenants/{slug}/patterns", headers=headers).status_code == 200


def stream_of(context: AppContext, client: FlaskClient) -> str:
    """The path of a new account's stream, with a ticket."""
    sender = a_sender(context, client)
    token = api_keys.create_key(context, sender.account_id, "reader", (EVENTS_READ,))
    answer = client.post(f"/tenants/{sender.slug}/ticket", headers={"Authorization": f"Bearer {token}"})
    return f"/tenants/{sender.slug}/stream?ticket={answer.get_json()['ticket']}"


def test_streams_count_for_the_ticket(
    context: AppContext, client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "MAX_PER_MINUTE", 3)
    acme, globex = stream_of(context, client), stream_of(context, client)
    assert [client.get(acme).data for _ in range(4)] == [b"retry: 1000\n\n"] * 3 + [b"retry: 5000\n\n"]
    assert client.get(globex).data == b"retry: 1000\n\n"


def test_stream_requests_without_a_valid_ticket_count_for_the_address(
    context: AppContext, client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "MAX_PER_MINUTE", 3)
    valid = stream_of(context, client)
    invalid = [client.get("/tenants/nobody/stream?ticket=x") for _ in range(4)]
    assert [answer.status_code for answer in invalid] == [401, 401, 401, 200]
    assert invalid[3].data == b"retry: 5000\n\n"
    assert client.get(valid).data == b"retry: 1000\n\n"


def test_no_hook_of_the_limiter_runs_for_events(app: Flask) -> None:
    assert {"limechat_events", "limechat_batch", None}.isdisjoint(app.before_request_funcs)
    assert [hook.__name__ for hook in app.after_request_funcs[None]] == ["finish"]


@pytest.mark.parametrize("command", [["config"], ["limits"], ["clear", "--key", "account:1", "-y"]])
def test_the_limiter_commands_work(app: Flask, command: list[str]) -> None:
    from flask_limiter.commands import cli

    result = app.test_cli_runner().invoke(cli, command)
    assert result.exit_code == 0, result.output
    assert "No Flask-Limiter extension" not in result.output
    if command == ["limits"]:
        assert "600 per 1 minute" in result.output
