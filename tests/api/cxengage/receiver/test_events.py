"""CxEngage's receiver as docs/cxengage.md describes it, in a running gunicorn over real sockets."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Any

import pytest

from app.core.models import PLANS
from app.services import accounts, workflows
from app.services.context import AppContext
from tests.api.conftest import Rows
from tests.support.builders import Sender, a_workflow, an_event
from tests.support.cxengage_tenants import Tenant, a_tenant, assert_error, described, stored, uuid_of
from tests.support.server import Server

SEED = (Path(__file__).parent / "cxengage_custom_events.md").read_text("utf-8")
COMMANDS = re.findall(r"^curl .*?(?=^{%)", SEED, re.DOTALL | re.MULTILINE)
ANSWERS = re.findall(r"javascript %}\n(.*?){%", SEED, re.DOTALL)


# The documented examples


def carried_out(command: str, tenant: Tenant) -> Any:
    """Send a printed curl command as this tenant."""
    path = re.search(r"https://events\.cxengage\.net(\S+)", command)[1]  # type: ignore[index]
    headers = dict(re.findall(r"-H '([^:]+): ([^']*)'", command))
    assert headers.pop("Authorization") == "Bearer TOKEN"
    body = re.search(r"-d '([^']*)'", command)
    method = re.search(r"-i?X ?(\w+)", command)[1]  # type: ignore[index]
    path = re.sub(r"/tenants/[^/]+/", f"/tenants/{tenant.slug}/", path)
    headers = {name.replace("-", "_"): value for name, value in headers.items()}
    return tenant.call_at(path, method, body[1] if body else None, **headers)


def test_the_documented_event_is_answered_as_printed(context: AppContext, tenant: Tenant) -> None:
    workflows.apply_workflow(context, tenant.account_id, a_workflow(on="bar"))
    answer = carried_out(COMMANDS[0], tenant)
    printed = json.loads(ANSWERS[0])
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "application/json"
    assert re.fullmatch(rf"EV{tenant.account_id}-[0-9]+", answer.json["id"])
    assert {**answer.json, "id": ""} == {**printed, "id": ""}
    assert list(answer.json) == list(printed)


def test_a_response_has_exactly_these_bytes(tenant: Tenant) -> None:
    answer = carried_out(COMMANDS[0], tenant)
    own = f'"id":"{answer.json["id"]}"'
    assert answer.text == '{"event":{"key" : "1", "type" : "bar"},"key-attr":"1",' + own + ',"contributing?":false}'


def test_the_documented_history_is_answered_as_printed_except_for_its_brackets(
    context: AppContext, tenant: Tenant
) -> None:
    described(context, tenant, key_attribute="user")
    workflows.apply_workflow(context, tenant.account_id, a_workflow(on="event"))
    (printed,) = json.loads(ANSWERS[1].replace('"history":', '"history": [') + "]}")["history"]
    sent = tenant.post(printed["event"]).json
    (stored_event,) = carried_out(COMMANDS[1], tenant).json["history"]
    own = {"id": sent["id"], "return-address": f"SV{tenant.account_id}."}
    assert stored_event == printed | own
    assert set(stored_event) == set(printed)


def test_the_documented_rate_limit_is_answered_as_printed(context: AppContext, server: Server) -> None:
    tenant = a_tenant(context, server, plan="trial")
    accounts.change_plan(context, tenant.account_id, PLANS["trial"], 1)
    answer = next(one for one in iter(lambda: tenant.post({"key": "1"}), None) if one.status_code == 429)
    assert answer.json == json.loads(ANSWERS[3])
    assert answer.headers["Retry-After"] == "1"
    assert [answer.headers[f"RateLimit-{name}"] for name in ("Limit", "Remaining", "Reset")] == ["1", "0", "1"]


def test_a_trial_account_may_send_100_events_per_second(context: AppContext, server: Server) -> None:
    answer = a_tenant(context, server, plan="trial").post({"key": "1"})
    assert [answer.headers[f"RateLimit-{name}"] for name in ("Limit", "Remaining")] == ["100", "99"]


def test_the_version_needs_no_authentication(server: Server) -> None:
    answer = server.open("/version")
    assert (answer.status_code, answer.data, answer.headers["Content-Type"]) == (200, b"1.0", "application/json")
    assert answer.headers["X-Request-Id"]


# The stored event


def test_an_event_is_stored_with_its_name_subject_and_data(tenant: Tenant, rows: Rows) -> None:
    sent = {"key": "1", "type": "bar", "nested": {"a": [1, None]}}
    row = stored(rows, tenant.post(sent).json["id"])
    names = ("account_id", "event", "distinct_id", "phone", "data", "extra", "warnings", "via")
    assert [row[name] for name in names] == [tenant.account_id, "bar", "1", None, sent, None, None, "receiver"]


def test_limechat_events_have_no_via(acme: Sender, rows: Rows) -> None:
    assert rows("SELECT via FROM events WHERE id = %s", acme.post(an_event()).json["id"]) == [(None,)]


@pytest.mark.parametrize(
    ("value", "name", "warned"),
    [
        ('"bar"', "bar", False),
        ('"two words"', "two words", False),
        ('"\\u0062ar"', "bar", False),
        ('"' + "x" * 255 + '"', "x" * 255, False),
        ("1.50", "1.50", False),
        ("12345678901234567890123", "12345678901234567890123", False),
        ("true", "true", False),
        ("null", "event", False),
        (None, "event", False),
        ('""', "event", True),
        ('"' + "x" * 256 + '"', "event", True),
        ("9" * 256, "event", True),
        ('{"a": 1}', "event", True),
        ("[]", "event", True),
    ],
)
def test_the_name_of_an_event_is_its_type(
    shared: Tenant, rows: Rows, value: str | None, name: str, warned: bool
) -> None:
    body = '{"key": "1"' + (f', "type": {value}' if value else "") + "}"
    row = stored(rows, shared.post(body).json["id"])
    assert row["event"] == name
    assert (row["warnings"] is not None) == warned


@pytest.mark.parametrize(
    ("value", "subject"),
    [
        ('"1"', "1"),
        ('" a b "', " a b "),
        ('"\\u00e9😀"', "é😀"),
        ('"' + "😀" * 255 + '"', "😀" * 255),
        ("0", "0"),
        ("-1", "-1"),
        ("1.50", "1.5"),
        ("1e3", "1000"),
        ("98765.0", "98765"),
        ("12345678901234567890123", "12345678901234567890123"),
        ("9" * 255, "9" * 255),
    ],
)
def test_the_subject_is_the_key_attribute_as_text(shared: Tenant, rows: Rows, value: str, subject: str) -> None:
    answer = shared.post(f'{{"key": {value} , "type": "x"}}')
    assert answer.json["key-attr"] == subject
    assert stored(rows, answer.json["id"])["distinct_id"] == subject


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("{}", "'key' is missing"),
        ('{"type": "bar"}', "'key' is missing"),
        ('{"key": null}', "'key' is missing"),
        ('{"Key": "1"}', "'key' is missing"),
        ('{"event": {"key": "1"}}', "'key' is missing"),
        ('{"key": true}', "'key' is neither text nor a number"),
        ('{"key": ["1"]}', "'key' is neither text nor a number"),
        ('{"key": {"id": "1"}}', "'key' is neither text nor a number"),
        ('{"key": ""}', "'key' has 0 characters"),
        ('{"key": "' + "x" * 256 + '"}', "'key' has 256 characters"),
        ('{"key": ' + "9" * 5_000 + "}", "'key' has 5000 characters"),
    ],
)
def test_an_unusable_key_attribute_is_named_in_the_error(shared: Tenant, body: str, message: str) -> None:
    assert message in assert_error(shared.post(body), 400)


def test_an_account_can_set_other_attributes(context: AppContext, tenant: Tenant, rows: Rows) -> None:
    described(context, tenant, key_attribute="user id", event_attribute="what")
    row = stored(rows, tenant.post({"user id": 7, "what": "x", "key": "1", "type": "bar"}).json["id"])
    assert (row["distinct_id"], row["event"]) == ("7", "x")
    assert "'user id' is missing" in assert_error(tenant.post({"key": "1"}), 400)


def test_an_event_contributes_when_it_starts_a_workflow_or_advances_a_match(
    context: AppContext, tenant: Tenant
) -> None:
    pattern = {"seq": [{"event": "first"}, {"event": "second"}], "within": "1h"}
    workflows.apply_workflow(context, tenant.account_id, a_workflow(on=pattern))
    answers = [tenant.post({"key": "1", "type": name}).json["contributing?"] for name in ("other", "first", "second")]
    assert answers == [False, True, True]
    assert [one["contributing"] for one in tenant.history()] == [True, True, False]


def test_workflows_see_the_whole_event_as_data(context: AppContext, tenant: Tenant, rows: Rows) -> None:
    workflows.apply_workflow(context, tenant.account_id, a_workflow(on={"event": "bar", "where": "data.total > 1000"}))
    assert tenant.post({"key": "1", "type": "bar", "total": 1001}).json["contributing?"] is True
    assert tenant.post({"key": "1", "type": "bar", "total": 1000}).json["contributing?"] is False
    assert rows("SELECT distinct_id FROM runs WHERE account_id = %s", tenant.account_id) == [("1",)]


BIG = '{"key": 12345678901234567890123, "a" : 0.1234567890123456789, "b": 1e400, "c": [1.0, -0], "d": "\\u00e9"}'


def test_numbers_keep_every_digit(tenant: Tenant, rows: Rows) -> None:
    answer = tenant.post(BIG)
    assert BIG in answer.text
    written = rows("SELECT data::text FROM events WHERE id = %s", uuid_of(answer.json["id"]))[0][0]
    assert str(written).count("0.1234567890123456789") == 1
    assert "1" + "0" * 400 in str(written)
    assert f'"event":{written}' in tenant.call("/event/history").text


def test_html_characters_are_escaped_in_responses(tenant: Tenant) -> None:
    sent = {"key": "<script>&", "<b>": "</b>"}
    answer = tenant.post(sent)
    history = tenant.call("/event/history")
    for text in (answer.text, history.text, tenant.post({"<b>": 1}).text):
        assert not set("<>&") & set(text)
    assert answer.json["event"] == history.json["history"][0]["event"] == sent


def test_an_event_may_be_compressed(shared: Tenant, rows: Rows) -> None:
    answer = shared.post(gzip.compress(b'{"key": "1", "type": "bar"}'), Content_Encoding="gzip")
    assert (answer.status_code, answer.json["event"]) == (200, {"key": "1", "type": "bar"})


# Repeated events


def test_a_repeated_idempotency_key_returns_the_first_id_and_stores_nothing(
    context: AppContext, tenant: Tenant, rows: Rows
) -> None:
    workflows.apply_workflow(context, tenant.account_id, a_workflow(on="bar"))
    body = {"key": "1", "type": "bar"}
    first, second = (tenant.post(body, Idempotency_Key="k").json for _ in range(2))
    assert second == first | {"contributing?": False}
    third = tenant.post({"key": "2"}, Idempotency_Key="k")
    assert "another body" in assert_error(third, 400)
    assert rows("SELECT count(*) FROM events WHERE account_id = %s", tenant.account_id) == [(1,)]
    assert rows("SELECT count(*) FROM runs WHERE account_id = %s", tenant.account_id) == [(1,)]


def test_webhook_id_is_an_idempotency_key_too(tenant: Tenant) -> None:
    ids = {tenant.post({"key": "1"}, webhook_id="w").json["id"] for _ in range(2)}
    assert len(ids) == 1


# History


def test_the_history_has_the_last_ten_events_newest_first(tenant: Tenant) -> None:
    ids = [tenant.post({"key": str(number)}).json["id"] for number in range(12)]
    assert [one["id"] for one in tenant.history()] == ids[:1:-1]
    assert [one["key-attr"] for one in tenant.history()] == [str(number) for number in range(11, 1, -1)]


def test_the_history_shows_only_events_of_the_receiver(tenant: Tenant) -> None:
    identifier = tenant.post({"key": "1"}).json["id"]
    assert tenant.sender.post(an_event()).status_code == 200
    assert [one["id"] for one in tenant.history()] == [identifier]


def test_a_new_history_is_empty(tenant: Tenant) -> None:
    assert tenant.call("/event/history").text == '{"history":[]}'


def test_the_history_shows_no_events_of_another_tenant(tenant: Tenant, stranger: Tenant) -> None:
    tenant.post({"key": "1"})
    assert stranger.history() == []


def test_the_history_is_found_by_its_own_index(context: AppContext) -> None:
    with context.database.transaction() as connection:
        # Without them, the plan depends on how many rows other tests have left.
        for avoided in ("enable_seqscan", "enable_bitmapscan", "enable_sort", "enable_incremental_sort"):
            connection.exec_driver_sql(f"SET LOCAL {avoided} = off")
        plan = connection.exec_driver_sql(
            "EXPLAIN SELECT id FROM events WHERE account_id = 17 AND via IS NOT NULL ORDER BY id DESC LIMIT 10"
        )
        lines = [line for (line,) in plan]
        index = connection.exec_driver_sql(
            "SELECT indisvalid, pg_get_expr(indpred, indrelid) FROM pg_index WHERE indexrelid = 'events_via_idx'::regclass"
        ).one()
    assert not [line for line in lines if "Seq Scan" in line or "Sort  (" in line]
    assert tuple(index) == (True, "(via IS NOT NULL)")


# A new workflow


def test_a_workflow_that_was_just_enabled_misses_no_event(context: AppContext, tenant: Tenant) -> None:
    assert tenant.post({"key": "1", "type": "bar"}).json["contributing?"] is False
    workflows.apply_workflow(context, tenant.account_id, a_workflow(on="bar"))
    assert tenant.post({"key": "1", "type": "bar"}).json["contributing?"] is True
