"""Rows of a database of its own whose age retention looks at, and one round of it."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from uuid import UUID

import psycopg2

from app.core.ids import uuid7
from app.services.context import AppContext
from app.services.expiry import delete_expired
from app.services.retention import change_retention
from tests.support.action_contexts import the_settings

# All partitions of these tests have ended: the function that drops one compares with the server's clock, too.

# All partitions of these tests have ended: the function that drops one compares with the server's clock, too.
NOW = datetime(2021, 7, 10, 12, tzinfo=UTC)
JANUARY, MARCH, JUNE = (datetime(2021, month, 5, tzinfo=UTC) for month in (1, 3, 6))
DAY = timedelta(days=1)
ACME, GLOBEX = 1, 2
WORKFLOW = "00000000-0000-7000-8000-000000000001"


def database_named(url: str, name: str) -> str:
    return urlunsplit(urlsplit(url)._replace(path=f"/{name}"))


def run_alone(url: str, statement: str) -> None:
    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        connection.autocommit = True
        cursor.execute(statement)


def context_of(url: str) -> AppContext:
    return AppContext(replace(the_settings(), database_url=url), clock=lambda: NOW)


def run_query(context: AppContext, query: str, *values: Any) -> list[Any]:
    with context.database.transaction() as connection:
        found = connection.exec_driver_sql(query, values)
        return list(found) if found.returns_rows else []


def insert(context: AppContext, table: str, **fields: Any) -> None:
    values = [json.dumps(value) if isinstance(value, dict) else value for value in fields.values()]
    marks = ", ".join(["%s"] * len(fields))
    run_query(context, f"INSERT INTO {table} ({', '.join(fields)}) VALUES ({marks})", *values)


def add_event(context: AppContext, at: datetime, account: int = ACME, **fields: Any) -> UUID:
    event = uuid7(at)
    given = {"event": "looked", "distinct_id": "ann", "data": {}, **fields}
    insert(context, "events", account_id=account, id=event, received_at=at, **given)
    return event


def add_run(context: AppContext, event: UUID, at: datetime, status: str = "done", **fields: Any) -> UUID:
    run = uuid7(at)
    given = {
        "account_id": ACME, "workflow_id": WORKFLOW, "version": 1, "match_key": str(run), "event_id": event,
        "event_received_at": at, "matched": [str(event)], "distinct_id": "ann", "status": status, "created_at": at,
        "updated_at": at, "finished_at": None if status == "running" else at, **fields,
    }  # fmt: skip
    given["matched"] = "{" + ",".join(given["matched"]) + "}"
    insert(context, "runs", id=run, **given)
    owner = given["account_id"]
    insert(
        context,
        "steps",
        account_id=owner,
        run_id=run,
        ordinal=0,
        path="steps[0]",
        action="log",
        status="done",
        started_at=at,
    )
    for attempt in (1, 2):
        insert(context, "attempts", account_id=owner, run_id=run, ordinal=0, attempt=attempt, outcome="done", started_at=at,
                finished_at=at)  # fmt: skip
    return run


def add_workflow(context: AppContext, document: dict[str, Any], awaits: str = "{}") -> None:
    insert(
        context, "workflows", account_id=ACME, id=WORKFLOW, name="w", latest_version=1, enabled_version=1, enablement=1
    )
    insert(context, "workflow_versions", account_id=ACME, workflow_id=WORKFLOW, version=1, source="", document=document,
            awaits=awaits)  # fmt: skip


def keep(context: AppContext, account: int, keep: dict[str, timedelta | None], reset: tuple[str, ...] = ()) -> None:
    change_retention(context, account, "slug", keep, reset)


def go_on(seconds: float) -> bool:
    return False


def do_round(context: AppContext) -> dict[str, int]:
    return {kind: count for kind, count in delete_expired(context, go_on).items() if count}


def partitions_of(context: AppContext) -> list[str]:
    query = "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'events'::regclass ORDER BY 1"
    return [name for (name,) in run_query(context, query) if "2021" in name]


def events_of(context: AppContext) -> set[UUID]:
    return {id for (id,) in run_query(context, "SELECT id FROM events")}


MONTHS = [f"events_2021_{month:02}" for month in range(1, 11)]
