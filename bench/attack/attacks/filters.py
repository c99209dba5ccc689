"""Four senders post 553 bytes each that unpack to a list of 170,000 objects, which 200 filters of one pattern read."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from contextlib import contextmanager

from app.services import workflows
from bench.attack.stage import Attack, Stage

SENDERS = 4
FILTERS = 200
BODY = b'{"event":"x","distinct_id":"1","data":{"l":[' + b",".join([b"{}"] * 170_000) + b"]}}"


@contextmanager
def filters(stage: Stage) -> Iterator[None]:
    """Post the body as fast as it is answered."""
    leaves = [{"event": "x", "where": f"data.l.exists(x, x == {number})"} for number in range(FILTERS)]
    document = {"name": "filters", "on": {"any": leaves}, "steps": [{"log": "matched"}]}
    workflows.apply_workflow(stage.context, stage.attacker.account, json.dumps(document))
    packed = gzip.compress(BODY)
    request = stage.attacker.request("/api/v1/cvf-events", packed, headers={"Content-Encoding": "gzip"})
    with stage.flood(lambda number: request, rate=200, max_open=SENDERS) as answers:
        yield
    if not answers["200"]:
        stage.fail("no event of the attacker was stored")
    stage.note(f"{len(packed)} bytes packed")


ATTACK = Attack(
    filters,
    sends=f"{SENDERS} senders, each a gzip body of 170,000 `{{}}` for a pattern with {FILTERS} filters",
    bound="a budget of work for each event, other requests run in between",
)
