"""What people ask the database (docs/sql.md): each question and each view of `ops`, on 10 million events of 75 days.

A query fails here that reads a tenth of a partition of `events`, or of another large table. SQL_EVENTS says how many events:
fewer for a quick look. `tests/sql/test_plans.py` does the same with 200,000.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg2
from psycopg2.extensions import connection as Connection

from bench.rows import Row, row
from bench.servers import Backends, backends

EVENTS = 10_000_000
ACCOUNTS = 20
DAYS = 75
# Tables that no query reads a tenth of; the partitions of events are added.
LARGE = ("runs", "steps", "attempts", "refusals", "deliveries")
_PAGE = Path(__file__).resolve().parents[1] / "docs" / "sql.md"

# The first account has nine tenths of the events. One event in ten starts a run, one run in fifty has failed, one waits.
_LOAD = """
SELECT make_events_partitions(array_agg(now() - number * interval '28 days'))
    FROM generate_series(0, {days} / 28 + 1) AS number;
INSERT INTO accounts (slug, plan, signing_secret)
    SELECT 'account-' || number, 'unlimited', '' FROM generate_series(1, {accounts}) AS number;
INSERT INTO keys (account_id, prefix, digest, name, scopes) SELECT id, 'key' || id, '', 'shop', '{{}}' FROM accounts;
INSERT INTO workflows (account_id, id, name, enabled_version, latest_version, enablement)
    SELECT id, md5('watch' || id)::uuid, 'watch', 1, 1, 1 FROM accounts;
INSERT INTO workflow_versions (account_id, workflow_id, version, source, document)
    SELECT account_id, id, 1, document, document::jsonb FROM workflows, (VALUES ('{{"name": "watch", "on": {{"seq":
        ["name-1", {{"none": "name-2", "for": "30m"}}]}}, "steps": [{{"http": {{"url": "https://shop.example/orders/12345"}}}}]}}'
    )) AS given (document);
INSERT INTO workflow_triggers SELECT account_id, 'name-1', id, 1 FROM workflows;
CREATE TEMPORARY TABLE loaded AS
    SELECT CASE WHEN number % 10 > 0 THEN 1 ELSE 1 + number / 10 % {accounts} END AS account_id, at, ops.first_id_at(at) AS id,
        number, 'subject-' || number * 7919 % greatest({events} / 10, 1) AS subject
    FROM generate_series(CAST({events} AS bigint) - 1, 0, -1) AS number,
        LATERAL (SELECT now() - (number + 0.5) * interval '{days} days' / {events} AS at) AS times;
INSERT INTO sources (account_id, id, name, latest_version) SELECT id, md5('shop' || id)::uuid, 'shop', 1 FROM accounts;
INSERT INTO source_versions (account_id, source_id, version, source, document)
    SELECT account_id, id, 1, document, document::jsonb FROM sources, (VALUES ('{{"name": "shop", "provider": "shopify",
        "secrets": ["the secret of a shop"]}}')) AS given (document);
DROP INDEX events_subject_idx;
INSERT INTO events (account_id, id, event, distinct_id, data, received_at, decisions, via)
    SELECT account_id, id, 'name-' || number % 7, subject, jsonb_build_object('product_id', number, 'name', repeat('x', 100)), at,
        jsonb_build_array(jsonb_build_object('workflow', 'watch', 'version', 1, 'started', number % 10 = 1, 'reason', 'matched')),
        CASE WHEN number % 20 = 11 THEN 'source:shop' END
    FROM loaded;
CREATE INDEX events_subject_idx ON events (account_id, distinct_id, id);
INSERT INTO deliveries (account_id, id, source_id, source_version, received_at, method, headers, body, verified, result, events,
                        request_id)
    SELECT account_id, id, md5('shop' || account_id)::uuid, 1, at, 'POST', '{{"content-type": "application/json"}}',
        convert_to(repeat('{{"order": 1}} ', 10), 'UTF8'), true, CASE WHEN number % 100 = 11 THEN 'unmapped' ELSE 'accepted' END,
        jsonb_build_array(id), number::text
    FROM loaded WHERE number % 20 = 11;
INSERT INTO runs (account_id, id, workflow_id, version, match_key, event_id, event_received_at, matched, distinct_id, status, at,
                  wake_at, created_at, updated_at, finished_at, error)
    SELECT account_id, id, md5('watch' || account_id)::uuid, 1, id::text, id, at, ARRAY[id], subject,
        CASE number / 10 % 50 WHEN 0 THEN 'failed' WHEN 1 THEN 'running' ELSE 'done' END, 'steps[0]',
        CASE WHEN number / 10 % 50 = 1 THEN now() + number / 500 % 1000 * interval '1 hour' - interval '1 hour' END,
        at, at, CASE WHEN number / 10 % 50 <> 1 THEN at + interval '1 second' END,
        CASE WHEN number / 10 % 50 = 0 THEN 'answered 500' END
    FROM loaded WHERE number % 10 = 1;
INSERT INTO steps (account_id, run_id, ordinal, path, action, status, started_at)
    SELECT account_id, id, 0, 'steps[0]', 'http', 'done', created_at FROM runs;
INSERT INTO attempts (account_id, run_id, ordinal, attempt, outcome, error, request, started_at, finished_at)
    SELECT account_id, id, 0, 1, CASE status WHEN 'failed' THEN 'failed' ELSE 'done' END, error,
        '{{"method": "POST", "url": "https://shop.example/orders/12345?token=x"}}', created_at, created_at + interval '1 second'
    FROM runs;
INSERT INTO jobs (kind, payload, dedupe_key, due_at)
    SELECT 'run', key, key, wake_at FROM runs, LATERAL (SELECT account_id || ':' || id || ':1' AS key) AS job
    WHERE status = 'running';
INSERT INTO progress (account_id, workflow_id, subject, enablement, progress, last_event_at, deadline)
    SELECT DISTINCT ON (account_id, subject) account_id, md5('watch' || account_id)::uuid, subject, 1,
        jsonb_build_object('events', jsonb_build_object('1', jsonb_build_array(id, at))), at,
        CASE WHEN number % 3 = 0 THEN now() + number % 1000 * interval '1 hour' END
    FROM loaded WHERE number % 20 = 3;
INSERT INTO refusals (account_id, id, refused_at, route, key_prefix, status, type, detail, request_id, body,
                      body_bytes, replayable)
    SELECT account_id, id, at, '/api/v1/cvf-events', 'key' || account_id, 422, 'validation-failed', 'phone', number::text,
        decode('789cab564a2d4bcd2b51b25250ca2f4a492d8a2fc8494c4e4d51d251502ac8c8cf4b054a18d60200ee2a0c16', 'hex'), 37, true
    FROM loaded WHERE number % 50 = 7;
INSERT INTO audit_log (id, account_id, at, actor, via, action, object_type, object_id)
    SELECT id, account_id, at, 'anna', 'cli', object || '.disable', object,
        CASE object WHEN 'key' THEN number::text ELSE 'watch' END
    FROM loaded, LATERAL (SELECT CASE WHEN number % 5000 = 9 THEN 'workflow' ELSE 'key' END AS object) AS changed
    WHERE number % 50 = 9;
INSERT INTO open_circuits SELECT id, 'POST https://shop.example/orders/*', 7, now(), now() + interval '1 day' FROM accounts;
INSERT INTO workers (id, host, pid, version, started_at, seen_at)
    SELECT gen_random_uuid(), 'host', number, '1', now(), now() FROM generate_series(1, 10) AS number;
"""


def load(url: str, events: int) -> None:
    """Fill a migrated database, and vacuum it as autovacuum would have done."""
    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        connection.autocommit = True
        cursor.execute("SET synchronous_commit = off")
        for statement in _LOAD.format(events=events, accounts=ACCOUNTS, days=DAYS).split(";\n"):
            if statement.strip():
                cursor.execute(statement)
        cursor.execute("VACUUM ANALYZE")


def questions() -> dict[str, str]:
    """The queries of the page by their questions, with psycopg2's parameters in place of psql's variables."""
    found = re.findall(r"^### (\d+\. .+?)\n.*?```sql\n(.*?)```", _PAGE.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    return {title: as_parameters(query) for title, query in found}


def as_parameters(query: str) -> str:
    """The query with psycopg2's parameters in place of psql's variables."""
    return re.sub(r"(?<![:\w]):(\w+)\b", lambda name: f"%({name[1]})s", query.replace("%", "%%"))


def names(connection: Connection) -> dict[str, Any]:
    """The values of the parameters: the account that has most, and a subject, an event and a run of it."""
    found = "SELECT account_id AS account, distinct_id AS subject, event_id AS event, id AS run, created_at AS at FROM runs "
    with connection.cursor() as cursor:
        cursor.execute(found + "WHERE account_id = 1 ORDER BY id LIMIT 1 OFFSET 100")
        values = cursor.fetchone() or ()
        columns = [column.name for column in cursor.description or ()]
    others = {"workflow": "watch", "disabled": "watch", "name": "name-1", "sender": "shop"}
    return {**dict(zip(columns, values, strict=True)), **others}


class Plan:
    """How a query was executed: milliseconds, buffers, and what it read a tenth of."""

    def __init__(self, connection: Connection, query: str, values: Mapping[str, Any]) -> None:
        with connection.cursor() as cursor:
            cursor.execute(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {query}", values)
            ((((root),),),) = (cursor.fetchall(),)
        connection.rollback()
        self.root: dict[str, Any] = root[0]
        self.ms = self.root["Planning Time"] + self.root["Execution Time"]
        self.buffers = _buffers(self.root["Plan"])

    def wholes(self, sizes: Mapping[str, int]) -> list[str]:
        """The scans that read a tenth of a table of `sizes` (rows by table and partition), or pass over most of an index: they
        need more buffers than those of the rows and of the way down to them."""
        found = []
        for node in _nodes(self.root["Plan"]):
            table, rows, buffers = node.get("Relation Name"), _rows_read(node), _buffers(node)
            if table in sizes and rows > max(100, sizes[table] / 10):
                found.append(f"{node['Node Type']} reads {rows:,.0f} of {sizes[table]:,} rows of {table}")
            elif table in sizes and buffers > 100 and buffers > 2 * rows + 5 * node["Actual Loops"]:
                found.append(f"{node['Node Type']} reads {buffers:,} buffers of {table} for {rows:,.0f} rows")
        return found


def _nodes(plan: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield plan
    for below in plan.get("Plans", ()):
        yield from _nodes(below)


def _rows_read(node: Mapping[str, Any]) -> float:
    removed = sum(node.get(f"Rows Removed by {what}", 0) for what in ("Filter", "Index Recheck"))
    return float((node["Actual Rows"] + removed) * node["Actual Loops"])


def _buffers(node: Mapping[str, Any]) -> int:
    return int(node["Shared Hit Blocks"] + node["Shared Read Blocks"])


def sizes(connection: Connection) -> dict[str, int]:
    """How many rows the large tables have. Partitions of events count as the largest of them: that of this month may be small,
    and a day may be all of it."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT relname, CASE WHEN relispartition THEN max(reltuples) OVER (PARTITION BY relispartition) ELSE reltuples "
            "END::bigint FROM pg_class WHERE reltuples > 0 AND (relname = ANY (%s) OR oid IN "
            "(SELECT inhrelid FROM pg_inherits WHERE inhparent = 'events'::regclass))",
            (list(LARGE),),
        )
        return dict(cursor.fetchall())


def views(connection: Connection) -> dict[str, str]:
    """A query of each view: all its rows."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT viewname FROM pg_views WHERE schemaname = 'ops' ORDER BY 1")
        return {f"ops.{name}": f"SELECT * FROM ops.{name}" for (name,) in cursor.fetchall()}


@contextmanager
def loaded(variable: str) -> Iterator[Backends]:
    """Backends with EVENTS events, or as many as the environment variable says."""
    count = int(os.environ.get(variable, EVENTS))
    with backends() as base:
        began = time.monotonic()
        load(base.url, count)
        print(f"    {count:,} events loaded in {time.monotonic() - began:.0f} s", file=sys.stderr)
        yield base


def sql() -> list[Row]:
    """Each question and each view once to warm the caches, then three times: the fastest."""
    with loaded("SQL_EVENTS") as base, closing(psycopg2.connect(base.url)) as connection:
        values, known = names(connection), sizes(connection)
        return [
            _row(f"sql: {title}", [Plan(connection, query, values) for _ in range(4)], known)
            for title, query in {**questions(), **views(connection)}.items()
        ]


def _row(name: str, plans: list[Plan], known: Mapping[str, int]) -> Row:
    fastest = min(plans, key=lambda plan: plan.ms)
    more = {"buffers": f"{fastest.buffers:,}"}
    return row(name, ours=fastest.ms, unit="ms", failures=fastest.wholes(known), more=more)
