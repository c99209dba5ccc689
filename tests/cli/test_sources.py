"""Commands for sources and deliveries."""

from __future__ import annotations

import hmac
import json
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
from flask import Flask
from flask.testing import FlaskClient

from app.core.ids import now
from app.db.deliveries import DeliveryFilter
from app.ingest.sources.unverified import UnverifiedKeeper
from app.services import deliveries, secrets, sources
from app.services.context import AppContext
from tests.cli.conftest import CommandLine
from tests.support.builders import Sender
from tests.support.sources import SECRET

SHOP = """\
name: shop
verify: none
events: [{each: "body.orders[]"}]
map:
  event: item.kind
  distinct_id: item.who
  phone: item.phone
  data: item
  occurred_at: item.at
  dedupe: item.id
"""
SIGNED = """\
name: signed
secrets: ["{{ secrets.SHOP }}"]
verify: {hmac: sha256, header: X-Signature}
map: {event: body.kind, distinct_id: body.who}
"""
BROKEN = SHOP.replace("item.kind", "item.type")
WITHOUT_DEDUPE = SHOP.replace("  dedupe: item.id\n", "")


class Shop:
    """An account with the source `shop`."""

    def __init__(self, context: AppContext, client: FlaskClient, account: Sender, text: str = SHOP) -> None:
        self.context, self.client, self.account = context, client, account
        self.token = sources.apply_source(context, account.account_id, text).token

    def post(self, *orders: dict[str, Any], client: FlaskClient | None = None) -> Any:
        answer = (client or self.client).post(f"/hooks/{self.token}", json={"orders": orders})
        assert answer.status_code == 200, answer.text
        return answer.get_json()

    def apply(self, text: str) -> None:
        sources.apply_source(self.context, self.account.account_id, text)

    def events(self) -> list[tuple[Any, ...]]:
        """What is stored of each event, except for ids and the time of acceptance."""
        query = (
            "SELECT event, distinct_id, phone, data::text, extra::text, occurred_at, via, warnings::text FROM events "
            "WHERE account_id = %(a)s ORDER BY data::text"
        )
        with self.context.database.transaction() as connection:
            return [tuple(row) for row in connection.exec_driver_sql(query, {"a": self.account.account_id})]

    def results(self) -> list[str]:
        found = deliveries.find_first_deliveries(self.context, self.account.account_id, DeliveryFilter(), 1_000)
        return [one.result for one in found]


def an_order(number: int, **changes: Any) -> dict[str, Any]:
    return {"id": number, "kind": "order", "who": f"c-{number % 7}", "at": 1795927500 + number, "phone": "1"} | changes


@pytest.fixture
def shop(context: AppContext, client: FlaskClient, acme: Sender) -> Shop:
    return Shop(context, client, acme)


def test_a_mapping_that_breaks_in_mid_stream_loses_nothing(
    app: Flask, context: AppContext, client: FlaskClient, acme: Sender, globex: Sender, signalbox: CommandLine
) -> None:
    broken, unbroken = Shop(context, client, acme), Shop(context, client, globex)
    # Every tenth delivery comes twice. A second broken version takes two of three orders.
    bodies = [[an_order(3 * number + part) for part in range(3)] for number in range(120)]
    stream = [body for number, body in enumerate(bodies) for _ in range(2 if number % 10 == 0 else 1)]

    def post(to: Shop, part: list[list[dict[str, Any]]]) -> None:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda body: to.post(*body, client=app.test_client()), part))

    post(unbroken, stream)
    post(broken, stream[:40])
    broken.apply(BROKEN)
    post(broken, stream[40:80])
    broken.apply(SHOP.replace("item.who", "'item.id % 3 == 2 ? null : item.who'"))
    post(broken, stream[80:])
    assert {"accepted", "duplicate", "unmapped", "partly"} == set(broken.results())
    assert broken.events() != unbroken.events()
    broken.apply(SHOP)
    replayed = signalbox("source", "replay", "shop", "--account", acme.slug, "--yes")
    assert replayed.exit_code == 0, replayed.output
    assert len(unbroken.events()) == 360
    assert broken.events() == unbroken.events()
    assert {"accepted", "duplicate"} == set(broken.results())
    again = signalbox("source", "replay", "shop", "--account", acme.slug, "--yes")
    assert again.stdout == "shop: all deliveries are mapped\n"


MAPPED_NAMES = """\
name: shop
verify: none
map:
  event: headers['x-event-key']
  distinct_id: body.who
  data: {session: "{{ headers['x-session-id'] }}", code: query.code}
  dedupe: "headers['x-message-key'] + '!'"
"""


def test_headers_and_parameters_that_are_mapped_can_be_mapped_again_whatever_their_names(
    shop: Shop, signalbox: CommandLine
) -> None:
    shop.apply(MAPPED_NAMES.replace("body.who", "body.whom"))
    for number in range(2):
        headers = {"X-Event-Key": "push", "X-Session-Id": "s1", "X-Message-Key": f"m{number}", "X-Api-Key": "hidden"}
        shop.client.post(f"/hooks/{shop.token}?code=c{number}&token=hidden", json={"who": "w"}, headers=headers)
    shop.apply(MAPPED_NAMES)
    replayed = signalbox("source", "replay", "shop", "--account", shop.account.slug, "--yes")
    assert replayed.stdout == "2 of 2 mapped: 2 new events\n"
    assert [(event[0], event[3]) for event in shop.events()] == [
        ("push", '{"code": "c0", "session": "s1"}'),
        ("push", '{"code": "c1", "session": "s1"}'),
    ]
    kept = deliveries.find_first_deliveries(shop.context, shop.account.account_id, DeliveryFilter(), 1)[0]
    assert (kept.headers["x-api-key"], kept.query) == ("***", "code=c0&token=***")


@pytest.mark.parametrize("masked", ["headers['x-api-key']", "query.token"])
def test_what_is_masked_is_missing_when_a_delivery_is_mapped_again(
    shop: Shop, signalbox: CommandLine, masked: str
) -> None:
    shop.apply(MAPPED_NAMES.replace("headers['x-event-key']", "body.kind"))
    shop.client.post(f"/hooks/{shop.token}?code=c0&token=hidden", json={"who": "w"}, headers={"X-Api-Key": "hidden"})
    shop.apply(MAPPED_NAMES.replace("headers['x-event-key']", masked))
    replayed = signalbox("source", "replay", "shop", "--account", shop.account.slug, "--yes")
    assert f"unmapped: map.event: the name of the event is missing: nothing at {masked}" in replayed.stderr
    assert (replayed.exit_code, shop.events()) == (1, [])


def test_what_a_wrong_condition_has_left_out_is_mapped_again(shop: Shop, signalbox: CommandLine) -> None:
    right = SHOP.replace('orders[]"}', 'orders[]", where: "item.kind == \'order\'"}')
    shop.post(an_order(1))
    shop.apply(right.replace("item.kind ==", "item.type =="))
    assert shop.post(an_order(2))["result"] == "accepted"
    assert shop.post(an_order(3, kind="test"))["result"] == "accepted"
    shop.apply(right)
    call = ("source", "replay", "shop", "--account", shop.account.slug, "--without-events")
    assert signalbox(*call, "--dry-run").stdout == "would map 2 deliveries again\n"
    assert signalbox(*call, "--yes").stdout == "2 of 2 mapped: 1 new event\n"
    assert signalbox(*call, "--yes").stdout == "1 of 1 mapped: 0 new events\n"
    assert len(shop.events()) == 2


def test_a_replay_stores_no_event_twice_without_dedupe_ids(shop: Shop, signalbox: CommandLine) -> None:
    shop.apply(WITHOUT_DEDUPE)
    equal = an_order(1)
    answer = shop.post(equal, equal, an_order(2, kind=None))
    assert (answer["result"], len(answer["events"])) == ("partly", 2)
    call = ("source", "replay", "shop", "--account", shop.account.slug, "--delivery", answer["delivery"])
    failed = signalbox(*call)
    assert failed.exit_code == 1
    assert "0 of 1 mapped: 0 new events, 2 stored before" in failed.stdout
    assert "partly: item 2: " in failed.stderr
    assert len(shop.events()) == 2
    shop.apply(WITHOUT_DEDUPE.replace("item.kind", "[item.kind, \"'order'\"]"))
    assert "1 of 1 mapped: 1 new event, 2 stored before" in signalbox(*call).stdout
    assert len(shop.events()) == 3


def test_a_replay_stores_no_event_twice_after_other_data_were_mapped(shop: Shop, signalbox: CommandLine) -> None:
    shop.apply(WITHOUT_DEDUPE)
    shop.post(an_order(1), an_order(2, kind=None), an_order(3))
    before = shop.events()
    changed = WITHOUT_DEDUPE.replace("item.kind", "[item.kind, \"'order'\"]")
    shop.apply(changed.replace("data: item", "data: {number: item.id}"))
    replayed = signalbox("source", "replay", "shop", "--account", shop.account.slug, "--yes")
    assert "1 of 1 mapped: 1 new event, 2 stored before" in replayed.stdout
    assert [data for *_, data, _, _, _, _ in shop.events() if data == '{"number": 2}'] == ['{"number": 2}']
    assert [event for event in shop.events() if event in before] == before


def test_a_replay_takes_no_event_for_another_one_with_the_same_dedupe_id(shop: Shop, signalbox: CommandLine) -> None:
    answer = shop.post(an_order(1, kind=None), an_order(1, who="c-8"))
    assert (answer["result"], len(answer["events"])) == ("partly", 1)
    shop.apply(SHOP.replace("item.kind", "[item.kind, \"'mended'\"]"))
    replayed = signalbox("source", "replay", "shop", "--account", shop.account.slug, "--yes")
    assert "1 of 1 mapped: 1 new event, 1 stored before" in replayed.stdout
    assert {(event[0], event[1]) for event in shop.events()} == {("mended", "c-1"), ("order", "c-8")}
    again = shop.post(an_order(1, kind=None), an_order(1, who="c-8"))
    assert (again["result"], again["duplicates"]) == ("duplicate", 2)


def test_a_delivery_keeps_the_events_that_a_replay_does_not_make(shop: Shop, signalbox: CommandLine) -> None:
    answer = shop.post(an_order(1), an_order(2, kind=None))
    shop.apply(BROKEN.replace("body.orders[]", "body.none[]"))
    signalbox("source", "replay", "shop", "--account", shop.account.slug, "--yes")
    account_id = shop.account.account_id
    (delivery,) = deliveries.find_first_deliveries(shop.context, account_id, DeliveryFilter(), 2)
    assert (delivery.result, delivery.events, delivery.duplicates) == ("unmapped", answer["events"], 1)
    shop.apply(SHOP.replace("item.kind", "\"'order'\""))
    signalbox("source", "replay", "shop", "--account", shop.account.slug, "--yes")
    (delivery,) = deliveries.find_first_deliveries(shop.context, account_id, DeliveryFilter(), 2)
    assert (delivery.result, len(delivery.events), delivery.duplicates) == ("accepted", 2, 1)


def test_a_replayed_event_is_received_now_and_happened_when_the_mapping_says(
    shop: Shop, context: AppContext, signalbox: CommandLine
) -> None:
    shop.apply(BROKEN)
    answer = shop.post(an_order(1))
    shop.apply(SHOP)
    before = now()
    signalbox("source", "replay", "shop", "--account", shop.account.slug, "--yes")
    delivery = deliveries.find_delivery(context, shop.account.account_id, answer["delivery"])
    assert (delivery.result, delivery.source_version, len(delivery.events)) == ("accepted", 3, 1)
    assert delivery.replayed_at is not None
    shown = json.loads(signalbox("event", "show", delivery.events[0], "--json").stdout)
    assert shown["received_at"] >= before.isoformat()[:19]
    assert shown["occurred_at"].startswith("2026-11-29T")
    lines = signalbox("delivery", "show", answer["delivery"]).stdout
    assert "replayed   " in lines
    assert f"event      {delivery.events[0]}" in lines


def test_the_plan_counts_the_deliveries_and_asks(shop: Shop, signalbox: CommandLine) -> None:
    shop.apply(BROKEN)
    for number in range(3):
        shop.post(an_order(number))
    call = ("source", "replay", "shop", "--account", shop.account.slug)
    planned = signalbox(*call, "--dry-run")
    assert planned.stdout == "would map 3 deliveries again\n"
    assert planned.stderr.startswith("3 unmapped: map.event: ")
    assert signalbox(*call, typed="n").exit_code == 1
    assert shop.results() == ["unmapped"] * 3
    assert "shop: all deliveries are mapped" in signalbox(*call, "--until", "1h").stdout


def test_what_cannot_be_replayed_says_why(shop: Shop, signalbox: CommandLine) -> None:
    mapped = shop.post(an_order(1))["delivery"]
    call = ("source", "replay", "shop", "--account", shop.account.slug)
    assert "It is not mapped again: it is accepted." in signalbox(*call, "--delivery", mapped).stderr
    shop.apply(SHOP.replace("name: shop", "name: other"))
    other = signalbox("source", "replay", "other", "--account", shop.account.slug, "--delivery", mapped)
    assert f"{mapped} is a delivery to the source shop" in other.stderr
    assert "expected either" in signalbox(*call, "--delivery", mapped, "--since", "1h").stderr
    signalbox("source", "disable", "shop", "--account", shop.account.slug)
    assert "shop is disabled" in signalbox(*call).stderr


def test_a_delivery_whose_dedupe_ids_have_expired_is_not_mapped_again(
    shop: Shop, signalbox: CommandLine, context: AppContext
) -> None:
    unmapped = shop.post(an_order(1, kind=None))["delivery"]
    partly = shop.post(an_order(2), an_order(3, kind=None))["delivery"]
    with context.database.transaction() as connection:
        connection.exec_driver_sql(
            "UPDATE deliveries SET received_at = received_at - interval '31 days' WHERE account_id = %(id)s",
            {"id": shop.account.account_id},
        )
    shop.apply(SHOP.replace("item.kind", "\"'mended'\""))
    replayed = signalbox("source", "replay", "shop", "--account", shop.account.slug, "--yes")
    assert "1 of 2 mapped: 1 new event" in replayed.stdout
    reason = "events of it were stored more than 30 days ago, and would be stored again"
    assert (partly in replayed.stderr, unmapped in replayed.stderr, reason in replayed.stderr) == (True, False, True)


def test_deliveries_to_a_disabled_source_are_kept_and_mapped_when_it_is_enabled(
    shop: Shop, signalbox: CommandLine
) -> None:
    account = ("--account", shop.account.slug)
    signalbox("source", "disable", "shop", *account)
    assert shop.post(an_order(1))["result"] == "unmapped"
    signalbox("source", "enable", "shop", *account)
    assert "1 of 1 mapped: 1 new event" in signalbox("source", "replay", "shop", "--yes", *account).stdout


def test_apply_prints_the_url_of_a_new_source_once(acme: Sender, signalbox: CommandLine, tmp_path: Path) -> None:
    file = tmp_path / "shop.yaml"
    file.write_text(SHOP)
    call = ("source", "apply", file, "--account", acme.slug)
    created = signalbox(*call)
    assert "shop: created as version 1, enabled\nurl=http://127.0.0.1:8000/hooks/" in created.stdout
    assert "--base-url" in created.stderr
    assert signalbox(*call).stdout == "shop: unchanged at version 1, enabled\n"
    again = signalbox(*call, "--base-url", "https://events.example.com")
    assert again.stdout == "shop: unchanged at version 1, enabled\n"
    assert "source rotate shop" in again.stderr
    file.write_text(BROKEN)
    assert signalbox(*call).stdout == "shop: changed to version 2 (map.event), enabled\n"
    assert signalbox("source", "show", "shop", "--account", acme.slug).stdout == BROKEN
    assert signalbox("source", "show", "shop", "--version", "1", "--account", acme.slug).stdout == SHOP


def test_an_account_has_a_bounded_number_of_sources(
    acme: Sender, signalbox: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "MAX_SOURCES", 1)
    file = tmp_path / "shop.yaml"
    file.write_text(SHOP)
    call = ("source", "apply", file, "--account", acme.slug)
    signalbox(*call)
    file.write_text(SHOP.replace("name: shop", "name: second"))
    refused = signalbox(*call)
    assert refused.exit_code == 1
    assert "the account has 1 sources, as many as it may have" in refused.stderr
    file.write_text(BROKEN)
    assert "changed to version 2" in signalbox(*call).stdout


def test_apply_prints_mistakes_with_places_and_saves_nothing(
    acme: Sender, signalbox: CommandLine, tmp_path: Path
) -> None:
    file = tmp_path / "shop.yaml"
    file.write_text(SHOP.replace("  event: item.kind", "  event: item.kind +"))
    failed = signalbox("source", "apply", file, "--account", acme.slug)
    assert failed.exit_code == 1
    assert failed.stderr.startswith(f"{file}:5:10: map.event: ")
    assert signalbox("source", "check", file).stdout == failed.stderr
    assert signalbox("source", "list", "--account", acme.slug).stdout == ""


def test_a_missing_secret_is_named_with_the_command_that_sets_it(
    acme: Sender, signalbox: CommandLine, tmp_path: Path
) -> None:
    file = tmp_path / "signed.yaml"
    file.write_text(SIGNED)
    failed = signalbox("source", "apply", file, "--account", acme.slug)
    assert failed.exit_code == 1
    assert f"{file}:2:11: secrets[0]: the account has no secret SHOP\n" in failed.stderr
    signalbox("secret", "set", "SHOP", "--account", acme.slug, typed=SECRET)
    assert signalbox("source", "apply", file, "--account", acme.slug).exit_code == 0


@pytest.mark.parametrize(("overlap", "status"), [((), 200), (("--overlap", "7d"), 200), (("--overlap", "0"), 404)])
def test_the_old_url_works_for_the_overlap(
    overlap: tuple[str, ...], status: int, shop: Shop, signalbox: CommandLine
) -> None:
    rotated = signalbox("source", "rotate", "shop", "--account", shop.account.slug, *overlap)
    new = urlsplit(rotated.stdout.partition("url=")[2].strip()).path
    assert shop.client.post(new, json={"orders": []}).status_code == 200
    assert shop.client.post(f"/hooks/{shop.token}", json={"orders": []}).status_code == status


def test_the_overlap_ends(context: AppContext, shop: Shop) -> None:
    rotated = sources.rotate_token(context, shop.account.account_id, "shop", timedelta(days=7))
    assert rotated.old_until is not None
    assert timedelta(days=6) < rotated.old_until - now() <= timedelta(days=7)
    # A further rotation does not prolong it.
    sources.rotate_token(context, shop.account.account_id, "shop", timedelta(days=30))
    query = "SELECT expires_at FROM keys WHERE account_id = %(a)s AND name = 'source shop' ORDER BY created_at"
    with context.database.transaction() as connection:
        found = [row[0] for row in connection.exec_driver_sql(query, {"a": shop.account.account_id})]
    assert found[0] == rotated.old_until
    assert found[1] > rotated.old_until
    assert found[2] is None


def test_a_deleted_source_has_no_url_and_its_deliveries_stay(shop: Shop, signalbox: CommandLine) -> None:
    shop.apply(BROKEN)
    delivery = shop.post(an_order(1))["delivery"]
    assert signalbox("source", "delete", "shop", "--account", shop.account.slug, typed="n").exit_code == 1
    signalbox("source", "delete", "shop", "--account", shop.account.slug, "--yes")
    assert shop.client.post(f"/hooks/{shop.token}", json={}).status_code == 404
    shown = signalbox("delivery", "show", delivery)
    assert "source     (deleted), version 2" in shown.stdout
    assert "map again" not in shown.stdout


def test_the_original_of_a_delivery_is_written_byte_for_byte(shop: Shop, signalbox: CommandLine) -> None:
    body = b'\xef\xbb\xbf{"orders": [ ],\t"n": 1.50}\r\n'
    answer = shop.client.post(f"/hooks/{shop.token}", data=body, headers={"X-Note": "a\x1b[31m"})
    delivery = answer.get_json()["delivery"]
    assert signalbox("delivery", "show", delivery, "--original").stdout_bytes == body
    shown = signalbox("delivery", "show", delivery).stdout
    assert "\x1b" not in shown
    assert '"n": 1.50' in shown
    assert "expected either" in signalbox("delivery", "show", delivery, "--original", "--json").stderr
    assert f"delivery {uuid4()}"[:9] in signalbox("delivery", "show", uuid4()).stderr


def test_an_empty_list_of_deliveries_says_so(shop: Shop, signalbox: CommandLine) -> None:
    call = ("delivery", "list", "--account", shop.account.slug)
    assert signalbox(*call).stderr == "nothing was posted to a source yet\n"
    shop.post(an_order(1))
    assert signalbox(*call).stderr == ""
    assert signalbox(*call, "--result", "unmapped").stderr == "no delivery passes these filters\n"


def test_deliveries_are_listed_by_source_and_result(shop: Shop, signalbox: CommandLine) -> None:
    shop.post(an_order(1))
    shop.post(an_order(1))
    shop.post(an_order(2, kind=None))
    call = ("delivery", "list", "--account", shop.account.slug)
    assert [line.split("\t")[3] for line in signalbox(*call).stdout.splitlines()] == [
        "unmapped",
        "duplicate",
        "accepted",
    ]
    (line,) = signalbox(*call, "--result", "unmapped", "--source", "shop").stdout.splitlines()
    assert line.split("\t")[4].startswith("item 0: map.event: ")
    assert "there is no source 'other'" in signalbox(*call, "--source", "other").stderr


def test_a_printed_command_works_when_it_is_pasted(shop: Shop, signalbox: CommandLine) -> None:
    shop.apply(BROKEN)
    delivery = shop.post(an_order(1))["delivery"]
    lines = signalbox("delivery", "show", delivery, "--account", shop.account.slug).stdout
    shop.apply(SHOP)
    for name in ("try", "map again"):
        (line,) = [line for line in lines.splitlines() if line.startswith(name)]
        words = line.partition("`signalbox ")[2].rstrip("`").split()
        assert signalbox(*words).exit_code == 0, line


def test_a_use_of_a_secret_is_listed(context: AppContext, acme: Sender, signalbox: CommandLine) -> None:
    secrets.set_secret(context, acme.account_id, "SHOP", SECRET)
    sources.apply_source(context, acme.account_id, SIGNED)
    assert "source signed" in signalbox("secret", "list", "--account", acme.slug).stdout


def test_a_kept_delivery_is_verified_again_as_of_its_arrival(
    context: AppContext, client: FlaskClient, acme: Sender, signalbox: CommandLine
) -> None:
    secrets.set_secret(context, acme.account_id, "SHOP", "another secret")
    token = sources.apply_source(context, acme.account_id, SIGNED).token
    body = b'{"kind": "order", "who": "asha"}'
    signature = hmac.digest(SECRET.encode(), body, "sha256").hex()
    answer = client.post(f"/hooks/{token}", data=body, headers={"X-Signature": signature})
    assert answer.status_code == 401
    unverified: UnverifiedKeeper = client.application.extensions["unverified"]
    unverified.flush()
    (kept,) = deliveries.find_first_deliveries(context, acme.account_id, DeliveryFilter(), 10)
    call = ("source", "try", "signed", "--delivery", kept.id, "--account", acme.slug)
    refused = signalbox(*call)
    assert (refused.exit_code, "verified: no, the signature does not match" in refused.stdout) == (1, True)
    secrets.set_secret(context, acme.account_id, "SHOP", SECRET)
    assert signalbox(*call).stdout.startswith("verified: yes, by secrets[0]\nevent 1 of 1\n  event: order\n")


def test_a_kept_delivery_with_a_shared_secret_cannot_be_verified_again(
    context: AppContext, client: FlaskClient, acme: Sender, signalbox: CommandLine
) -> None:
    secrets.set_secret(context, acme.account_id, "SHOP", SECRET)
    shared = SIGNED.replace("{hmac: sha256, header: X-Signature}", "{shared: {header: X-Token}}")
    token = sources.apply_source(context, acme.account_id, shared).token
    answer = client.post(f"/hooks/{token}", json={"kind": "order", "who": "asha"}, headers={"X-Token": SECRET})
    call = ("source", "try", "signed", "--delivery", answer.get_json()["delivery"], "--account", acme.slug)
    tried = signalbox(*call)
    assert tried.stdout.startswith("verified: the secret that was sent is not kept; it was verified when it arrived\n")
    assert tried.exit_code == 0
