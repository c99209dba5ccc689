"""Deliveries with wrong signatures to the URL of a source, which the attacker knows."""

from __future__ import annotations

import base64
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from bench.attack.stage import Attack, Stage, http_request
from bench.source import EVENT, ORDER, save_source

SENT = 400
_BODY = json.dumps({**ORDER, "note": "x" * 50_000}).encode()


@contextmanager
def bad_signatures(stage: Stage) -> Iterator[None]:
    """Every request is refused after its body of 51 kB was read and hashed."""
    token = save_source(stage.context, stage.attacker.account)

    def request(number: int) -> bytes:
        signature = base64.b64encode(os.urandom(32)).decode()
        headers = {"Content-Type": "application/json", "X-Shopify-Topic": EVENT, "X-Shopify-Hmac-Sha256": signature}
        return http_request(f"/hooks/{token}", _BODY, headers=headers)

    began = time.monotonic()
    with stage.flood(request, rate=SENT):
        yield
    kept = stage.base.query("SELECT count(*) FROM deliveries WHERE account_id = %s", stage.attacker.account)
    stage.note(f"{kept} deliveries are kept")
    if kept > time.monotonic() - began + 2:
        stage.failures.append(f"{kept} unverified deliveries are kept, more than one a second")


ATTACK = Attack(
    bad_signatures,
    sends=f"{SENT} deliveries a second of 51 kB to a source, each with a wrong signature",
    bound="one HMAC and no query each; one a second and source is kept",
)
