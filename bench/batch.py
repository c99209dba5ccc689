"""Batches of 1,000 events over HTTP, against multi-row `INSERT` by psycopg2 with 1,000 rows per statement into the same table.

Run as a program (`python -m bench.batch URL ACCOUNT SECONDS`) it is the reference: one connection that inserts and commits.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from contextlib import ExitStack
from typing import Any

import psycopg2
from psycopg2.extras import execute_values

from app.core.ids import now, uuid7
from bench.measuring import Load, Side, alternate, cpu_seconds, median, write_script
from bench.rows import Row, row
from bench.servers import ROOT, Backends, backends, ours
from bench.single import BODY, WORKFLOWS, compared, disagreements, fixed, provide

PATH = "/api/v1/cvf-events/batch"
EACH = 1_000
# As many connections as ours has web processes.
WRITERS = 2
RATE = 10_000


def batch() -> list[Row]:
    """Rows a second, and whether they are 10,000 at least; validated and matched against 100 workflows as single events."""
    with ExitStack() as stack:
        base = stack.enter_context(backends())
        account, headers = provide(base)
        other = provide(base, "reference")[0]
        events = [{**BODY, "distinct_id": str(number)} for number in range(EACH)]
        script = write_script(base.folder / "batch.lua", headers, fixed(events))
        url, pid = stack.enter_context(ours(base))
        side = Side(url + PATH, script, {"web": [pid], **base.processes}, connections=2 * WRITERS)
        inserts = _Inserts(base, other)
        rounds = alternate(inserts, side)
        failures = disagreements(side, base, account, each=EACH)
        if base.stored(other) != inserts.rows:
            failures.append(f"{inserts.rows:,} rows were inserted for reference, but {base.stored(other):,} are stored")
    rate = median(our.rate * EACH for _, our in rounds)
    found = compared("batch", rounds, against="multi-row INSERT, 1,000 rows per statement", failures=failures)
    ratio = median(our.rate / reference.rate for reference, our in rounds)
    more = {
        "CPU ratio": found["ratio"],
        **{f"{part} CPU-µs": round(found[part] / EACH, 1) for part in ("web", "postgres", "redis")},
        "p50 ms of a batch": found["p50 ms"],
        "tries": found["tries"],
    }
    return [
        row(
            "batch",
            ours=rate,
            reference=median(reference.rate * EACH for reference, _ in rounds),
            unit="rows/s, batches of 1,000 over HTTP",
            against=f"multi-row INSERT of 1,000 rows, {WRITERS} connections",
            ratio=ratio,
            target=0.65,
            failures=failures,
            more=more,
        ),
        row(
            "batch-rate", ours=rate, reference=RATE, unit="events/s", against="at least", ratio=rate / RATE, target=1.0
        ),
    ]


class _Inserts:
    """The reference: WRITERS programs that insert at once. One request is 1,000 rows."""

    def __init__(self, base: Backends, account: int) -> None:
        self._base, self._account = base, account
        self.rows = 0

    def load(self, seconds: float) -> Load:
        """One try."""
        processes = self._base.processes["postgres"]
        before = cpu_seconds(processes)
        command = [sys.executable, "-m", "bench.batch", self._base.url, str(self._account), str(seconds)]
        programs = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(WRITERS)]
        output = [json.loads(program.communicate()[0]) for program in programs]
        cpu = {
            "web": sum(one["cpu"] for one in output),
            "postgres": cpu_seconds(processes) - before,
            "redis": 0.0,
        }
        rows = sum(one["rows"] for one in output)
        self.rows += rows
        return Load(rows // EACH, 0, median(one["seconds"] for one in output), cpu)


def _insert(url: str, account: int, seconds: float) -> dict[str, Any]:
    """Insert for a while: how many rows, in how many seconds, with how much CPU of this process."""
    data, decisions = json.dumps(BODY["data"]), _decisions()
    rows, statement = (
        0,
        ("INSERT INTO events (account_id, id, event, distinct_id, phone, data, received_at, decisions) VALUES %s"),
    )
    with psycopg2.connect(url) as connection, connection.cursor() as cursor:
        began, used = time.monotonic(), time.process_time()
        while time.monotonic() - began < seconds:
            timestamp = now()
            values = [
                (account, str(uuid7(timestamp)), BODY["event"], str(number), BODY["phone"], data, timestamp, decisions)
                for number in range(EACH)
            ]
            execute_values(cursor, statement, values, page_size=EACH)
            connection.commit()
            rows += EACH
        return {"rows": rows, "seconds": time.monotonic() - began, "cpu": time.process_time() - used}


def _decisions() -> str:
    """A text as long as ours for 100 skipped workflows."""
    reason = f"data.price > {random.randint(1000, 1099)} cannot be true: data.price is not there"
    return json.dumps([{"workflow": f"{WORKFLOWS} workflows", "version": None, "started": False, "reason": reason}])


if __name__ == "__main__":
    print(json.dumps(_insert(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))))
