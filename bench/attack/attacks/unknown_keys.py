"""Keys, tokens, clients and tickets that do not exist: each one costs a query, if it is looked up."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlencode

from app.core.api_keys import make_client, make_key, make_token_prefix
from app.core.lookup_budget import RATE
from bench.attack.stage import Attack, Stage, http_request

SENT = 400


@contextmanager
def unknown_keys(stage: Stage) -> Iterator[None]:
    """Every request has another secret, which has the right shape and was never created."""

    def request(number: int) -> bytes:
        return _REQUESTS[number % len(_REQUESTS)](stage)

    with stage.flood(request, rate=SENT):
        yield


def _event(stage: Stage, key: str) -> bytes:
    headers = {"x-limechat-uat": key, "x-fb-account-id": str(stage.victim.account)}
    return http_request("/api/v1/cvf-events", {"event": "x", "distinct_id": "1"}, headers=headers)


def _key(stage: Stage) -> bytes:
    return _event(stage, make_key()[0])


def _mistyped_key(stage: Stage) -> bytes:
    return _event(stage, f"{make_key()[0][:-6]}{secrets.token_urlsafe(6)[:6]}")


def _earlier_key(stage: Stage) -> bytes:
    return _event(stage, make_key()[0][:-6])


def _access_token(stage: Stage) -> bytes:
    headers = {"Authorization": f"Bearer sbt_{make_token_prefix()}_{secrets.token_urlsafe(32)}"}
    return http_request(f"/1.0/tenants/{stage.victim.slug}/event", {"key": "1"}, headers=headers)


def _client(stage: Stage) -> bytes:
    client_id, secret, _ = make_client()
    form = {"grant_type": "client_credentials", "client_id": client_id, "client_secret": secret}
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    return http_request("/1.0/token", urlencode(form).encode(), headers=headers)


def _ticket(stage: Stage) -> bytes:
    path = f"/1.0/tenants/{stage.victim.slug}/stream?ticket={secrets.token_urlsafe(32)}"
    return http_request(path, b"", method="GET", headers={})


_REQUESTS = (_key, _mistyped_key, _earlier_key, _access_token, _client, _ticket)
ATTACK = Attack(
    unknown_keys,
    sends=f"{SENT} requests a second, each with another unknown key, access token, OAuth client or ticket",
    bound=f"{RATE:.0f} failed look-ups a second and process for keys and tokens, clients, and tickets each",
)
