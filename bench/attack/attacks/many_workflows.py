"""Events that 600 workflows look at, whose filters no index can answer: each event is within its budget, all take two cores."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

from app.services import workflows
from bench.attack.stage import Attack, Stage
from bench.attack.victim import PATH

WORKFLOWS = 600
RATE = 100
# Each filter goes through the list: about 300 units of work.
DATA = {"l": list(range(30))}


@contextmanager
def many_workflows(stage: Stage) -> Iterator[None]:
    """Post events at the rate of the plan `trial`; count what was decided at once, and what was left to the worker."""
    for number in range(WORKFLOWS):
        on = {"event": "x", "where": f"data.l.exists(x, x == {1_000 + number})"}
        document = {"name": f"w{number}", "on": on, "steps": [{"log": "matched"}]}
        workflows.apply_workflow(stage.context, stage.attacker.account, json.dumps(document))

    def request(number: int) -> bytes:
        return stage.attacker.request(PATH, {"event": "x", "distinct_id": f"{number}", "data": DATA})

    with stage.flood(request, rate=RATE) as answers:
        yield
    stored = answers["200"]
    if not stored:
        stage.fail("no event of the attacker was stored")
    where = f"FROM events WHERE account_id = {stage.attacker.account} AND decisions"
    late = stage.base.query(
        f'SELECT count(*) {where} @> \'[{{"reason": "not_evaluated: time (a worker evaluates it)"}}]\''
    )
    stage.note(f"{stored:,} events, {late} of them still to be matched by a worker")


ATTACK = Attack(
    many_workflows,
    sends=f"{RATE} events a second that {WORKFLOWS} workflows look at, whose filters all have to be evaluated",
    bound="a quarter of a core for the matching of one account in each process; the rest is matched by the worker",
    runs=True,
)
