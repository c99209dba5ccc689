"""Deliveries of sources: what is stored, and what is answered."""

from __future__ import annotations

import gzip
import hmac
import json
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any
from urllib.parse import quote, urlencode

import pytest

from app.api.sender import MAX_SNAPSHOT_AGE
from app.core.api_keys import make_source_token
from app.core.ids import now
from app.core.models import PLANS
from app.db import sources
from app.db.api_keys import expire_keys_of_scope
from app.services import accounts, workflows
from app.services.context import AppContext
from app.services.secrets import set_secret
from tests.api.conftest import Rows
from tests.support.builders import Sender, a_workflow
from tests.support.server import Server
from tests.support.sources import SECRET, ASource, a_body, a_source, a_token, an_order, apply_version


@pytest.fixture
def shop(context: AppContext, server: Server, acme: Sender) -> ASource:
    """A source of acme."""
    return a_source(context, server, acme.account_id)


DELIVERY = (
    "SELECT method, headers, body, verified, result, events, duplicates, problems, source_version, request_id "
    "FROM deliveries WHERE account_id = %s AND id = %s"
)


def test_a_delivery_is_stored_with_its_event(shop: ASource, rows: Rows) -> None:
    body = json.dumps({"orders": [an_order(1)]}, indent=2).encode()
    answer = shop.post(body, X_Request_Id="mine")
    assert answer.status_code == 200
    assert answer.json["result"] == "accepted"
    assert answer.json["duplicates"] == 0
    ((method, headers, stored, *others),) = rows(DELIVERY, shop.account_id, answer.json["delivery"])
    assert (method, bytes(stored)) == ("POST", body)  # type: ignore[call-overload]
    assert headers["content-type"] == "application/json"  # type: ignore[index]
    assert others == [True, "accepted", answer.json["events"], 0, None, 1, "mine"]
    (event,) = rows(
        "SELECT event, distinct_id, data, via, idempotency_key FROM events WHERE account_id = %s AND id = %s",
        shop.account_id,
        *answer.json["events"],
    )
    assert event == ("order", "buyer 1", an_order(1), "source:shop", f"{shop.id}:order-1")


def test_several_events_of_a_delivery_are_stored_with_it(shop: ASource, rows: Rows) -> None:
    answer = shop.post([an_order(number) for number in range(50)])
    assert answer.status_code == 200
    assert len(set(answer.json["events"])) == 50
    found = rows("SELECT id::text, via FROM events WHERE account_id = %s ORDER BY id", shop.account_id)
    assert found == [(event, "source:shop") for event in answer.json["events"]]
    (delivery,) = rows(DELIVERY, shop.account_id, answer.json["delivery"])
    assert delivery[4:7] == ("accepted", answer.json["events"], 0)


@pytest.mark.parametrize("many", [False, True])
def test_a_delivery_that_comes_again_is_kept_and_makes_no_event(shop: ASource, rows: Rows, many: bool) -> None:
    body = [an_order(1), an_order(2)] if many else an_order(1)
    first, *others = (shop.post(body).json for _ in range(3))
    assert first["result"] == "accepted"
    for other in others:
        assert (other["result"], other["events"]) == ("duplicate", first["events"])
        assert other["duplicates"] == len(first["events"])
    assert rows("SELECT count(*) FROM events WHERE account_id = %s", shop.account_id) == [(len(first["events"]),)]
    results = rows("SELECT result, events FROM deliveries WHERE account_id = %s ORDER BY id", shop.account_id)
    assert results == [(result, first["events"]) for result in ("accepted", "duplicate", "duplicate")]


def test_another_body_with_the_same_dedupe_id_is_a_duplicate(shop: ASource) -> None:
    first, second = shop.post(an_order(1)).json, shop.post(an_order(1, price=13)).json
    assert (second["result"], second["events"]) == ("duplicate", first["events"])


def test_events_of_one_delivery_with_one_dedupe_id_and_other_data_are_all_stored(shop: ASource) -> None:
    body = [an_order(1, line=line) for line in (1, 2, 2)]
    first, second = shop.post(body).json, shop.post(body).json
    assert (len(set(first["events"])), first["duplicates"]) == (2, 1)
    assert (second["result"], second["events"]) == ("duplicate", first["events"])


def test_a_delivery_that_cannot_be_mapped_is_kept_and_answered_with_200(shop: ASource, rows: Rows) -> None:
    answer = shop.post({"id": "1"})
    assert answer.status_code == 200
    assert (answer.json["result"], answer.json["events"]) == ("unmapped", [])
    assert answer.json["problems"][0]["path"] == "map.distinct_id"
    (delivery,) = rows(DELIVERY, shop.account_id, answer.json["delivery"])
    assert delivery[3:6] == (True, "unmapped", [])
    assert delivery[7] == answer.json["problems"]


def test_the_events_that_can_be_mapped_are_stored(shop: ASource) -> None:
    answer = shop.post([an_order(1), {"id": "2"}, an_order(3)]).json
    assert (answer["result"], len(answer["events"])) == ("partly", 2)
    assert [problem["item"] for problem in answer["problems"]] == [1]


def test_a_wrong_signature_is_a_401_and_one_of_many_is_kept(shop: ASource, rows: Rows, context: AppContext) -> None:
    for number in range(20):
        answer = shop.post(an_order(number), secret="another")
        assert answer.status_code == 401
        assert answer.json["type"] == "urn:signalbox:unverified-delivery"
    assert rows("SELECT count(*) FROM events WHERE account_id = %s", shop.account_id) == [(0,)]
    while not (
        found := rows("SELECT verified, result, problems FROM deliveries WHERE account_id = %s", shop.account_id)
    ):
        pass
    assert 1 <= len(found) <= 2
    verified, result, problems = found[0]
    assert (verified, result) == (False, "unverified")
    assert problems[0]["path"] == "verify"  # type: ignore[index]


def test_unverified_deliveries_are_stored_where_the_source_says_so(
    context: AppContext, server: Server, acme: Sender, rows: Rows
) -> None:
    source = a_source(context, server, acme.account_id, unverified="store")
    answer = source.post(an_order(1), secret="another")
    assert (answer.status_code, answer.json["result"]) == (200, "accepted")
    (delivery,) = rows(DELIVERY, acme.account_id, answer.json["delivery"])
    assert delivery[3:5] == (False, "accepted")


def test_an_unknown_token_is_a_404(server: Server, acme: Sender, shop: ASource) -> None:
    for token in (make_source_token()[0], shop.token[:-1], acme.token, "x", "%00"):
        for method in ("POST", "GET", "OPTIONS"):
            assert server.open(f"/hooks/{token}", method=method).status_code == 404
    assert server.open("/hooks/").status_code == 404


def test_the_token_of_a_source_is_valid_on_no_other_route(acme: Sender, shop: ASource) -> None:
    assert acme.post({}, x_limechat_uat=shop.token).status_code == 403


def test_all_tokens_of_a_source_are_valid_until_they_expire(context: AppContext, shop: ASource) -> None:
    other = replace(shop, token=a_token(context, shop.account_id, shop.id))
    assert {one.post(an_order(1)).status_code for one in (shop, other)} == {200}
    with context.database.transaction() as connection:
        expire_keys_of_scope(connection, shop.account_id, f"source:{shop.id}", now())
    last = replace(shop, token=a_token(context, shop.account_id, shop.id))
    assert last.post(an_order(2)).status_code == 200
    assert {one.post(an_order(1)).status_code for one in (shop, other)} == {404}


def test_what_is_posted_to_a_disabled_source_is_kept(context: AppContext, shop: ASource) -> None:
    _enable(context, shop, enabled=False)
    answer = shop.post(an_order(1))
    assert (answer.status_code, answer.json["result"]) == (200, "unmapped")
    assert answer.json["problems"] == [{"item": None, "path": "enabled", "message": "the source is disabled"}]
    assert shop.post(an_order(1), secret="another").status_code == 401
    _enable(context, shop, enabled=True)
    assert shop.post(an_order(1)).json["result"] == "accepted"


def _enable(context: AppContext, source: ASource, *, enabled: bool) -> None:
    with context.database.transaction() as connection:
        sources.set_enabled(connection, source.account_id, source.id, enabled, now())


def test_a_source_without_its_secret_asks_senders_to_post_again(
    context: AppContext, server: Server, acme: Sender
) -> None:
    source = a_source(context, server, acme.account_id, secrets=["{{ secrets.SHOP }}"])
    answer = source.post(an_order(1))
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "60")
    assert "SHOP" in answer.json["detail"]


def test_a_secret_that_is_set_later_takes_effect_within_seconds(
    context: AppContext, server: Server, acme: Sender
) -> None:
    source = a_source(context, server, acme.account_id, secrets=["{{ secrets.SHOP }}"])
    assert source.post(an_order(1)).status_code == 503
    for secret in ("another secret", SECRET):
        set_secret(context, acme.account_id, "SHOP", secret)
        deadline = time.monotonic() + 10
        while source.post(an_order(1), secret=secret).status_code != 200:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert source.post(an_order(2), secret="a third one").status_code == 401


def test_a_handshake_needs_the_present_secret(context: AppContext, server: Server, acme: Sender) -> None:
    parts = {
        "provider": "whatsapp",
        "verify_token": "{{ secrets.WA_VERIFY }}",
        "verify": ...,
        "events": ...,
        "map": ...,
    }
    source = a_source(context, server, acme.account_id, **parts)

    def status(token: str) -> int:
        query = {"hub.mode": "subscribe", "hub.verify_token": token, "hub.challenge": "1158201444"}
        answer = server.open(f"/hooks/{source.token}?{urlencode(query)}", method="GET")
        assert answer.status_code == 403 or answer.text == "1158201444"
        return int(answer.status_code)

    set_secret(context, acme.account_id, "WA_VERIFY", "the first one")
    assert status("the first one") == 200
    set_secret(context, acme.account_id, "WA_VERIFY", "the second one")
    time.sleep(MAX_SNAPSHOT_AGE + 0.2)
    # The first request with it, as a provider makes one only.
    assert status("the second one") == 200
    set_secret(context, acme.account_id, "WA_VERIFY", "the third one")
    time.sleep(MAX_SNAPSHOT_AGE + 0.2)
    assert status("the second one") == 403


def test_a_change_of_the_mapping_counts_from_the_next_delivery_on(context: AppContext, shop: ASource) -> None:
    assert shop.post(an_order(1)).json["result"] == "accepted"
    apply_version(context, shop.account_id, shop.id, 2, map={"event": "'other'", "distinct_id": "item.who"})
    answer = shop.post(an_order(2)).json
    assert answer["result"] == "accepted"
    with context.database.transaction() as connection:
        found = connection.exec_driver_sql(
            "SELECT event, source_version FROM events JOIN deliveries ON deliveries.account_id = events.account_id "
            "WHERE events.id = %s AND deliveries.id = %s",
            (*answer["events"], answer["delivery"]),
        ).one()
    assert tuple(found) == ("other", 2)


def test_a_secret_that_was_taken_away_verifies_no_further_delivery(context: AppContext, shop: ASource) -> None:
    assert shop.post(an_order(1)).status_code == 200
    apply_version(context, shop.account_id, shop.id, 2, secrets=["the next one"])
    assert shop.post(an_order(2)).status_code == 401
    assert shop.post(an_order(2), secret="the next one").json["result"] == "accepted"


BODIES: dict[str, tuple[bytes, dict[str, str]]] = {
    "gzip": (gzip.compress(a_body(an_order(1))), {"Content_Encoding": "gzip"}),
    "text": (a_body(an_order(1)), {"Content_Type": "text/plain"}),
    "another media type": (a_body(an_order(1)), {"Content_Type": "application/octet-stream"}),
    "byte order mark": (b"\xef\xbb\xbf" + a_body(an_order(1)), {}),
    "form": (
        urlencode({"payload": a_body(an_order(1))}).encode(),
        {"Content_Type": "application/x-www-form-urlencoded"},
    ),
    "3 MB": (a_body(an_order(1, text="x" * 3_000_000)), {}),
}


@pytest.mark.parametrize("kind", BODIES)
def test_a_body_is_taken_in_many_forms_and_kept_as_it_came(shop: ASource, rows: Rows, kind: str) -> None:
    body, headers = BODIES[kind]
    answer = shop.post(body, **headers)
    assert (answer.status_code, answer.json["result"]) == (200, "accepted"), answer.text
    (found,) = rows(
        "SELECT body, content_encoding FROM deliveries WHERE account_id = %s AND id = %s",
        shop.account_id,
        answer.json["delivery"],
    )
    assert (bytes(found[0]), found[1]) == (body, headers.get("Content_Encoding"))  # type: ignore[call-overload]


def test_refusals_say_what_would_be_right_and_never_the_token(shop: ASource, rows: Rows, context: AppContext) -> None:
    assert shop.post(b"x" * (6 * 1024 * 1024)).status_code == 413
    while not (found := rows("SELECT status, route, replayable FROM refusals WHERE account_id = %s", shop.account_id)):
        pass
    assert found == [(413, "/hooks/***", False)]


def test_secrets_are_masked_in_what_is_kept(context: AppContext, server: Server, acme: Sender, rows: Rows) -> None:
    source = a_source(context, server, acme.account_id)
    answer = source.post(
        an_order(1),
        query="?access_token=hidden-1&page=2",
        Authorization="Bearer hidden-2",
        Cookie="hidden-3",
        X_Api_Key="hidden-4",
        X_Odd="before a secret of the shop after",
        X_Topic="orders/create",
        X_Event_Key="repo:push",
        X_Original_Uri=f"/hooks/{source.token}?page=2",
    ).json
    ((headers, query),) = rows(
        "SELECT headers, query FROM deliveries WHERE account_id = %s AND id = %s", acme.account_id, answer["delivery"]
    )
    assert query == "access_token=***&page=2"
    names = ("authorization", "cookie", "x-api-key", "x-odd", "x-topic", "x-event-key", "x-original-uri")
    assert {name: headers[name] for name in names} == {  # type: ignore[index]
        "authorization": "***",
        "cookie": "***",
        "x-api-key": "***",
        "x-odd": "***",
        "x-topic": "orders/create",
        "x-event-key": "repo:push",
        "x-original-uri": "***",
    }
    assert len(headers["x-signature"]) == 64  # type: ignore[index]


def test_a_mapping_of_all_headers_and_parameters_does_not_see_a_shared_secret(
    context: AppContext, server: Server, acme: Sender, rows: Rows
) -> None:
    source = a_source(
        context,
        server,
        acme.account_id,
        verify={"shared": [{"header": "X-Token"}, {"query": "key"}]},
        map={"event": "'order'", "distinct_id": "item.who", "data": {"headers": "headers", "query": "query"}},
    )
    for query, headers in (("?page=2", {"X_Token": SECRET}), (f"?page=2&key={quote(SECRET)}", {})):
        assert source.post(an_order(1), query=query, **headers).json["result"] == "accepted"
    found = rows("SELECT data::text, data -> 'query' FROM events WHERE account_id = %s", acme.account_id)
    assert [(SECRET in str(text), query) for text, query in found] == [(False, {"page": "2"})] * 2


def test_a_wrong_secret_is_masked_too_even_if_the_mapping_reads_it(
    context: AppContext, server: Server, acme: Sender, rows: Rows
) -> None:
    """It may be that of another shop, or the next one."""
    source = a_source(
        context,
        server,
        acme.account_id,
        verify={"shared": [{"header": "X-Shop"}, {"query": "shop"}]},
        map={"event": "'order'", "distinct_id": "headers['x-shop'] + query.shop"},
        unverified="store",
    )
    source.post(an_order(1), query="?shop=another&page=2", X_Shop="another")
    ((shop, query),) = rows("SELECT headers ->> 'x-shop', query FROM deliveries WHERE account_id = %s", acme.account_id)
    assert (shop, query) == ("***", "shop=***&page=2")


def test_a_secret_in_the_url_is_masked_however_it_is_encoded(
    context: AppContext, server: Server, acme: Sender, rows: Rows
) -> None:
    source = a_source(context, server, acme.account_id, verify={"shared": {"query": "key"}})
    encoded = "".join(f"%{ord(one):02x}" for one in SECRET)
    answer = source.post(an_order(1), query=f"?%6bey={encoded}&a=1&b={encoded}")
    assert answer.status_code == 200
    assert rows("SELECT query FROM deliveries WHERE id = %s", answer.json["delivery"]) == [("%6bey=***&a=1&b=***",)]


def test_a_test_of_the_url_succeeds(server: Server, shop: ASource) -> None:
    for method, status in (("GET", 200), ("HEAD", 200), ("OPTIONS", 200)):
        answer = server.open(f"/hooks/{shop.token}", method=method)
        assert answer.status_code == status
        assert answer.headers["Allow"] == "POST, GET, HEAD, OPTIONS"
    for method in ("PUT", "DELETE", "PATCH"):
        assert server.open(f"/hooks/{shop.token}", method=method).status_code == 405


def test_a_disabled_account_takes_no_deliveries(context: AppContext, shop: ASource) -> None:
    accounts.switch_account(context, shop.account_id, on=False)
    assert shop.post(an_order(1)).status_code == 403


def test_each_event_of_a_delivery_counts_against_the_plan(
    context: AppContext, server: Server, acme: Sender, shop: ASource
) -> None:
    accounts.change_plan(context, acme.account_id, PLANS["standard"], 10)
    answer = shop.post([an_order(number) for number in range(8)])
    assert (answer.status_code, answer.headers["RateLimit-Remaining"]) == (200, "2")
    answer = shop.post([an_order(number) for number in range(8, 12)])
    assert (answer.status_code, answer.headers["Retry-After"]) == (429, "1")
    assert shop.post(an_order(1), secret="another").status_code == 401


def test_a_delivery_is_counted_by_its_result(server: Server, shop: ASource) -> None:
    def count(result: str) -> float:
        return server.metric(f'signalbox_deliveries_total{{result="{result}"}}')

    before = {result: count(result) for result in ("accepted", "duplicate", "unmapped", "unverified")}
    for body in (an_order(1), an_order(1), {"id": "1"}):
        shop.post(body)
    shop.post(an_order(1), secret="another")
    assert {result: count(result) - before[result] for result in before} == dict.fromkeys(before, 1)


def test_a_text_that_is_used_once_makes_what_comes_with_it_again_a_duplicate(
    context: AppContext, server: Server, acme: Sender, rows: Rows
) -> None:
    verify = {"hmac": "sha256", "header": "x-signature", "signed": "{token}", "token": {"header": "x-token"}}
    source = a_source(context, server, acme.account_id, verify=verify)

    def post(body: object, token: str) -> Any:
        signature = hmac.digest(SECRET.encode(), token.encode(), "sha256").hex()
        return source.post(body, X_Token=token, X_Signature=signature).json

    first = post(an_order(1), "token 1")
    assert (first["result"], len(first["events"])) == ("accepted", 1)
    for body in (an_order(1), an_order(2), [an_order(3), an_order(4)]):
        again = post(body, "token 1")
        assert (again["result"], again["events"]) == ("duplicate", first["events"])
    assert post(an_order(1), "token 2")["result"] == "duplicate"
    assert post(an_order(2), "token 3")["result"] == "accepted"
    assert rows("SELECT count(*) FROM events WHERE account_id = %s", acme.account_id) == [(2,)]
    assert rows("SELECT count(*) FROM deliveries WHERE account_id = %s", acme.account_id) == [(6,)]


def test_a_text_that_is_used_once_is_remembered_of_a_delivery_without_events(
    context: AppContext, server: Server, acme: Sender
) -> None:
    verify = {"hmac": "sha256", "header": "x-signature", "signed": "{token}", "token": {"header": "x-token"}}
    source = a_source(context, server, acme.account_id, verify=verify)
    headers = {"X_Token": "1", "X_Signature": hmac.digest(SECRET.encode(), b"1", "sha256").hex()}
    found = [source.post(body, **headers).json for body in ({"id": "1"}, an_order(1))]
    assert [(one["result"], one["events"]) for one in found] == [("unmapped", []), ("duplicate", [])]


def test_an_event_that_advances_a_pattern_is_stored_with_its_delivery(
    context: AppContext, server: Server, acme: Sender, rows: Rows
) -> None:
    workflows.apply_workflow(context, acme.account_id, a_workflow(on={"seq": ["order", "order"]}))
    source = a_source(context, server, acme.account_id)
    first, second = (source.post(an_order(number, who="ann")).json for number in (1, 2))
    again = source.post(an_order(2, who="ann")).json
    assert [one["result"] for one in (first, second, again)] == ["accepted", "accepted", "duplicate"]
    assert again["events"] == second["events"]
    found = rows("SELECT result, events FROM deliveries WHERE account_id = %s ORDER BY id", acme.account_id)
    assert found == [(one["result"], one["events"]) for one in (first, second, again)]
    assert rows("SELECT event_id::text FROM runs WHERE account_id = %s", acme.account_id) == [(second["events"][0],)]


def test_a_value_that_postgres_cannot_store_loses_no_delivery(shop: ASource, rows: Rows) -> None:
    body = b'{"orders": [{"id": "1", "who": "ann", "text": "\\u0000"}]}'
    answer = shop.post(body)
    assert (answer.status_code, answer.json["result"]) == (200, "unmapped"), answer.text
    assert rows("SELECT body FROM deliveries WHERE account_id = %s", shop.account_id)[0][0].tobytes() == body  # type: ignore[attr-defined]


def test_deliveries_at_the_same_time_are_each_stored_once(shop: ASource, rows: Rows) -> None:
    bodies = [an_order(number % 10) for number in range(60)]
    with ThreadPoolExecutor(12) as threads:
        answers = [answer.json for answer in threads.map(shop.post, bodies)]
    assert {answer["result"] for answer in answers} == {"accepted", "duplicate"}
    by_order: dict[int, set[str]] = {}
    for number, answer in enumerate(answers):
        by_order.setdefault(number % 10, set()).update(answer["events"])
    assert all(len(events) == 1 for events in by_order.values())
    assert rows("SELECT count(*) FROM events WHERE account_id = %s", shop.account_id) == [(10,)]
    results = rows(
        "SELECT result, count(*) FROM deliveries WHERE account_id = %s GROUP BY 1 ORDER BY 1", shop.account_id
    )
    assert results == [("accepted", 10), ("duplicate", 50)]
