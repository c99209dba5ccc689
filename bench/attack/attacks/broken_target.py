"""A URL of the victim answers 500, and runs for it keep coming: do they hold back the runs for another path of the same host?"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

from app.services import workflows
from bench.attack.stage import Attack, Stage
from bench.attack.victim import PATH

SENT = 20


@contextmanager
def broken_target(stage: Stage) -> Iterator[None]:
    """The circuit of the broken URL opens after five of these runs."""
    document = {"name": "broken", "on": "broken", "steps": [{"http": {"url": f"{stage.victim_target}500/hook"}}]}
    workflows.apply_workflow(stage.context, stage.victim.account, json.dumps(document))

    def request(number: int) -> bytes:
        return stage.victim.request(PATH, {"event": "broken", "distinct_id": f"broken-{number}", "data": {}})

    with stage.flood(request, rate=SENT):
        yield
    held = stage.base.query("SELECT count(*) FROM runs WHERE held_by IS NOT NULL")
    calls = stage.base.query("SELECT count(*) FROM attempts WHERE outcome <> 'done'")
    stage.note(f"{calls} calls of the broken URL, {held} runs wait for it")


ATTACK = Attack(
    broken_target,
    sends=f"{SENT} events a second whose runs call a URL that answers 500, on the host of the victim's other runs",
    bound="one circuit for each method and path",
    runs=True,
)
