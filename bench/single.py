"""Single events: ours, durable, key checked, limited by Redis, validated, matched; against an empty Flask view, and
against Postgres alone (`pgbench`)."""

from __future__ import annotations

import json
import re
import resource
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from app.cli.devserver.embedded_postgres import psql
from app.core.ids import uuid7
from app.core.models import EVENTS_WRITE, PLANS
from app.db import accounts
from app.db.document_versions import WORKFLOW_VERSIONS, NewVersion
from app.services import accounts as services_accounts
from app.services import api_keys, workflows
from app.services.context import AppContext
from bench.measuring import CONNECTIONS, Load, Side, alternate, cpu_seconds, median, write_script
from bench.rows import Row, row
from bench.servers import ROOT, Backends, backends, empty, ours

PATH = "/api/v1/cvf-events"
WORKFLOWS = 100
MANY = 10_000
# gunicorn commands for an empty view on two cores. The first is the reference; the row shows the ratios to the others.
EMPTIES = {
    "2 sync workers": ["--workers", "2", "--worker-class", "sync"],
    "2 workers of 4 threads": ["--workers", "2", "--worker-class", "gthread", "--threads", "4", "--keep-alive", "75"],
    "2 gevent workers": ["--workers", "2", "--worker-class", "gevent", "--keep-alive", "75"],
    "2 of our workers": ["-c", str(ROOT / "deploy" / "gunicorn.conf.py"), "--workers", "2"],
}
BODY = {
    "distinct_id": "915673412780",
    "phone": "+915673412780",
    "event": "product_view",
    "data": {"product_id": "65432", "product_name": "Cool Sneakers", "category": "Footwear", "currency": "INR"},
}
_NEVER = "data.price > 1000"
_ALWAYS = "data.currency == 'INR'"


def single() -> list[Row]:
    """100 workflows look at the event, none starts."""
    return [_against_empty("single", target=0.65)]


def single_starting() -> list[Row]:
    """The same with each event starting one run."""
    return [_against_empty("single-starting", target=0.45, starting=1)]


def _against_empty(name: str, *, target: float, starting: int = 0) -> Row:
    with ExitStack() as stack:
        base = stack.enter_context(backends())
        account, headers = provide(base, starting=starting)
        script = write_script(base.folder / "post.lua", headers, fixed(BODY))
        empties = {}
        for details, arguments in EMPTIES.items():
            url, pid = stack.enter_context(empty(base, arguments))
            empties[details] = Side(url + PATH, script, {"web": [pid]})
        url, pid = stack.enter_context(ours(base))
        side = Side(url + PATH, script, {"web": [pid], **base.processes})
        rounds = alternate(*empties.values(), side)
        failures = disagreements(side, base, account, runs=starting)
        failures += [f"{one.errors} requests to the reference failed" for one in empties.values() if one.errors]
    pairs = [(one[0], one[-1]) for one in rounds]
    others = {
        f"ratio to {details}": round(ratio_of((one[n], one[-1]) for one in rounds), 3)
        for n, details in enumerate(empties)
        if n
    }
    against = f"empty Flask view, {next(iter(empties))}"
    return compared(name, pairs, target=target, against=against, failures=failures, more=others)


def pgbench() -> list[Row]:
    """Postgres alone: the same row by `pgbench`, one insert per transaction."""
    with ExitStack() as stack:
        base = stack.enter_context(backends())
        account, headers = provide(base)
        other = provide(base, "pgbench")[0]
        url, pid = stack.enter_context(ours(base))
        script = write_script(base.folder / "post.lua", headers, fixed(BODY))
        side = Side(url + PATH, script, {"web": [pid], **base.processes})
        inserts = _Pgbench(base, other)
        rounds = alternate(inserts, side)
        failures = disagreements(side, base, account)
    return [compared("pgbench", rounds, against="pgbench, single-row inserts", failures=failures)]


class _Pgbench:
    """Single-row inserts by pgbench, prepared, as many clients as connections."""

    def __init__(self, base: Backends, account: int) -> None:
        self._base = base
        self._file = base.folder / "insert.sql"
        decisions = json.dumps([{"workflow": f"{WORKFLOWS} workflows", "started": False, "reason": _NEVER}])
        values = f"'product_view', '915673412780', '+915673412780', '{json.dumps(BODY['data'])}', now(), '{decisions}'"
        self._file.write_text(
            "INSERT INTO events (account_id, id, event, distinct_id, phone, data, received_at, decisions) "
            f"VALUES ({account}, gen_random_uuid(), {values});\n"
        )

    def load(self, seconds: float) -> Load:
        """One try."""
        processes = self._base.processes["postgres"]
        before, used = cpu_seconds(processes), _ended()
        command = [str(psql().with_name("pgbench")), "-n", "-M", "prepared", "-c", str(CONNECTIONS), "-j", "1"]
        output = subprocess.run(
            [*command, "-T", str(round(seconds)), "-f", str(self._file), self._base.url],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        cpu = {"web": _ended() - used, "postgres": cpu_seconds(processes) - before, "redis": 0.0}
        done = int(re.search(r"actually processed: (\d+)", output)[1])  # type: ignore[index]
        return Load(done, 0, round(seconds), cpu)


def _ended() -> float:
    """CPU seconds of our ended children."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def many_workflows() -> list[Row]:
    """`single` with 10,000 workflows in the account, half of them on any event, none matching; against one workflow."""
    with ExitStack() as stack:
        base = stack.enter_context(backends())
        url, pid = stack.enter_context(ours(base))
        sides, failures = [], list[str]()
        for name, count in (("one", 1), ("many", MANY)):
            account, headers = _provide_many(base, name, count)
            script = write_script(base.folder / f"{name}.lua", headers, fixed(BODY))
            sides.append((account, Side(url + PATH, script, {"web": [pid], **base.processes})))
        warm(sides[1][1], headers)
        rounds = alternate(*(side for _, side in sides))
        for account, side in sides:
            failures += disagreements(side, base, account)
    return [compared("many-workflows", rounds, target=0.80, against="ours with one workflow", failures=failures)]


def warm(side: Side, headers: Mapping[str, str]) -> None:
    """Send requests until all processes have loaded and compiled the account's workflows."""
    quick = 0
    while quick < 20:
        began = time.monotonic()
        post = urllib.request.Request(side.url, json.dumps(BODY).encode(), dict(headers))
        with urllib.request.urlopen(post, timeout=60) as answer:
            answer.read()
        side.answered += 1
        quick = quick + 1 if time.monotonic() - began < 0.5 else 0


def _provide_many(base: Backends, slug: str, count: int) -> tuple[int, dict[str, str]]:
    context = AppContext(base.settings)
    account = open_account(context, slug)
    patterns: list[dict[str, str]] = [
        {"event": "product_view", "where": f"data.price > {1000 + number}"}
        if number % 2 == 0
        else {"event": "*", "where": f"data.plan == 'p{number}'"}
        for number in range(count)
    ]
    add_workflows(context, account, ((f"w{number}", on) for number, on in enumerate(patterns)))
    return account, headers_of(context, account)


def add_workflows(context: AppContext, account: int, patterns: Iterable[tuple[str, Any]]) -> None:
    """Many enabled workflows at once: (name, what it is on)."""
    with context.database.transaction() as connection:
        for name, on in patterns:
            document = {"name": name, "on": on, "steps": [{"log": "hello"}]}
            new = NewVersion(uuid7(), name, 1, json.dumps(document), document)
            WORKFLOW_VERSIONS.save(connection, account, new, context.clock())
        connection.exec_driver_sql("UPDATE workflows SET enabled_version = 1 WHERE enabled_version IS NULL")
        accounts.increment_version(connection, account)


def provide(base: Backends, slug: str = "bench", *, starting: int = 0) -> tuple[int, dict[str, str]]:
    """An account with 100 workflows on the event, of which `starting` start, and the headers to send with."""
    context = AppContext(base.settings)
    account = open_account(context, slug)
    for number in range(WORKFLOWS):
        on = {"event": "product_view", "where": _ALWAYS if number < starting else f"data.price > {1000 + number}"}
        workflows.apply_workflow(
            context, account, json.dumps({"name": f"w{number}", "on": on, "steps": [{"log": "hello"}]})
        )
    return account, headers_of(context, account)


def open_account(context: AppContext, slug: str) -> int:
    """An account with a rate limit far above the load."""
    account = services_accounts.create_account(context, slug, PLANS["unlimited"])
    services_accounts.change_plan(context, account, PLANS["standard"], 1_000_000)
    return account


def headers_of(context: AppContext, account: int, content_type: str = "application/json") -> dict[str, str]:
    """The headers of a sender of this account; closes `context`."""
    key = api_keys.create_key(context, account, "bench", (EVENTS_WRITE,))
    context.database.close()
    return {"x-limechat-uat": key, "x-fb-account-id": str(account), "Content-Type": content_type}


def fixed(body: Any) -> str:
    """Lua that posts the same body each time."""
    return f"wrk.body = {json.dumps(json.dumps(body))}"


def varied(subjects: int) -> str:
    """Lua that posts the body, each time for another subject."""
    body = json.dumps({**BODY, "distinct_id": "%d"}).replace("%", "%%").replace("%%d", "%d")
    return (
        f"local body = {json.dumps(body)}\nmath.randomseed(now() * 1e6)\n"
        f"function request() return wrk.format(nil, nil, nil, string.format(body, math.random({subjects}))) end"
    )


def disagreements(
    side: Side, base: Backends, account: int, *, runs: int = 0, before: int = 0, each: int = 1
) -> list[str]:
    """Messages about error responses, and about events (`each` per request) and runs in the tables that differ from the number of
    2xx. `before`: how many events existed."""
    found = [f"{side.errors} requests were answered with an error, or not at all"] if side.errors else []
    stored, started = (
        base.stored(account) - before,
        base.query("SELECT count(*) FROM runs WHERE account_id = %s", account),
    )
    if stored != side.answered * each:
        found.append(
            f"{side.answered:,} answers were 2xx, for {side.answered * each:,} events, but {stored:,} are stored"
        )
    if not before and started != side.answered * runs:
        found.append(f"{started:,} runs were started instead of {side.answered * runs:,}")
    return found


def _parts_of(references: Sequence[Load]) -> dict[str, int]:
    """The CPU time of a reference by part, if it is more than one program."""
    parts = references[0].cpu if len(references[0].cpu) > 1 else {}
    return {f"reference {part}": round(median(load.share(part) for load in references)) for part in parts}


def ratio_of(pairs: Iterable[tuple[Load, Load]]) -> float:
    """Median of reference divided by ours, CPU per request."""
    return median(reference.cpu_per_request / our.cpu_per_request for reference, our in pairs)


def compared(
    name: str,
    pairs: list[tuple[Load, ...]],
    *,
    against: str,
    failures: Iterable[str],
    target: float | None = None,
    more: dict[str, Any] | None = None,
) -> Row:
    """The row of pairs (reference, ours), by CPU time per request."""
    mine = [our for _, our in pairs]

    def middle(figure: Callable[[Load], float], digits: int | None = None) -> float:
        return round(median(map(figure, mine)), digits)

    return row(
        name,
        ours=median(our.cpu_per_request for our in mine),
        reference=median(reference.cpu_per_request for reference, _ in pairs),
        unit="CPU-µs per request",
        against=against,
        ratio=ratio_of(pairs),
        target=target,
        failures=failures,
        more={
            "throughput ratio": round(median(our.rate / reference.rate for reference, our in pairs), 3),
            **{part: middle(lambda load, part=part: load.share(part)) for part in mine[0].cpu},  # type: ignore[misc]
            "ours/s": middle(lambda load: load.rate),
            **_parts_of([reference for reference, _ in pairs]),
            "reference/s": round(median(reference.rate for reference, _ in pairs)),
            "p50 ms": middle(lambda load: load.p50, 2),
            "p99 ms": middle(lambda load: load.p99, 2),
            "tries": len(pairs),
            **(more or {}),
        },
    )
