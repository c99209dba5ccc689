"""Events of one subject, which a pattern of many events has to take one after the other."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

from app.services import workflows
from bench.attack.stage import Attack, Stage

SENDERS = 60
RATE = 300


@contextmanager
def one_subject(stage: Stage) -> Iterator[None]:
    """Post events of one subject, and let many wait for the lock of its match state."""
    document = {"name": "many", "on": {"times": 900, "of": {"event": "x"}}, "steps": [{"log": "matched"}]}
    workflows.apply_workflow(stage.context, stage.attacker.account, json.dumps(document))
    request = stage.attacker.request("/api/v1/cvf-events", {"event": "x", "distinct_id": "1", "data": {}})
    with stage.flood(lambda number: request, rate=RATE, max_open=SENDERS) as answers:
        yield
    if not answers["200"]:
        stage.fail("no event of the attacker was stored")


ATTACK = Attack(
    one_subject,
    sends=f"{RATE} events a second of one subject, {SENDERS} at a time, which a pattern of 900 events remembers",
    bound="one event of a subject at a time, and a third of the connections for each account",
)
