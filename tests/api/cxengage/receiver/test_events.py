"""CxEngage's receiver as docs/cxengage.md describes it, in a running gunicorn over real sockets."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Any

import pytest

from app.core.models import ACCOUNT_MANAGE, EVENTS_READ, EVENTS_WRITE, PLANS
from app.services import accounts, api_keys, workflows
from app.services.context import AppContext
from tests.api.conftest import Rows
from tests.support.builders import Sender, a_workflow, an_event
from tests.support.cxengage_tenants import PREFIXES, Tenant, a_tenant, described, uuid_of
from tests.support.server import Server

SEED = (Path(__file__).parent / "cxengage_custom_events.md").read_text("utf-8")
COMMANDS = re.findall(r"^curl .*?(?=^{%)", SEED, re.DOTALL | re.MULTILINE)
ANSWERS = re.findall(r"javascript %}\n(.*?){%", SEED, re.DOTALL)


@pytest.fixture
def tenant(context: AppContext, server: Server) -> Tenant:
    """The sending tenant; new for each test."""
    return a_tenant(context, server)


@pytest.fixture
def stranger(context: AppContext, server: Server) -> Tenant:
    """Another tenant, which must never see events of the first."""
    return a_tenant(context, server, "globex")


@pytest.fixture(scope="module")
def shared(context: AppContext, server: Server) -> Tenant:
    """A tenant for tests that check only the response, or the one row that it names."""
    return a_tenant(context, server)


def assert_error(answer: Any, status: int) -> str:
    """The error text of a response."""
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.headers["X-Request-Id"]
    assert list(answer.json) == ["error"]
    text = answer.json["error"]
    assert isinstance(text, str)
    assert text
    return text


def stored(rows: Rows, identifier: str) -> dict[str, Any]:
    """The row of an event."""
    ((row,),) = rows("SELECT to_jsonb(events) FROM events WHERE id = %s", uuid_of(identifier))
    assert isinstance(row, dict)
    return row


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


# The tenant


@pytest.mark.parametrize("path", ["", "/"])
@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_tenant_has_an_id_and_a_name(context: AppContext, tenant: Tenant, prefix: str, path: str) -> None:
    there = Tenant(tenant.sender, tenant.token, prefix)
    assert there.call(path).json == {"id": tenant.slug, "name": tenant.slug}
    described(context, tenant, name="Acme & Söhne")
    assert answer_after_an_event(there, path) == {"id": tenant.slug, "name": "Acme & Söhne"}


def answer_after_an_event(tenant: Tenant, path: str) -> Any:
    """The answer of a route after an event, which makes the process load the current account snapshot."""
    assert tenant.post({"key": "1"}).status_code == 200
    return tenant.call(path).json


def test_another_event_attribute_applies_from_the_next_event(context: AppContext, tenant: Tenant, rows: Rows) -> None:
    sent = {"key": "1", "user": "2", "type": "a", "what": "b"}
    for changes, expected in (({}, ("1", "a")), ({"key_attribute": "user", "event_attribute": "what"}, ("2", "b"))):
        described(context, tenant, **changes)
        row = stored(rows, tenant.post(sent).json["id"])
        assert (row["distinct_id"], row["event"]) == expected


def test_the_key_attribute_can_be_read_and_changed(tenant: Tenant) -> None:
    assert tenant.call("/key-attribute").text == '{"key":"key"}'
    changed = tenant.call("/key-attribute", "POST", {"key": "username"})
    assert (changed.status_code, changed.text) == (200, '{"key":"username"}')
    assert tenant.post({"username": "x"}).json["key-attr"] == "x"
    assert tenant.call("/key-attribute").json == {"key": "username"}
    assert "'username' is missing" in assert_error(tenant.post({"key": "x"}), 400)


@pytest.mark.parametrize(
    "body", ["{}", '{"key": ""}', '{"key": 1}', '{"key": null}', '{"key": "a", "b": 1}', "[]", "{", '{"key": "a\\tb"}']
)
def test_an_invalid_key_attribute_is_refused(shared: Tenant, body: str) -> None:
    assert_error(shared.call("/key-attribute", "POST", body), 400)
    assert shared.call("/key-attribute").json == {"key": "key"}


def test_all_faults_of_a_key_attribute_are_reported(shared: Tenant) -> None:
    refused = shared.call("/key-attribute", "POST", {"key": None, "other": 1})
    assert refused.json == {"error": "key must be text; other is unknown"}


def test_a_key_belongs_to_an_account_of_one_tenant(tenant: Tenant) -> None:
    assert tenant.call_at("/1.0/account").json == {
        "email": None,
        "name": tenant.slug,
        "client-id": None,
        "ttl": None,
        "tenants": [tenant.slug],
    }
    assert tenant.call_at("/1.0/account/tenants").json == {"tenants": [{"id": tenant.slug, "name": tenant.slug}]}


# Authentication and scopes

ROUTES = [
    ("GET", ""),
    ("GET", "/"),
    ("GET", "/key-attribute"),
    ("POST", "/key-attribute"),
    ("POST", "/event"),
    ("GET", "/event/history"),
]
BODIES = {"/event": {"key": "1"}, "/key-attribute": {"key": "key"}}


def call(tenant: Tenant, method: str, path: str, **headers: str) -> Any:
    return tenant.call(path, method, BODIES[path] if method == "POST" else None, **headers)


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_every_route_is_served_with_and_without_the_prefix(shared: Tenant, prefix: str, method: str, path: str) -> None:
    assert call(Tenant(shared.sender, shared.token, prefix), method, path).status_code == 200


@pytest.mark.parametrize("path", ["/account", "/account/tenants"])
@pytest.mark.parametrize("prefix", PREFIXES)
def test_the_account_routes_are_served_with_and_without_the_prefix(shared: Tenant, prefix: str, path: str) -> None:
    assert shared.call_at(prefix + path).status_code == 200


NOBODIES = ["", "Bearer", "Bearer  ", "Bearer x y", "Basic eDp5", "sb_", "Bearer ' OR ''='", "Bearer \xff"]
NOBODIES += ["Bearer sb_12345678_" + "x" * 43, "Bearer sbt_123456789012_" + "x" * 43, "Bearer " + "x" * 4_000]


@pytest.mark.parametrize("authorization", NOBODIES, ids=range(len(NOBODIES)))
@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_requests_without_a_valid_token_are_refused(shared: Tenant, method: str, path: str, authorization: str) -> None:
    answer = call(shared, method, path, Authorization=authorization)
    assert "Bearer" in assert_error(answer, 401)
    assert answer.headers["WWW-Authenticate"] == 'Bearer realm="signalbox"'


def test_the_word_bearer_is_case_insensitive(shared: Tenant) -> None:
    assert shared.call("/", Authorization=f"bearer {shared.token}").status_code == 200


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_another_tenant_and_a_missing_one_get_the_same_error(
    shared: Tenant, stranger: Tenant, method: str, path: str
) -> None:
    answers = []
    for slug in (stranger.slug, "nobody", str(stranger.account_id), str(shared.account_id), shared.slug + "%00"):
        answer = shared.call_at(f"/1.0/tenants/{slug}{path}", method, BODIES.get(path) if method == "POST" else None)
        assert_error(answer, 403)
        answers.append(answer.data)
    assert set(answers) == {b'{"error":"The token has no access to this tenant."}'}


def test_an_event_refused_by_another_tenant_is_not_stored(shared: Tenant, stranger: Tenant, rows: Rows) -> None:
    assert_error(shared.call_at(f"/1.0/tenants/{stranger.slug}/event", "POST", {"key": "1"}), 403)
    assert rows("SELECT count(*) FROM events WHERE account_id = %s", stranger.account_id) == [(0,)]


@pytest.mark.parametrize(
    ("scopes", "allowed"),
    [
        ((EVENTS_WRITE,), {("POST", "/event")}),
        ((EVENTS_READ,), {("GET", "/event/history")}),
        ((ACCOUNT_MANAGE,), {("POST", "/key-attribute")}),
    ],
)
def test_a_key_may_do_only_what_its_scopes_allow(
    context: AppContext, shared: Tenant, scopes: tuple[str, ...], allowed: set[tuple[str, str]]
) -> None:
    key = Tenant(shared.sender, api_keys.create_key(context, shared.account_id, "", scopes))
    open_to_all = {("GET", ""), ("GET", "/"), ("GET", "/key-attribute")}
    succeeded = {(method, path) for method, path in ROUTES if call(key, method, path).status_code == 200}
    assert succeeded == open_to_all | allowed
    (refused, *_) = set(ROUTES) - succeeded
    assert "scope" in assert_error(call(key, *refused), 403)


def test_a_disabled_account_refuses_events_but_can_be_read(context: AppContext, tenant: Tenant) -> None:
    tenant.post({"key": "1"})
    accounts.switch_account(context, tenant.account_id, on=False)
    assert "disabled" in assert_error(tenant.post({"key": "1"}), 403)
    assert len(tenant.history()) == 1


def test_a_revoked_key_is_refused_immediately(context: AppContext, tenant: Tenant) -> None:
    assert tenant.post({"key": "1"}).status_code == 200
    api_keys.revoke_key(context, tenant.token[3:11])
    assert_error(tenant.post({"key": "1"}), 401)
    assert_error(tenant.call("/event/history"), 401)


# Other errors


def test_unknown_urls_and_methods_get_errors_of_the_same_format(shared: Tenant) -> None:
    assert_error(shared.call("/nothing"), 404)
    assert_error(shared.call_at("/1.0/nothing"), 404)
    assert_error(shared.call_at("/1.0"), 404)
    assert_error(shared.call("/event/"), 404)
    answer = shared.call("/event", "PUT", {})
    assert_error(answer, 405)
    assert answer.headers["Allow"] == "POST"
    assert_error(shared.call_at("/token"), 405)


def test_the_request_id_of_the_sender_is_returned(shared: Tenant) -> None:
    assert shared.post({"key": "1"}, X_Request_Id="mine-1").headers["X-Request-Id"] == "mine-1"
    assert shared.post({}, X_Request_Id="mine-2").headers["X-Request-Id"] == "mine-2"


def test_a_workflow_that_was_just_enabled_misses_no_event(context: AppContext, tenant: Tenant) -> None:
    assert tenant.post({"key": "1", "type": "bar"}).json["contributing?"] is False
    workflows.apply_workflow(context, tenant.account_id, a_workflow(on="bar"))
    assert tenant.post({"key": "1", "type": "bar"}).json["contributing?"] is True
