"""`signalbox source replay`: stored deliveries are mapped again, and no event is stored twice."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from app.core.ids import now
from app.db.deliveries import DeliveryFilter
from app.services import deliveries
from app.services.context import AppContext
from tests.cli.conftest import CommandLine
from tests.support.builders import Sender
from tests.support.shop import BROKEN, SHOP, Shop, an_order

WITHOUT_DEDUPE = SHOP.replace("  dedupe: item.id\n", "")


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
