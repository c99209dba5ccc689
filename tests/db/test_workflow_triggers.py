"""Which workflows look at an event is in a table: written with each change, read with the account."""

from __future__ import annotations

import json
import uuid
from contextlib import closing
from typing import Any

import psycopg2
import pytest
import sqlalchemy as sa

from app.db import accounts
from app.db.migrate import upgrade
from app.services import workflows
from app.services.context import AppContext
from app.workflows.validate import trigger_names
from tests.support.builders import Sender, a_workflow, an_event

PATTERNS: list[Any] = [
    "order_placed",
    {"event": "order_placed", "where": "data.total > 100"},
    {"times": 2, "of": {"any": ["viewed", {"event": "searched"}]}},
    {"seq": ["cart", "pay"], "unless": {"any": ["emptied", "left"]}, "within": "1h"},
    {"seq": ["cart", {"none": {"any": ["paid", {"event": "emptied"}]}, "for": "30m"}]},
    {"all": ["a", {"seq": ["b", "c"]}, {"event": "d"}]},
    {"event": "*", "where": "data.vip"},
    {"any": ["a", "*"]},
]


def triggers(context: AppContext, sender: Sender) -> list[tuple[str, str, int]]:
    with context.database.transaction() as connection:
        found = connection.exec_driver_sql(
            "SELECT event, workflows.name, version FROM workflow_triggers JOIN workflows USING (account_id) "
            "WHERE workflows.id = workflow_id AND account_id = %(account)s ORDER BY 1, 2",
            {"account": sender.account_id},
        )
        return [tuple(row) for row in found]


def apply(context: AppContext, sender: Sender, **changes: Any) -> None:
    workflows.apply_workflow(context, sender.account_id, a_workflow(**changes))


def test_an_enabled_version_has_a_row_for_each_event_name(context: AppContext, acme: Sender) -> None:
    apply(context, acme, name="rescue", on=PATTERNS[3])
    assert triggers(context, acme) == [(name, "rescue", 1) for name in ("cart", "emptied", "left", "pay")]


def test_a_workflow_that_looks_at_any_event_has_one_row(context: AppContext, acme: Sender) -> None:
    apply(context, acme, on=PATTERNS[-1])
    assert triggers(context, acme) == [("*", "watch", 1)]


def test_the_rows_are_those_of_the_enabled_version(context: AppContext, acme: Sender) -> None:
    apply(context, acme, on="a")
    apply(context, acme, on={"any": ["a", "b"]})
    assert triggers(context, acme) == [("a", "watch", 2), ("b", "watch", 2)]
    workflows.enable_workflow(context, acme.account_id, "watch", 1)
    assert triggers(context, acme) == [("a", "watch", 1)]


def test_a_draft_changes_no_rows(context: AppContext, acme: Sender) -> None:
    apply(context, acme, on="a")
    workflows.save_draft(context, acme.account_id, a_workflow(on="b"))
    assert triggers(context, acme) == [("a", "watch", 1)]


@pytest.mark.parametrize("end", [workflows.disable_workflow, workflows.delete_workflow])
def test_a_disabled_or_deleted_workflow_has_no_rows(context: AppContext, acme: Sender, end: Any) -> None:
    apply(context, acme)
    apply(context, acme, name="other")
    end(context, acme.account_id, "watch")
    assert [name for _, name, _ in triggers(context, acme)] == ["other"]


def test_the_table_decides_which_workflows_look_at_an_event(context: AppContext, acme: Sender) -> None:
    apply(context, acme)
    apply(context, acme, name="other", on="order_placed")
    assert len(acme.post(an_event()).get_json()["runs"]) == 1
    with context.database.transaction() as connection:
        connection.exec_driver_sql(
            "UPDATE workflow_triggers SET event = 'order_placed' WHERE account_id = %(account)s",
            {"account": acme.account_id},
        )
        accounts.increment_version(connection, acme.account_id)
    assert acme.post(an_event()).get_json()["runs"] == []


def test_what_an_earlier_release_has_enabled_gets_its_rows_and_starts(context: AppContext, acme: Sender) -> None:
    apply(context, acme)
    apply(context, acme, name="disabled")
    workflows.disable_workflow(context, acme.account_id, "disabled")
    with context.database.transaction() as connection:
        connection.exec_driver_sql(
            "DELETE FROM workflow_triggers WHERE account_id = %(account)s", {"account": acme.account_id}
        )
        accounts.increment_version(connection, acme.account_id)
    assert len(acme.post(an_event()).get_json()["runs"]) == 1
    assert triggers(context, acme) == [("product_view", "watch", 1)]


@pytest.mark.parametrize("second", ["product_view", {"any": ["product_view", "new"]}, "new"])
def test_a_version_that_an_earlier_release_enables_replaces_the_rows(
    context: AppContext, acme: Sender, second: Any
) -> None:
    apply(context, acme, on={"any": ["product_view", "old"]})
    acme.post(an_event())
    workflows.save_draft(context, acme.account_id, a_workflow(on=second))
    with context.database.transaction() as connection:
        connection.exec_driver_sql(
            "UPDATE workflows SET enabled_version = 2, enablement = enablement + 1 WHERE account_id = %(account)s",
            {"account": acme.account_id},
        )
        accounts.increment_version(connection, acme.account_id)
    names = trigger_names({"on": second})
    assert len(acme.post(an_event(event=names[0])).get_json()["runs"]) == 1
    assert triggers(context, acme) == [(name, "watch", 2) for name in names]


def test_a_snapshot_with_triggers_is_read_by_one_statement(context: AppContext, acme: Sender) -> None:
    apply(context, acme, on=PATTERNS[2])
    statements: list[str] = []
    with context.database.transaction() as connection:
        sa.event.listen(connection, "before_cursor_execute", lambda *arguments: statements.append(arguments[2]))
        snapshot = accounts.find_account_snapshot(connection, acme.account_id)
    assert snapshot is not None
    assert [workflow.triggers for workflow in snapshot.workflows] == [{"viewed", "searched"}]
    assert len(statements) == 1


def test_the_migration_writes_the_rows_of_enabled_workflows(empty_database: str) -> None:
    upgrade(empty_database, target="0008")
    documents = [{"on": pattern} for pattern in PATTERNS]
    with closing(psycopg2.connect(empty_database)) as connection, connection.cursor() as cursor:
        cursor.execute("INSERT INTO accounts (slug, plan, signing_secret) VALUES ('a', 'trial', '') RETURNING id")
        (account,) = cursor.fetchone() or (None,)
        for number, document in enumerate(documents):
            # Version 2 is enabled, of the last one none.
            workflow, enabled = str(uuid.UUID(int=number)), None if number == len(documents) - 1 else 2
            cursor.execute(
                "INSERT INTO workflows (account_id, id, name, enabled_version, latest_version) VALUES (%s, %s, %s, %s, 3)",
                (account, workflow, f"w{number}", enabled),
            )
            for version in (1, 2, 3):
                saved = document if version == 2 else {"on": f"not enabled {version}"}
                cursor.execute(
                    "INSERT INTO workflow_versions (account_id, workflow_id, version, source, document) "
                    "VALUES (%s, %s, %s, '', %s)",
                    (account, workflow, version, json.dumps(saved)),
                )
        connection.commit()
        upgrade(empty_database, target="0009")
        cursor.execute("SELECT workflow_id, event, version FROM workflow_triggers WHERE account_id = %s", (account,))
        expected = {
            (str(uuid.UUID(int=number)), name, 2)
            for number, document in enumerate(documents[:-1])
            for name in trigger_names(document)
        }
        assert set(cursor.fetchall()) == expected
