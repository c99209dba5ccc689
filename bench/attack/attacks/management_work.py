"""Checks of large documents, trials and backtests by the management API: each request is bounded, all take a core."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import psutil
import psycopg2

from app.core.models import EVENTS_READ, WORKFLOWS_READ
from app.services import api_keys
from bench.attack.stage import Attack, Stage, http_request

API = "/api/v1/manage"
SENDERS, RATE = 4, 8
EVENTS = 20_000
_ADD_EVENTS = """
INSERT INTO events (account_id, id, event, distinct_id, data, received_at)
SELECT %s, gen_random_uuid(), 'x', (number %% 100)::text, '{"a": 1, "l": [1, 2, 3]}', now() - number * interval '1 ms'
FROM generate_series(1, %s) AS number
"""
_CONDITION = " && ".join(f"data.a{number} == {number}" for number in range(100))
_LOOP = "{% for i in (1..9000) %}{{ i | times: 3 | divided_by: 7 }}{% endfor %}"
_TAGS = "{{ data.a | append: 'x' | append: 'x' }}" * 1_600


def _document(steps: list[Any]) -> str:
    on = {"event": "x", "where": "data.l.exists(one, one == 3)"}
    return json.dumps({"name": "w", "on": on, "steps": steps})


CHECKED = (
    _document([{"if": f"{_CONDITION} && data.z == {number}", "then": []} for number in range(100)]),
    _document([{"log": _TAGS + "." * number} for number in range(3)]),
    _document([{"log": "{{ data.a }} " * 100} for _ in range(180)]),
    "#\n" * 125_000,
    "steps: {a" + ",b" * 120_000 + "}",
    json.dumps({"log": "word " * 50_000}),
)
EVENT = {"event": "x", "distinct_id": "1", "data": {"a": 1, "l": list(range(1_000))}}
BACKTEST = {
    "name": "w",
    "on": {"all": [{"event": "x", "where": f"data.l.exists(one, one == {number})"} for number in range(5)]},
    "steps": [{"log": "x"}],
}


def _requests() -> Iterator[tuple[str, Mapping[str, Any]]]:
    texts = [{"log": _LOOP + "." * number} for number in range(20)]
    values = [{"set": {f"v{number}": f"data.l.exists(x, x == -{number})" for number in range(40)}}] * 20
    checks = iter(CHECKED)
    for steps in (texts, values):
        yield "workflow-try", {"source": _document(steps), "events": [EVENT]}
        yield "workflow-check", {"source": next(checks)}
    yield "workflow-backtest", {"source": json.dumps(BACKTEST), "since": "2020-01-01T00:00:00Z"}
    for source in checks:
        yield "workflow-check", {"source": source}


@contextmanager
def management_work(stage: Stage) -> Iterator[None]:
    """Send one after the other; note the processor time of the web process."""
    account = stage.attacker.account
    key = api_keys.create_key(stage.context, account, "management", (WORKFLOWS_READ, EVENTS_READ))
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    with psycopg2.connect(stage.base.url) as connection, connection.cursor() as cursor:
        cursor.execute(_ADD_EVENTS, (account, EVENTS))
    following = itertools.cycle(http_request(f"{API}/{path}", body, headers=headers) for path, body in _requests())
    (process,) = map(psutil.Process, stage.processes.web_processes())
    began, used = time.monotonic(), sum(process.cpu_times()[:2])
    with stage.flood(lambda number: next(following), rate=RATE, max_open=SENDERS) as answers:
        yield
        used = (sum(process.cpu_times()[:2]) - used) / (time.monotonic() - began)
    if not answers["200"]:
        stage.fail("no request of the attacker was carried out")
    stage.note(f"the web process used {used:.0%} of a core, with the victim's events")


ATTACK = Attack(
    management_work,
    sends=f"checks of documents of 256 KiB, trials and backtests by the management API, {SENDERS} at once",
    bound="a quarter of a core for the console and the management API of all accounts, in pieces",
    rate=100.0,
)
