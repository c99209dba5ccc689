"""`signalbox account export`: all rows of an account from one snapshot, without secrets, in bounded memory."""

from __future__ import annotations

import gzip
import json
import re
import tracemalloc
from collections import Counter
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskCliRunner

from app.actions.integration_kinds import KINDS
from app.db import export
from app.db.roles import SECRET_COLUMNS
from app.db.tables import metadata
from app.services import api_keys, integrations, workflows
from app.services.context import AppContext
from app.services.export import export_account
from tests.support.builders import Sender, a_workflow, an_event
from tests.support.run_execution import execute_run


@pytest.fixture
def runner(app: Flask) -> FlaskCliRunner:
    return app.test_cli_runner()


def _fill(context: AppContext, sender: Sender) -> None:
    workflows.apply_workflow(context, sender.account_id, a_workflow())
    event = an_event(data={"exact": 0}, phone="+915673412780", note="\x9b31m")
    text = json.dumps(event).replace('"exact": 0', '"exact": 12345678901234567890123.4500')
    for run in sender.post(text, Idempotency_Key="one").get_json()["runs"]:
        execute_run(context, sender.account_id, run)
    integrations.set_integration(
        context,
        sender.account_id,
        KINDS["twilio"],
        {"account_sid": "AC" + "0" * 32, "auth_token": "hush", "from": "+15005550006"},
    )
    api_keys.create_client(context, sender.account_id, "app", ("events:read",))


def _export(runner: FlaskCliRunner, sender: Sender) -> list[dict[str, Any]]:
    result = runner.invoke(args=["account", "export", sender.slug])
    assert result.exit_code == 0, result.output
    return [json.loads(line, parse_float=str) for line in result.stdout.splitlines()]


def test_all_rows_of_the_account_and_no_others_are_exported(
    runner: FlaskCliRunner, context: AppContext, acme: Sender, globex: Sender
) -> None:
    for sender in (acme, globex):
        _fill(context, sender)
    first, *rows, last = _export(runner, acme)
    assert (first["kind"], first["row"]["account"]) == ("export", acme.account_id)
    assert last == {"kind": "end", "row": dict(Counter(one["kind"] for one in rows))}
    filled = {
        "accounts",
        "keys",
        "clients",
        "integrations",
        "workflows",
        "workflow_versions",
        "workflow_triggers",
        "events",
    }
    assert filled | {"idempotency_keys", "runs", "steps", "attempts", "audit_log"} <= set(last["row"])
    owners = {one["row"]["id"] if one["kind"] == "accounts" else one["row"]["account_id"] for one in rows}
    assert owners == {acme.account_id}


def test_each_table_with_rows_of_accounts_is_exported(context: AppContext) -> None:
    with context.database.transaction() as connection:
        found = connection.exec_driver_sql(
            "SELECT DISTINCT attrelid::regclass::text FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid WHERE attname = "
            "'account_id' AND relkind IN ('r', 'p') AND NOT relispartition AND relnamespace = 'public'::regnamespace"
        ).scalars()
        assert {"accounts", *found} == set(export.tables_of_accounts())


def test_values_are_exact_and_times_are_utc(runner: FlaskCliRunner, context: AppContext, acme: Sender) -> None:
    _fill(context, acme)
    result = runner.invoke(args=["account", "export", acme.slug])
    assert '"exact": 12345678901234567890123.4500' in result.stdout
    (event,) = (one["row"] for one in map(json.loads, result.stdout.splitlines()) if one["kind"] == "events")
    assert set(event) == {column.name for column in metadata.tables["events"].columns}
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", event["received_at"])
    assert (event["distinct_id"], event["extra"]) == ("915673412780", {"note": "\x9b31m"})
    assert "\x9b" not in result.stdout


def test_secrets_are_left_out(runner: FlaskCliRunner, context: AppContext, acme: Sender) -> None:
    _fill(context, acme)
    rows = _export(runner, acme)
    for one in rows:
        assert not set(one["row"]) & SECRET_COLUMNS.get(one["kind"], frozenset()), one["kind"]
    text = json.dumps(rows)
    assert "hush" not in text
    assert acme.token not in text
    with context.database.transaction() as connection:
        secret = connection.exec_driver_sql(
            "SELECT signing_secret FROM accounts WHERE id = %s", (acme.account_id,)
        ).scalar_one()
    assert bytes(secret).decode() not in text


def test_gzip_has_the_same_lines(runner: FlaskCliRunner, context: AppContext, acme: Sender) -> None:
    _fill(context, acme)
    packed = runner.invoke(args=["account", "export", acme.slug, "--gzip"]).stdout_bytes
    lines = gzip.decompress(packed).decode().splitlines()
    assert lines[1:] == runner.invoke(args=["account", "export", acme.slug]).stdout.splitlines()[1:]


def test_the_export_is_of_one_moment(context: AppContext, acme: Sender) -> None:
    _fill(context, acme)
    lines = export_account(context, acme.account_id)
    kinds = [json.loads(next(lines))["kind"], json.loads(next(lines))["kind"]]
    assert kinds == ["export", "accounts"]
    acme.post(an_event())
    with context.database.transaction() as connection:
        connection.exec_driver_sql("DELETE FROM runs WHERE account_id = %s", (acme.account_id,))
    *_, last = map(json.loads, lines)
    assert (last["row"]["events"], last["row"]["runs"]) == (1, 1)


def _insert_large_events(context: AppContext, sender: Sender, number: int, size: int) -> None:
    with context.database.transaction() as connection:
        connection.exec_driver_sql(
            "INSERT INTO events (account_id, id, event, distinct_id, data, received_at) SELECT %s, gen_random_uuid(), 'e', 'd', "
            "jsonb_build_object('text', repeat('x', %s)), now() FROM generate_series(1, %s)",
            (sender.account_id, size, number),
        )


def test_memory_does_not_grow_with_the_rows(context: AppContext, acme: Sender) -> None:
    # 80 MB in all, of which 100 rows, 4 MB, are in memory at a time.
    _insert_large_events(context, acme, 2_000, 40_000)
    size = count = 0
    tracemalloc.start()
    try:
        for line in export_account(context, acme.account_id):
            size += len(line)
            count += 1
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert count > 2_000
    assert size > 80_000_000
    assert peak < 20_000_000
