"""Keys that do not exist: each one used to cost a query, and they filled the database connections of the web process."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager

from app.core.api_keys import make_key
from bench.attack.stage import Attack, Stage, http_request

RATE = 400


@contextmanager
def unknown_keys(stage: Stage) -> Iterator[None]:
    """Every request has another key, which has the right shape and was never created."""

    def request(number: int) -> bytes:
        key = make_key()[0] if number % 2 else f"sb_{secrets.token_hex(4)}_{secrets.token_urlsafe(32)}"
        headers = {"x-limechat-uat": key, "x-fb-account-id": str(stage.victim.account)}
        return http_request("/api/v1/cvf-events", {"event": "x", "distinct_id": "1"}, headers=headers)

    with stage.flood(request, rate=RATE):
        yield


ATTACK = Attack(unknown_keys, sends=f"{RATE} requests a second, each with another unknown key", bound="none yet")
