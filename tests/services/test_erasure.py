"""Erasing a data subject: its id and phone are nowhere in the database afterwards, and what belongs to others stays."""

from __future__ import annotations

import base64
import json
import re
import zlib
from datetime import timedelta
from typing import Any
from urllib.parse import quote
from uuid import UUID

import pytest
from flask import Flask

from app.core.ids import uuid7
from app.core.models import Actor
from app.db import erasure, erasure_texts
from app.db.audit import Change
from app.services import audit, data_subjects, workflows
from app.services.context import AppContext
from tests.support.builders import Sender, a_workflow, an_event
from tests.support.run_execution import execute_run
from tests.support.tables_page import tables_of_page

PERSON, PHONE = "person-8086-of-acme", "+4917012345678"
# Whom the texts of the others name besides.
SIMILAR, SIMILAR_PHONE = "person-8086-of-acme2", "+49170123456789"
BOTH = f"{PERSON} {PHONE} {SIMILAR} {SIMILAR_PHONE}"


def _insert(context: AppContext, table: str, **fields: Any) -> None:
    values = [json.dumps(value) if isinstance(value, dict | list) else value for value in fields.values()]
    with context.database.transaction() as connection:
        connection.exec_driver_sql(
            f"INSERT INTO {table} ({', '.join(fields)}) VALUES ({', '.join(['%s'] * len(fields))})", tuple(values)
        )


def _rows(context: AppContext, table: str, account_id: int) -> list[dict[str, Any]]:
    with context.database.transaction() as connection:
        found = connection.exec_driver_sql(f"SELECT * FROM {table} WHERE account_id = %s", (account_id,))
        return [dict(row) for row in found.mappings()]


def _forms(text: str) -> list[str]:
    """How a text may be written in a column of text, JSON or bytes."""
    encoded = base64.urlsafe_b64encode(text.encode()).decode()
    return [text, quote(text, safe=""), encoded, text.encode().hex(), encoded.encode().hex()]


def _columns_that_hold(context: AppContext, account_id: int, *texts: str) -> set[str]:
    """Every column of every table in which a value has one of the texts, except for rows of other accounts; compressed bodies are
    unpacked."""
    forms = [form for text in texts for form in _forms(text)]
    found = set()
    with context.database.transaction() as connection:
        columns = connection.exec_driver_sql(
            "SELECT attrelid::regclass::text, attname FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid "
            "WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace AND attnum > 0 AND NOT attisdropped"
        ).all()
        for table, column in columns:
            held = connection.exec_driver_sql(
                f"SELECT count(*) FROM {table} WHERE {column}::text LIKE ANY (%(forms)s) "
                f"AND coalesce(to_jsonb({table}) ->> 'account_id', %(account)s) = %(account)s",
                {"forms": [f"%{form}%" for form in forms], "account": str(account_id)},
            ).scalar_one()
            found |= {f"{table}.{column}"} if held else set()
        for (body,) in connection.exec_driver_sql("SELECT body FROM refusals WHERE account_id = %s", (account_id,)):
            if body and any(form in zlib.decompress(body).decode("utf-8", "replace") for form in forms):
                found.add("refusals.body")
    return found


def _own(context: AppContext, sender: Sender) -> None:
    """Events, runs and deadlines of the person."""
    quiet = {"seq": ["looked", {"none": "order_placed", "for": "30m"}]}
    steps = [{"log": "{{ distinct_id }} {{ phone }}"}]
    workflows.apply_workflow(context, sender.account_id, a_workflow(on="looked", name="log", steps=steps))
    for key in ("distinct_id", "phone"):
        workflows.apply_workflow(context, sender.account_id, a_workflow(on=quiet, name=f"by-{key}", key=key))
    event = an_event(event="looked", distinct_id=PERSON, phone=PHONE, data={"whom": PERSON})
    answer = sender.post(event, Idempotency_Key=f"key of {PERSON}").get_json()
    for run in answer["runs"]:
        execute_run(context, sender.account_id, run)
    # As if a run waited for it by another field.
    _insert(
        context, "keyed_events", account_id=sender.account_id, key="data.whom", subject=PERSON, event_id=answer["id"],
        received_at=context.clock(),
    )  # fmt: skip


def _of_others(context: AppContext, account_id: int) -> UUID:
    """Rows that belong to others and name the person; the id of their run."""
    now, run = context.clock(), uuid7(context.clock())
    owner = {"account_id": account_id}
    _insert(
        context, "runs", **owner, id=run, workflow_id=uuid7(), version=1, match_key="k", event_id=uuid7(), matched="{}",
        event_received_at=now, distinct_id="bob", status="failed", error=f"no answer for {BOTH}", created_at=now, updated_at=now,
        finished_at=now,
    )  # fmt: skip
    taken = {"event": {"distinct_id": PERSON, "phone": PHONE, "data": {PERSON: [BOTH, 1.50]}}, "more": 1}
    _insert(
        context, "steps", **owner, run_id=run, ordinal=0, path="steps[0]", action="wait_for", status="done", started_at=now,
        output=taken, error=BOTH,
    )  # fmt: skip
    url = f"https://shop.example/of/{PERSON}?to={quote(PHONE, safe='')}"
    _insert(
        context, "attempts", **owner, run_id=run, ordinal=0, attempt=1, outcome="failed", error=f"{url} answered 500",
        request={"url": url, "body": BOTH}, response={"status": 500, "phone": int(PHONE[1:])}, started_at=now, finished_at=now,
    )  # fmt: skip
    _insert(
        context, "messages", **owner, id=uuid7(), number=99, run_id=run, ordinal=0, distinct_id="bob", text=BOTH,
        data={"text": BOTH}, created_at=now,
    )  # fmt: skip
    _insert(
        context, "idempotency_keys", **owner, key=f"order for {PERSON}", digest=b"", event_id=uuid7(), received_at=now
    )
    _insert(
        context, "idempotency_keys", **owner, key=f"order for {SIMILAR}", digest=b"", event_id=uuid7(), received_at=now
    )
    _insert(context, "open_circuits", **owner, target=f"POST {url}", failures=5, opened_at=now, retry_at=now)
    _insert(context, "disabled_targets", **owner, target=url, reason="answered 410", run_id=uuid7(), disabled_at=now)
    with context.database.transaction() as connection:
        audit.record(connection, context, Change("workflow.change", account_id, "w", {"where": BOTH}, {"where": PHONE}))
    return run


def _refuse(context: AppContext, account_id: int, body: str, **fields: Any) -> UUID:
    refusal, raw = uuid7(context.clock()), body.encode()
    given = {
        "account_id": account_id, "id": refusal, "refused_at": context.clock(), "route": "/", "key_prefix": "sb_1", "status": 422,
        "type": "validation-failed", "detail": "wrong", "request_id": "r", "body": zlib.compress(raw), "body_bytes": len(raw),
        "replayable": True, **fields,
    }  # fmt: skip
    _insert(context, "refusals", **given)
    return refusal


def test_the_id_and_the_phone_of_an_erased_person_are_nowhere(context: AppContext, acme: Sender) -> None:
    _own(context, acme)
    _of_others(context, acme.account_id)
    _refuse(
        context,
        acme.account_id,
        json.dumps({"distinct_id": PERSON, "phone": 1}),
        detail="phone",
        idempotency_key=PERSON,
    )
    _refuse(context, acme.account_id, '{"phone": "+49 (170) 123-456-78"')
    _insert(
        context, "deliveries", account_id=acme.account_id, id=uuid7(), source_id=uuid7(), source_version=1, method="POST",
        received_at=context.clock(), headers={}, body=f"for {PERSON}", verified=True, result="accepted", request_id="r",
    )  # fmt: skip
    held = {name.partition(".")[0] for name in _columns_that_hold(context, acme.account_id, PERSON, PHONE)}
    held = {re.sub(r"^events_\w+$", "events", name) for name in held}
    assert held == {name for name, entry in tables_of_page().items() if entry.is_erased}
    data_subjects.erase_subject(context, acme.account_id, PERSON)
    # Those of others are cut out: their names begin with that of the person.
    for table, column in (("attempts", "request"), ("messages", "text"), ("steps", "output")):
        (row,) = _rows(context, table, acme.account_id)
        assert SIMILAR in json.dumps(row[column]), table
        assert SIMILAR_PHONE in json.dumps(row[column]), table
    with context.database.transaction() as connection:
        for table in ("attempts", "messages", "steps", "runs", "idempotency_keys", "audit_log"):
            connection.exec_driver_sql(f"DELETE FROM {table} WHERE to_jsonb({table})::text LIKE %s", (f"%{SIMILAR}%",))
    assert _columns_that_hold(context, acme.account_id, PERSON, PHONE, PHONE[1:]) == set()


def test_what_others_have_keeps_its_form(context: AppContext, acme: Sender) -> None:
    run = _of_others(context, acme.account_id)
    _own(context, acme)
    data_subjects.erase_subject(context, acme.account_id, PERSON)
    masked = f"*** {SIMILAR} {SIMILAR_PHONE}"
    (step,), (attempt,) = _rows(context, "steps", acme.account_id), _rows(context, "attempts", acme.account_id)
    assert step["output"]["more"] == 1
    assert step["output"]["event"]["distinct_id"] == "***"
    assert masked[4:] in step["error"]
    assert attempt["request"]["url"].startswith("https://shop.example/of/***?to=")
    # A number cannot be masked.
    assert attempt["response"] == {}
    assert [row["id"] for row in _rows(context, "runs", acme.account_id)] == [run]
    assert [row["key"] for row in _rows(context, "idempotency_keys", acme.account_id)] == [f"order for {SIMILAR}"]


def test_nothing_of_another_account_is_changed(context: AppContext, acme: Sender, globex: Sender) -> None:
    _of_others(context, globex.account_id)
    _refuse(context, globex.account_id, json.dumps({"distinct_id": PERSON}))
    tables = (*erasure_texts.TABLES, "refusals", "idempotency_keys", "open_circuits", "disabled_targets", "audit_log")
    before = [_rows(context, table, globex.account_id) for table in tables]
    _own(context, acme)
    data_subjects.erase_subject(context, acme.account_id, PERSON)
    assert [_rows(context, table, globex.account_id) for table in tables] == before


def test_a_short_id_is_masked_only_where_it_is_the_whole_text(context: AppContext, acme: Sender) -> None:
    now = context.clock()
    run, owner = uuid7(now), {"account_id": acme.account_id}
    output = {"whom": "17", "text": "17 of 17", "count": 17, "17": "x"}
    _insert(context, "steps", **owner, run_id=run, ordinal=0, path="steps[0]", action="http", status="done", started_at=now,
            output=output)  # fmt: skip
    data_subjects.erase_subject(context, acme.account_id, "17")
    (step,) = _rows(context, "steps", acme.account_id)
    assert step["output"] == {"whom": "***", "text": "17 of 17", "count": 17, "***": "x"}


@pytest.mark.parametrize(
    "person", ["a+b.c@x.example", 'O\'Brien "Bob"', "Jörg Müller", "100%_sure", "back\\slash", "(+)*?[a]{2}"]
)
def test_any_characters_of_an_id_are_found_as_they_are(context: AppContext, acme: Sender, person: str) -> None:
    now = context.clock()
    _insert(context, "attempts", account_id=acme.account_id, run_id=uuid7(now), ordinal=0, attempt=1, outcome="done",
            request={"body": f"for {person}!", "url": f"https://x.example/?of={quote(person, safe='')}"},
            response={person: [person]}, error=f"{person}: no", started_at=now, finished_at=now)  # fmt: skip
    _refuse(context, acme.account_id, json.dumps({"distinct_id": person}))
    _refuse(context, acme.account_id, json.dumps({"distinct_id": person}, ensure_ascii=False))
    data_subjects.erase_subject(context, acme.account_id, person)
    (row,) = _rows(context, "attempts", acme.account_id)
    assert row["request"] == {"body": "for ***!", "url": "https://x.example/?of=***"}
    assert (row["response"], row["error"]) == ({"***": ["***"]}, "***: no")
    assert _rows(context, "refusals", acme.account_id) == []


def test_an_erasure_takes_batches_and_goes_on_where_it_stopped(
    context: AppContext, acme: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(erasure, "_BATCH", 2)
    monkeypatch.setattr(erasure_texts, "_PAGE", 2)
    workflows.apply_workflow(context, acme.account_id, a_workflow())
    for number in range(5):
        acme.post(an_event(distinct_id=PERSON), Idempotency_Key=f"{number}")
        _refuse(context, acme.account_id, json.dumps({"distinct_id": PERSON}))
        _insert(context, "idempotency_keys", account_id=acme.account_id, key=f"{number} {PERSON}", digest=b"",
                event_id=uuid7(), received_at=context.clock())  # fmt: skip
    with context.database.transaction() as connection:
        assert erasure.erase_events(connection, acme.account_id, PERSON)["events"] == 2
        assert erasure.erase_runs(connection, acme.account_id, PERSON) == (2, 2)
    erased = data_subjects.erase_subject(context, acme.account_id, PERSON)
    assert (erased.events, erased.runs, erased.refusals) == (3, 3, 5)
    assert _columns_that_hold(context, acme.account_id, PERSON) == set()


def test_an_erasure_leaves_a_receipt_by_which_only_who_knows_the_id_finds_it(
    context: AppContext, acme: Sender, globex: Sender
) -> None:
    acme.post(an_event(distinct_id=PERSON), Idempotency_Key="one")
    erased = data_subjects.erase_subject(context.acting_as(Actor("anna", "cli")), acme.account_id, PERSON)
    data_subjects.erase_subject(context, acme.account_id, SIMILAR)
    (receipt,) = data_subjects.list_receipts(context, acme.account_id, PERSON, before=None, limit=10)
    assert (receipt.actor, receipt.counts["events"], receipt.counts["idempotency_keys"]) == ("anna", 1, 1)
    assert receipt.counts == {"events": 1, "runs": 0, "progress": 0, "refusals": 0, **erased.more}
    assert context.clock() - receipt.at < timedelta(minutes=1)
    assert PERSON.encode() not in receipt.subject_hash
    every = data_subjects.list_receipts(context, acme.account_id, None, before=None, limit=10)
    assert [one.id for one in every][1] == receipt.id
    assert data_subjects.list_receipts(context, globex.account_id, None, before=None, limit=10) == []
    # The key is that of the account.
    hashes = {data_subjects.hash_subject(context, sender.account_id, PERSON) for sender in (acme, globex)}
    assert len(hashes) == 2


def test_receipts_are_listed_by_a_command(app: Flask, context: AppContext, acme: Sender) -> None:
    for person in (PERSON, SIMILAR):
        data_subjects.erase_subject(context, acme.account_id, person)
    runner = app.test_cli_runner()
    result = runner.invoke(args=["subject", "receipts", acme.slug, "--subject", PERSON, "--json"])
    (found,) = map(json.loads, result.stdout.splitlines())
    assert found["subject_hash"] == data_subjects.hash_subject(context, acme.account_id, PERSON).hex()
    assert runner.invoke(args=["subject", "receipts", acme.slug]).stdout.count("nothing was stored") == 2
