"""Each list of the management API reads its page from an index: for every filter, no statement counts, skips or sorts rows.

The planner is set to avoid reading whole tables and sorting, where it can. What does so nevertheless has no index. Of several
indexes it takes any while the table is nearly empty, so that runs are added before.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from app.core.models import ACCOUNT_MANAGE, OPERATOR
from app.services.context import AppContext
from tests.api.management.test_document import OPERATIONS
from tests.support.builders import a_workflow, an_event
from tests.support.management import PREFIX, Manager, Operation, a_key
from tests.support.statements import statements

AVOIDED = ("enable_seqscan", "enable_bitmapscan", "enable_sort", "enable_incremental_sort", "enable_hashjoin")
# What a filter is called with, unless its schema has an example or choices.
VALUES = {"since": "2026-11-01T00:00:00Z", "until": "2126-11-01T00:00:00Z", "limit": "2", "source": "shop"}
# Filters of a search, which looks at 2,000 events. `refusals_request_id_idx` finds few rows, which are sorted: plans without
# sorting do not show it.
SEARCHED = {
    ("list_events", "outcome"),
    ("list_events", "via"),
    ("list_events", "data"),
    ("list_refusals", "request_id"),
}
# They sort the few rows of a page: failing and disabled targets, of two tables, and what the runs of a page have sent.
MERGED = {"list_targets", "show_timeline"}
# Parts of a plan that read all rows of an account, or of all accounts.
BAD = re.compile(r"Seq Scan|(?:^|-> +)(?:Incremental )?Sort ")
# Without a cursor or a time, it begins now and reads nothing.
BEGINS = {"follow_events": "since=2026-11-01T00:00:00Z&"}
RUNS = """
INSERT INTO runs (account_id, id, workflow_id, version, match_key, event_id, event_received_at, matched, distinct_id, status, at,
    created_at, updated_at)
SELECT account_id, gen_random_uuid(), workflow_id, version, number::text, gen_random_uuid(), now(), '{}', number::text, 'done',
    'steps[0]', now(), now()
FROM (SELECT * FROM runs ORDER BY id DESC LIMIT 1) AS known, generate_series(1, 1000) AS number
"""
UUID = "01a20154-90e0-75eb-90e3-fa42b2109aca"


def lists() -> Iterator[Operation]:
    """The operations that answer pages."""
    for operation in OPERATIONS:
        names = {one.get("name") for one in operation.spec.get("parameters", ())}
        if operation.method == "get" and {"limit", "after"} <= names and operation.name not in MERGED:
            yield operation


def cases() -> Iterator[tuple[Operation, str]]:
    """Each list alone, from a cursor on, and with each of its filters."""
    for operation in lists():
        yield operation, ""
        for parameter in operation.spec["parameters"]:
            if parameter.get("in") != "query" or (operation.name, parameter["name"]) in SEARCHED:
                continue
            if parameter["name"] not in ("limit", "account"):
                yield operation, f"{parameter['name']}={value_of(parameter)}"


def chosen(operation: Operation) -> set[str]:
    """The filters that have a choice of values."""
    return {one["name"] for one in operation.spec["parameters"] if "enum" in one.get("schema", ())}


def value_of(parameter: dict[str, Any]) -> str:
    schema = parameter["schema"]
    known = schema.get("example") or schema.get("enum", [None])[-1] or VALUES.get(parameter["name"])
    if known is None and schema.get("format") == "uuid":
        known = UUID
    if known is None and schema.get("type") == "integer":
        known = "7"
    return str(known or "none")


def refresh(manager: Manager) -> None:
    """Read the account. Otherwise a request may do it, whose statements sort workflows and keys."""
    manager.client.application.extensions["accounts"].find_by_id(manager.sender.account_id)


def plan_of(context: AppContext, statement: str, values: Any) -> list[str]:
    with context.database.transaction() as connection:
        for setting in AVOIDED:
            connection.exec_driver_sql(f"SET LOCAL {setting} = off")
        if " runs " in statement:
            connection.exec_driver_sql(RUNS)
            connection.exec_driver_sql("ANALYZE runs")
        plan = [row[0] for row in connection.exec_driver_sql(f"EXPLAIN {statement}", values)]
        connection.rollback()
        return plan


@pytest.mark.parametrize(
    ("operation", "query"),
    list(cases()),
    ids=[f"{operation.name}-{query.partition('=')[0]}" for operation, query in cases()],
)
def test_a_page_is_read_from_an_index(
    context: AppContext, manager: Manager, values: dict[str, str], operation: Operation, query: str
) -> None:
    path = operation.path.removeprefix(PREFIX).format(**values)
    if operation.is_of_operator:
        manager = replace(manager, token=a_key(context, manager.sender, ACCOUNT_MANAGE, OPERATOR))
    refresh(manager)
    with statements() as found:
        answer = manager.get(f"{path}?limit=2&{BEGINS.get(operation.name, '')}{query}")
    assert answer.status_code == 200, answer.text
    selects = [(statement, given) for statement, given in found if statement.lstrip().startswith(("SELECT", "WITH"))]
    assert selects
    for statement, given in selects:
        assert not re.search(r"\bcount\(\*\)|\bOFFSET\b", statement, re.IGNORECASE), statement
        plan = plan_of(context, statement, given)
        assert [line for line in plan if BAD.search(line)] == [], "\n".join([statement, *plan])
        # A text is searched for in an index, not in each row that is read. Choices have partial indexes, times the ids.
        name, _, value = query.partition("=")
        sought = "" if name in VALUES or name in chosen(operation) else value
        read = [line for line in plan if sought and "Filter:" in line and f"'{sought}" in line]
        assert read == [], "\n".join([statement, *plan])


def test_the_lists_are_found_in_the_document() -> None:
    assert {"list_keys", "list_workflows", "list_events", "list_runs", "list_versions"} <= {one.name for one in lists()}


@pytest.mark.parametrize("path", ["/runs", "/deliveries", "/workflows", "/secrets", "/members"])
def test_a_page_takes_as_many_statements_whatever_it_has(
    context: AppContext, manager: Manager, values: dict[str, str], path: str
) -> None:
    hook = manager.post(
        "/sources", {"source": "name: till\nverify: none\nmap: {event: \"'x'\", distinct_id: [body.a]}\n"}
    )
    for number in range(2):
        manager.sender.post(an_event(event="signed_up", distinct_id=str(number)))
        manager.client.post(hook.json["path"], json={"a": number})
        manager.post("/workflows", {"source": a_workflow(name=f"w{number}")})
        manager.post("/secrets", {"name": f"S{number}", "value": "a value of eight"})
    for email in (values["user"], "new@example.com"):
        manager.post("/members", {"email": email, "role": "viewer"})
    counts = []
    for limit in (1, 3):
        refresh(manager)
        with statements() as found:
            items = manager.get(f"{path}?limit={limit}").json["items"]
        assert len(items) == limit
        counts.append(len(found))
    assert counts[0] == counts[1]
