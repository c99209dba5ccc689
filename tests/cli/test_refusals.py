"""`signalbox refusal …`: refused requests are listed, explained and replayed."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from app.core.models import CLIENT_SCOPES, EVENTS_WRITE, PLANS
from app.db.accounts import AccountDetails
from app.db.audit import EntryFilter
from app.services import accounts, api_keys, audit, workflows
from app.services.context import AppContext
from tests.cli.conftest import CommandLine
from tests.support.builders import BATCH_PATH, EVENTS_PATH, Sender, a_workflow, an_event
from tests.support.cxengage_tenants import Tenant, a_tenant

NATIONAL = an_event(phone="567 341 2780")


@pytest.fixture
def refused(app: Flask, signalbox: CommandLine) -> Callable[..., list[dict[str, Any]]]:
    """`refused(account, answers…)`: the refusals of an account after these answers, newest first."""

    def find(account: str, *answers: Any) -> list[dict[str, Any]]:
        for answer in answers:
            # A server closes a response when it is sent; Flask's client does not.
            answer.close()
        assert app.extensions["refusals"].flush()
        return [
            json.loads(line)
            for line in signalbox("refusal", "list", "--account", account, "--json").stdout.splitlines()
        ]

    return find


Refused = Callable[..., list[dict[str, Any]]]


def stored(context: AppContext, account_id: int) -> list[Any]:
    with context.database.transaction() as connection:
        return list(
            connection.exec_driver_sql(
                "SELECT id::text, event, distinct_id, phone, extra, via, idempotency_key FROM events "
                "WHERE account_id = %(id)s ORDER BY id",
                {"id": account_id},
            )
        )


def keep_unusable_phones(context: AppContext, account_id: int) -> None:
    accounts.update_account_details(context, account_id, AccountDetails(unusable_phone="store"))


# List and show


def test_why_a_sender_got_a_422_is_one_command(
    acme: Sender, globex: Sender, refused: Refused, signalbox: CommandLine
) -> None:
    refused(globex.slug, globex.post(NATIONAL))
    (found,) = refused(acme.slug, acme.post(NATIONAL, X_Request_Id="ask-me"), acme.post(an_event()))
    minute = found["refused_at"]
    line = signalbox(
        "refusal", "list", "--account", acme.slug, "--status", "422", "--since", minute, "--until", "2100-01-01"
    )
    cells = line.stdout.rstrip("\n").split("\t")
    assert cells == [
        minute, found["id"], "422", "validation-failed", EVENTS_PATH, f"sb_{acme.token[3:11]}",
        "phone must begin with + and the country code, such as +915673412780",
    ]  # fmt: skip
    assert found["request_id"] == "ask-me"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--status", "400"], ["malformed-body"]),
        (["--type", "validation-failed"], ["validation-failed"]),
        (["--type", "urn:signalbox:validation-failed"], ["validation-failed"]),
        (["--route", BATCH_PATH], ["malformed-body"]),
        (["--request-id", "second"], ["validation-failed"]),
        (["--key", "{key}"], ["malformed-body", "validation-failed"]),
        (["--key", "test"], ["malformed-body", "validation-failed"]),
        (["--key", "aaaaaaaa"], []),
        (["--since", "2100-01-01"], []),
        (["--until", "2020-01-01"], []),
    ],
)
def test_a_list_is_filtered(
    options: list[str], expected: list[str], acme: Sender, refused: Refused, signalbox: CommandLine
) -> None:
    refused(acme.slug, acme.post(NATIONAL, X_Request_Id="second"), acme.post_batch(b"["))
    words = [option.format(key=acme.token) for option in options]
    lines = signalbox("refusal", "list", "--account", acme.slug, "--json", *words).stdout.splitlines()
    assert [json.loads(line)["type"] for line in lines] == expected


def _token_of_a_client(context: AppContext, account_id: int, name: str, scopes: Sequence[str] = CLIENT_SCOPES) -> str:
    client_id, secret = api_keys.create_client(context, account_id, name)
    client = api_keys.authenticate_client(context, client_id, secret)
    token = client and api_keys.issue_token(context, client, secret, scopes)
    assert token
    return token.text


@pytest.mark.parametrize("scopes", [CLIENT_SCOPES, (EVENTS_WRITE,)], ids=["all scopes", "fewer scopes"])
def test_refusals_of_an_oauth_client_are_found_by_its_name_and_shown_with_its_token(
    scopes: Sequence[str], context: AppContext, acme: Sender, refused: Refused, signalbox: CommandLine
) -> None:
    token = _token_of_a_client(context, acme.account_id, "cx", scopes)
    _token_of_a_client(context, acme.account_id, "other", scopes)
    found, _ = refused(acme.slug, acme.post(b"{"), acme.post(NATIONAL, x_limechat_uat=token))
    words = ("refusal", "list", "--account", acme.slug, "--key")
    (line,) = signalbox(*words, "cx").stdout.splitlines()
    assert line.split("\t")[1] == found["id"]
    assert line.split("\t")[5] == token[:16]
    assert token.startswith(f"sbt_{found['key_prefix']}_")
    assert signalbox(*words, token).stdout == signalbox(*words, token[:16]).stdout == f"{line}\n"
    assert signalbox(*words, "other").stdout == ""
    assert f"key {token[:17]}…" in signalbox("refusal", "show", found["id"]).stdout


def test_a_list_says_how_many_were_not_kept(acme: Sender, app: Flask, refused: Refused, signalbox: CommandLine) -> None:
    refused(acme.slug, acme.post(b"{"))
    for _ in range(3):
        app.extensions["refusals"].count_not_kept(acme.account_id)
    (found,) = refused(acme.slug)
    assert found["not_kept"] == 3
    assert "; 3 more were not kept" in signalbox("refusal", "list", "--account", acme.slug).stdout
    assert "3 more refusals of the account, which were not kept" in signalbox("refusal", "show", found["id"]).stdout


def test_a_refusal_is_shown_with_its_reason_and_its_body(
    acme: Sender, refused: Refused, signalbox: CommandLine
) -> None:
    body = b'{"distinct_id": "\\u0041", "amount": 12345678901234567890.10}'
    (found,) = refused(acme.slug, acme.post(body, Idempotency_Key="order-1"))
    shown = signalbox("refusal", "show", found["id"]).stdout
    for expected in (
        f"account    {acme.slug}, key sb_{acme.token[3:11]}_…",
        f"request    POST {EVENTS_PATH}, X-Request-Id {found['request_id']}",
        "response   422 validation-failed",
        "reason     event is missing: the name of the event",
        "event: is missing: the name of the event",
        "key        order-1",
        f"body, {len(body)} bytes (application/json):",
        '  "amount": 12345678901234567890.10',
        f"replay     possible: `signalbox refusal replay {found['id']} --account {acme.slug}`",
    ):
        assert expected in shown
    raw = signalbox("refusal", "show", found["id"], "--raw")
    assert raw.stdout_bytes == body
    assert json.loads(signalbox("refusal", "show", found["id"], "--json").stdout) == found | {"body": body.decode()}
    assert signalbox("refusal", "show", found["id"], "--json", "--raw").exit_code == 2


def test_a_body_that_controls_a_terminal_is_shown_escaped(
    acme: Sender, refused: Refused, signalbox: CommandLine
) -> None:
    (found,) = refused(acme.slug, acme.post(b'{"\x1b[2J"'))
    assert "\\x1b[2J" in signalbox("refusal", "show", found["id"]).stdout
    assert signalbox("refusal", "show", found["id"], "--raw").stdout_bytes == b'{"\x1b[2J"'


def test_a_body_that_is_not_kept_is_said(acme: Sender, refused: Refused, signalbox: CommandLine) -> None:
    (found,) = refused(acme.slug, acme.post(b" " * 600_000))
    assert "body: not kept" in signalbox("refusal", "show", found["id"]).stdout
    assert "replay     not possible: a part of the body is missing" in signalbox("refusal", "show", found["id"]).stdout
    raw = signalbox("refusal", "show", found["id"], "--raw")
    assert (raw.exit_code, raw.stderr) == (1, "Error: the body is not kept\n")


def test_a_refusal_of_another_account_is_not_found(
    acme: Sender, globex: Sender, refused: Refused, signalbox: CommandLine
) -> None:
    (found,) = refused(acme.slug, acme.post(b"{"))
    for words in (["show"], ["replay"]):
        result = signalbox("refusal", *words, found["id"], "--account", globex.slug)
        assert (result.exit_code, result.stderr) == (1, f"Error: the account has no refusal {found['id']}\n")


# Replay


def test_a_replay_stores_the_event_under_the_present_settings(
    context: AppContext, acme: Sender, refused: Refused, signalbox: CommandLine
) -> None:
    workflows.apply_workflow(context, acme.account_id, a_workflow())
    (found,) = refused(acme.slug, acme.post(NATIONAL))
    again = signalbox("refusal", "replay", found["id"])
    assert again.exit_code == 1
    assert "refused again: 422 validation-failed: phone must begin with +" in again.stderr
    keep_unusable_phones(context, acme.account_id)
    done = signalbox("refusal", "replay", found["id"])
    (event,) = stored(context, acme.account_id)
    assert done.exit_code == 0
    assert done.stdout.splitlines() == [
        f"refusal {found['id']}: 1 event stored, event {event.id}",
        "1 of 1 refusal accepted: 1 new event",
    ]
    assert (event.phone, event.extra, event.idempotency_key) == (
        None,
        {"phone": "567 341 2780"},
        f"refusal:{found['id']}",
    )
    (row,) = refused(acme.slug)
    assert (row["replayed_event_id"], row["replayed_at"] > row["refused_at"]) == (event.id, True)
    with context.database.transaction() as connection:
        runs = connection.exec_driver_sql("SELECT count(*) FROM runs WHERE event_id = %(id)s", {"id": event.id})
        assert runs.scalar() == 1
    assert f"as event {event.id}" in signalbox("refusal", "show", found["id"]).stdout


def test_a_second_replay_gives_the_same_event(
    context: AppContext, acme: Sender, refused: Refused, signalbox: CommandLine
) -> None:
    (found,) = refused(acme.slug, acme.post(NATIONAL))
    keep_unusable_phones(context, acme.account_id)
    signalbox("refusal", "replay", found["id"])
    (event,) = stored(context, acme.account_id)
    for _ in range(2):
        again = signalbox("refusal", "replay", found["id"])
        assert again.stdout.splitlines()[0] == f"refusal {found['id']}: was stored before, event {event.id}"
        # As if the replay had been interrupted before it was recorded.
        with context.database.transaction() as connection:
            connection.exec_driver_sql(
                "UPDATE refusals SET replayed_at = NULL, replayed_event_id = NULL WHERE id = %(id)s",
                {"id": found["id"]},
            )
    assert len(stored(context, acme.account_id)) == 1


def test_a_replay_keeps_the_idempotency_key_of_the_request(
    context: AppContext, acme: Sender, refused: Refused, signalbox: CommandLine
) -> None:
    (found,) = refused(acme.slug, acme.post(NATIONAL, Idempotency_Key="order-1"))
    keep_unusable_phones(context, acme.account_id)
    signalbox("refusal", "replay", found["id"])
    (event,) = stored(context, acme.account_id)
    assert event.idempotency_key == "order-1"
    # A web process may not know for two seconds that such phones are kept now.
    retried = refused(acme.slug, acme.post(NATIONAL, Idempotency_Key="order-1"))[0]["id"]
    if retried != found["id"]:
        assert signalbox("refusal", "replay", retried).stdout.startswith(f"refusal {retried}: was stored before, event")
    assert stored(context, acme.account_id) == [event]


def test_a_replay_whose_event_is_stored_already_leaves_an_entry_too(
    context: AppContext, acme: Sender, refused: Refused, signalbox: CommandLine
) -> None:
    second, first = refused(acme.slug, *(acme.post(NATIONAL, Idempotency_Key="order-1") for _ in range(2)))
    keep_unusable_phones(context, acme.account_id)
    for found in (first, second):
        signalbox("refusal", "replay", found["id"])
    (event,) = stored(context, acme.account_id)
    entries = audit.list_entries(context, EntryFilter(acme.account_id, action="refusal.replay"), 10)
    assert [(entry.object_id, entry.after) for entry in entries] == [
        (second["id"], {"stored": 0, "first_event_id": str(event.id)}),
        (first["id"], {"stored": 1, "first_event_id": str(event.id)}),
    ]


def test_a_replay_tells_when_the_sender_has_sent_it_again(
    context: AppContext, acme: Sender, refused: Refused, signalbox: CommandLine
) -> None:
    (found,) = refused(acme.slug, acme.post(NATIONAL, Idempotency_Key="order-1"))
    assert acme.post(an_event(), Idempotency_Key="order-1").status_code == 200
    keep_unusable_phones(context, acme.account_id)
    again = signalbox("refusal", "replay", found["id"])
    assert "refused again: 422 idempotency-key-reused" in again.stderr
    assert len(stored(context, acme.account_id)) == 1


def test_events_of_a_disabled_account_are_replayed_when_it_is_enabled(
    context: AppContext, acme: Sender, refused: Refused, signalbox: CommandLine
) -> None:
    accounts.switch_account(context, acme.account_id, on=False)
    (found,) = refused(acme.slug, acme.post(an_event()))
    assert "403 account-disabled" in signalbox("refusal", "replay", found["id"]).stderr
    accounts.switch_account(context, acme.account_id, on=True)
    assert signalbox("refusal", "replay", found["id"]).exit_code == 0
    assert len(stored(context, acme.account_id)) == 1


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ({"x-fb-account-id": "0"}, "the request named another account than that of its key"),
        ({"Content-Encoding": "br"}, "the body is packed with br, which is not read"),
    ],
)
def test_what_cannot_be_replayed_says_why(
    headers: dict[str, str], reason: str, acme: Sender, refused: Refused, signalbox: CommandLine
) -> None:
    (found,) = refused(acme.slug, acme.post(an_event(), **headers))
    result = signalbox("refusal", "replay", found["id"])
    assert (result.exit_code, result.stderr) == (1, f"refusal {found['id']}: It cannot be replayed: {reason}.\n")
    assert f"not possible: {reason}" in signalbox("refusal", "show", found["id"]).stdout


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (json.dumps(an_event()).encode(), {"Content-Type": "text/plain"}),
        (gzip.compress(json.dumps(an_event()).encode()), {"Content-Type": "text/plain", "Content-Encoding": "gzip"}),
    ],
)
def test_an_event_of_another_media_type_can_be_replayed(
    body: bytes, headers: dict[str, str], context: AppContext, acme: Sender, refused: Refused, signalbox: CommandLine
) -> None:
    (found,) = refused(acme.slug, acme.post(body, **headers))
    assert found["status"] == 415
    assert signalbox("refusal", "replay", found["id"]).exit_code == 0
    assert [event.distinct_id for event in stored(context, acme.account_id)] == ["915673412780"]


def test_a_limited_event_can_be_replayed(
    context: AppContext, acme: Sender, refused: Refused, signalbox: CommandLine
) -> None:
    accounts.change_plan(context, acme.account_id, PLANS["standard"], 1)
    while (answer := acme.post(an_event(event="limited"))).status_code == 200:
        pass
    (found,) = refused(acme.slug, answer)
    assert found["status"] == 429
    before = len(stored(context, acme.account_id))
    assert signalbox("refusal", "replay", found["id"]).exit_code == 0
    assert len(stored(context, acme.account_id)) == before + 1


# Batches


@pytest.mark.parametrize("lines", [False, True])
def test_only_the_refused_items_of_a_batch_are_replayed(
    lines: bool, context: AppContext, acme: Sender, refused: Refused, signalbox: CommandLine
) -> None:
    items: list[Any] = [an_event(event="first"), NATIONAL, an_event(event="third"), {"event": 1}]
    answer = (acme.post_lines if lines else acme.post_batch)(items, Idempotency_Key="night")
    (found,) = refused(acme.slug, answer)
    keep_unusable_phones(context, acme.account_id)
    done = signalbox("refusal", "replay", found["id"])
    assert done.exit_code == 1
    assert f"refusal {found['id']}: event 3 refused again: 422 validation-failed" in done.stderr
    events = stored(context, acme.account_id)
    assert [(event.event, event.idempotency_key) for event in events] == [
        ("first", "night#0"), ("third", "night#2"), ("product_view", "night#1")
    ]  # fmt: skip
    (row,) = refused(acme.slug)
    assert (row["replayed_at"], [one.get("event_id") for one in row["items"]]) == (None, [events[2].id, None])
    again = signalbox("refusal", "replay", found["id"])
    assert "event 3 refused again" in again.stderr
    assert len(stored(context, acme.account_id)) == 3


def test_a_batch_is_replayed_once_each_item_is_accepted(
    context: AppContext, acme: Sender, refused: Refused, signalbox: CommandLine
) -> None:
    (found,) = refused(acme.slug, acme.post_batch([NATIONAL, an_event(), NATIONAL]))
    keep_unusable_phones(context, acme.account_id)
    assert "2 events stored, first event" in signalbox("refusal", "replay", found["id"]).stdout
    (row,) = refused(acme.slug)
    events = stored(context, acme.account_id)
    assert [event.idempotency_key for event in events[1:]] == [f"refusal:{found['id']}#0", f"refusal:{found['id']}#2"]
    assert row["replayed_event_id"] == events[1].id
    assert row["items"][0]["event_id"] == events[1].id


@pytest.mark.parametrize("lines", [False, True])
def test_a_batch_that_was_refused_as_a_whole_is_replayed_as_a_whole(
    lines: bool, context: AppContext, acme: Sender, refused: Refused, signalbox: CommandLine
) -> None:
    accounts.switch_account(context, acme.account_id, on=False)
    items = [an_event(event=name) for name in ("first", "second")]
    (found,) = refused(acme.slug, (acme.post_lines if lines else acme.post_batch)(items))
    assert found["items"] is None
    accounts.switch_account(context, acme.account_id, on=True)
    signalbox("refusal", "replay", found["id"])
    events = stored(context, acme.account_id)
    assert [event.event for event in events] == ["first", "second"]
    assert refused(acme.slug)[0]["replayed_event_id"] == events[0].id


# CxEngage


@pytest.fixture
def tenant(context: AppContext, client: FlaskClient) -> Tenant:
    return a_tenant(context, client)


def test_an_event_of_cxengage_is_replayed_under_its_present_key_attribute(
    context: AppContext, tenant: Tenant, refused: Refused, signalbox: CommandLine
) -> None:
    (found,) = refused(tenant.slug, tenant.post({"type": "call", "customer": "7"}))
    assert signalbox("refusal", "replay", found["id"]).exit_code == 1
    accounts.update_account_details(context, tenant.account_id, AccountDetails(key_attribute="customer"))
    assert signalbox("refusal", "replay", found["id"]).exit_code == 0
    assert [(one.event, one.distinct_id, one.via) for one in stored(context, tenant.account_id)] == [
        ("call", "7", "receiver")
    ]


def test_a_post_to_a_listener_is_replayed_through_its_present_mapping(
    context: AppContext, tenant: Tenant, refused: Refused, signalbox: CommandLine
) -> None:
    listener = {"name": "Shop", "type": "shopify", "mapping": {"wrong": "customer.id"}}
    made = tenant.call("/listeners", "POST", listener).get_json()
    body = b'{"customer": {"id": 7}, "topic": "order"}'
    answer = tenant.sender.client.post(made["receive"], data=body, headers={"Content-Type": "application/json"})
    (found,) = refused(tenant.slug, answer)
    assert (found["status"], found["type"]) == (400, "validation-failed")
    tenant.call("/listeners/LI1", "PUT", {"mapping": {"key": "customer.id", "type": "topic"}})
    assert signalbox("refusal", "replay", found["id"]).exit_code == 0
    assert [(one.event, one.distinct_id, one.via) for one in stored(context, tenant.account_id)] == [
        ("order", "7", "listener:LI1")
    ]
    assert tenant.call("/listeners/LI1/status").get_json()["received"] == 1


# Many


def test_many_refusals_are_counted_and_replayed_oldest_first(
    context: AppContext, acme: Sender, refused: Refused, signalbox: CommandLine
) -> None:
    bad = [acme.post(an_event(event=name, phone="1")) for name in ("first", "second")]
    refused(acme.slug, *bad, acme.post(b"{"))
    keep_unusable_phones(context, acme.account_id)
    chosen = ("refusal", "replay", "--account", acme.slug, "--type", "validation-failed", "--since", "1h")
    prompt = signalbox(*chosen, typed="n\n")
    assert prompt.exit_code == 1
    assert f"2 refusals: validation-failed on {EVENTS_PATH}" in prompt.stderr
    assert "Replay 2 refusals?" in prompt.stderr
    assert signalbox(*chosen, "--dry-run").stdout == "would replay 2 refusals\n"
    assert stored(context, acme.account_id) == []
    assert "2 of 2 refusals accepted: 2 new events" in signalbox(*chosen, "--yes").stdout
    assert [one.event for one in stored(context, acme.account_id)] == ["first", "second"]
    assert signalbox(*chosen, "--yes").stdout == "no refusal that can be replayed is left\n"


@pytest.mark.parametrize("words", [[], ["{id}", "--since", "1h"]])
def test_a_replay_takes_either_ids_or_options(
    words: list[str], acme: Sender, refused: Refused, signalbox: CommandLine
) -> None:
    (found,) = refused(acme.slug, acme.post(b"{"))
    result = signalbox("refusal", "replay", *(word.format(**found) for word in words), "--account", acme.slug)
    assert result.exit_code == 2
    assert "expected either IDs, or options that choose refusals" in result.stderr
