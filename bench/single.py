"""Single events: ours, durable, key checked, limited by Redis, validated, matched; against an empty Flask view."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg2

from app import manage
from app.identifiers import uuid7
from app.journey import Journey
from app.store import accounts, workflows
from app.store.workflows import NewVersion
from app.words import EVENTS_WRITE, PLANS
from bench.measuring import Load, alternate, load, median
from bench.servers import Ground, ground, gunicorn

PATH = "/api/v1/cvf-events"
WORKFLOWS = 100
# What is best for an empty view on two cores: two sync workers.
EMPTY = ["--workers", "2", "--worker-class", "sync"]
BODY = {
    "distinct_id": "915673412780",
    "phone": "+915673412780",
    "event": "product_view",
    "data": {"product_id": "65432", "product_name": "Cool Sneakers", "category": "Footwear", "currency": "INR"},
}


def single() -> list[dict[str, Any]]:
    """100 workflows look at the event, none starts."""
    return [_compare("single", f"data.price > {1000}", target=0.60)]


def single_starting() -> list[dict[str, Any]]:
    """The same with each event starting one run."""
    return [_compare("single-starting", "data.currency == 'INR'", target=0.40, starting=1)]


MANY = 10_000


def many_workflows() -> list[dict[str, Any]]:
    """Ingest with 10,000 workflows in the account, half of them on any event, none matching; against one workflow."""
    with ExitStack() as stack:
        base = stack.enter_context(ground())
        one = _script(base.folder, _provide_many(base, "one", 1), "one.lua")
        many = _script(base.folder, _provide_many(base, "many", MANY), "many.lua")
        url, pid = stack.enter_context(
            gunicorn("wsgi:app", ["-c", "deploy/gunicorn.conf.py"], {**base.environment, "WEB_CONCURRENCY": "2"})
        )
        processes = [pid, *base.processes]
        pairs = alternate(lambda: load(url + PATH, one, processes), lambda: load(url + PATH, many, processes))
        stored = _count(base)
    return [_row("many-workflows", pairs, 0.80, stored)]


def _provide_many(base: Ground, slug: str, count: int) -> dict[str, str]:
    house = Journey(base.settings)
    account = manage.create_account(house, slug, PLANS["unlimited"])
    manage.change_plan(house, account, PLANS["standard"], 1_000_000)
    with house.database.transaction() as connection:
        for number in range(count):
            on = {"event": "*", "where": f"data.plan == 'p{number}'"}
            if number % 2 == 0:
                on = {"event": "product_view", "where": f"data.price > {1000 + number}"}
            document = {"name": f"w{number}", "on": on, "steps": [{"log": "hello"}]}
            new = NewVersion(uuid7(), f"w{number}", 1, json.dumps(document), document)
            workflows.save_version(connection, account, new, house.clock())
        connection.exec_driver_sql("UPDATE workflows SET enabled_version = 1 WHERE enabled_version IS NULL")
        accounts.grow_version(connection, account)
    return _headers(house, account)


def _compare(name: str, where: str, *, target: float, starting: int = 0) -> dict[str, Any]:
    with ExitStack() as stack:
        base = stack.enter_context(ground())
        headers = _provide(base, where, starting)
        script = _script(base.folder, headers)
        empty_url, empty_pid = stack.enter_context(gunicorn("bench.empty:app", EMPTY, base.environment))
        ours_url, ours_pid = stack.enter_context(
            gunicorn("wsgi:app", ["-c", "deploy/gunicorn.conf.py"], {**base.environment, "WEB_CONCURRENCY": "2"})
        )
        pairs = alternate(
            lambda: load(empty_url + PATH, script, [empty_pid]),
            lambda: load(ours_url + PATH, script, [ours_pid, *base.processes]),
        )
        stored = _count(base)
    return _row(name, pairs, target, stored)


def _provide(base: Ground, where: str, starting: int) -> dict[str, str]:
    house = Journey(base.settings)
    account = manage.create_account(house, "bench", PLANS["unlimited"])
    manage.change_plan(house, account, PLANS["standard"], 1_000_000)
    for number in range(WORKFLOWS):
        filter_ = where if number < starting else f"data.price > {1000 + number}"
        on = {"event": "product_view", "where": filter_}
        manage.apply_workflow(house, account, json.dumps({"name": f"w{number}", "on": on, "steps": [{"log": "hello"}]}))
    return _headers(house, account)


def _headers(house: Journey, account: int) -> dict[str, str]:
    token = manage.create_key(house, account, "bench", (EVENTS_WRITE,))
    house.database.close()
    return {"x-limechat-uat": token, "x-fb-account-id": str(account), "Content-Type": "application/json"}


def _script(folder: Path, headers: dict[str, str], name: str = "post.lua") -> Path:
    lines = ['wrk.method = "POST"', f"wrk.body = {json.dumps(json.dumps(BODY))}"]
    lines += [f'wrk.headers["{name}"] = "{value}"' for name, value in headers.items()]
    script = folder / name
    script.write_text("\n".join(lines))
    return script


def _count(base: Ground) -> int:
    with psycopg2.connect(base.environment["DATABASE_URL"]) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM events")
        row = cursor.fetchone()
    return int(row[0]) if row else 0


def _row(name: str, pairs: list[tuple[Load, Load]], target: float, stored: int) -> dict[str, Any]:
    ratio = median(empty.cpu_per_request / ours.cpu_per_request for empty, ours in pairs)
    errors = sum(ours.errors for _, ours in pairs)
    return {
        "name": name,
        "ours": round(median(ours.cpu_per_request for _, ours in pairs)),
        "reference": round(median(empty.cpu_per_request for empty, _ in pairs)),
        "unit": "µs of CPU a request",
        "ratio": round(ratio, 3),
        "throughput_ratio": round(median(ours.rate / empty.rate for empty, ours in pairs), 3),
        "ours_per_second": round(median(ours.rate for _, ours in pairs)),
        "p50_ms": round(median(ours.p50 for _, ours in pairs), 2),
        "p99_ms": round(median(ours.p99 for _, ours in pairs), 2),
        "errors": errors,
        "stored": stored,
        "target": target,
        "ok": ratio >= target and errors == 0,
    }
