"""15,000 postponed events of one account, all due at once: a worker matches them while it executes the runs of others."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg2
from psycopg2.extras import execute_values

from app.core.ids import timestamp_of, uuid7
from app.db.event_writes import decisions_json
from app.db.job_queue import MATCH
from app.db.late_decisions import ALL_LATE
from app.services import workflows
from bench.attack.stage import Attack, Stage

EVENTS = 15_000
WORKFLOWS = 30
DATA = json.dumps({"l": list(range(30))})


@contextmanager
def postponed_backlog(stage: Stage) -> Iterator[None]:
    """Store events whose matching was postponed, with their jobs; count how many the worker matches."""
    account = stage.attacker.account
    for number in range(WORKFLOWS):
        on = {"event": "x", "where": f"data.l.exists(x, x == {1_000 + number})"}
        document = {"name": f"w{number}", "on": on, "steps": [{"log": "matched"}]}
        workflows.apply_workflow(stage.context, account, json.dumps(document))
    _store(stage.base.url, account)
    count, began = "SELECT count(*) FROM jobs WHERE kind = %s", time.monotonic()
    yield
    seconds = time.monotonic() - began
    matched = EVENTS - stage.base.query(count, MATCH)
    if not matched:
        stage.fail("the worker matched no event")
    stage.note(f"{matched:,} events matched, {matched / seconds:,.0f} a second")


def _store(url: str, account: int) -> None:
    decisions = decisions_json([ALL_LATE])
    ids = [uuid7() for _ in range(EVENTS)]
    events = [(account, str(each), "x", "1", DATA, timestamp_of(each), decisions) for each in ids]
    columns = "account_id, id, event, distinct_id, data, received_at, decisions"
    with psycopg2.connect(url) as connection, connection.cursor() as cursor:
        execute_values(cursor, f"INSERT INTO events ({columns}) VALUES %s", events)
        execute_values(
            cursor,
            "INSERT INTO jobs (kind, payload, due_at) VALUES %s",
            [(MATCH, f"{account}:{each}", "now") for each in ids],
        )


ATTACK = Attack(
    postponed_backlog,
    sends=f"{EVENTS:,} events that were stored and not matched, of an account with {WORKFLOWS} workflows",
    bound="the account's share of the worker",
    runs=True,
)
