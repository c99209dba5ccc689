"""The pages of deliveries: listed by result, explained, tried beside another document, and mapped again."""

from __future__ import annotations

import html
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from app.db.deliveries import DeliveryFilter
from app.ingest.sources import delivery_replay
from app.services import deliveries, secrets, sources
from app.services.audit import EntryFilter, list_entries
from app.services.context import AppContext
from tests.support.builders import Sender
from tests.support.console import Browser

SHOP = "name: shop\nverify: none\nmap: {event: body.kind, distinct_id: body.who}\n"
BROKEN = SHOP.replace("body.kind", "body.type")
HOSTILE = "<script>alert(1)</script>"


class Shop:
    """The source `shop` of an account, whose document maps nothing yet."""

    def __init__(self, context: AppContext, client: FlaskClient, account: Sender) -> None:
        self.context, self.client, self.account = context, client, account
        self.token = sources.apply_source(context, account.account_id, BROKEN).token
        self.path = f"/{account.slug}/source/shop"

    def post(self, **fields: Any) -> str:
        """The id of a delivery."""
        answer = self.client.post(f"/hooks/{self.token}", json={"kind": "order", "who": "asha", **fields})
        return str(answer.get_json()["delivery"])

    def mend(self) -> None:
        sources.apply_source(self.context, self.account.account_id, SHOP)

    def results(self) -> list[str]:
        found = deliveries.find_first_deliveries(self.context, self.account.account_id, DeliveryFilter(), 1_000)
        return [one.result for one in found]


@pytest.fixture
def shop(context: AppContext, client: FlaskClient, acme: Sender) -> Shop:
    return Shop(context, client, acme)


def test_deliveries_are_counted_and_listed_by_result(viewer: Browser, acme: Sender, shop: Shop) -> None:
    assert "Nothing was posted" in viewer.get(f"/{acme.slug}/deliveries").text
    unmapped = [shop.post() for _ in range(2)]
    shop.mend()
    mapped = shop.post()
    assert "Some deliveries to sources</a> were not mapped" in viewer.get(f"/{acme.slug}/").text
    listed = viewer.get(f"/{acme.slug}/sources").text
    assert f'/{acme.slug}/deliveries?source=shop">3</a>' in listed
    assert f'/{acme.slug}/deliveries?source=shop&amp;result=waiting">2</a>' in listed
    page = viewer.get(f"/{acme.slug}/deliveries?source=shop&result=waiting").text
    assert all(one in page for one in unmapped)
    assert mapped not in page
    assert mapped in viewer.get(f"/{acme.slug}/deliveries?result=accepted").text
    assert "No delivery passes these filters." in viewer.get(f"/{acme.slug}/deliveries?until=2020-01-01T00:00").text
    assert "No delivery passes these filters." in viewer.get(f"/{acme.slug}/deliveries?request_id=other").text
    assert viewer.get(f"/{acme.slug}/deliveries?source=other").status_code == 404


def test_a_refused_delivery_is_counted_as_not_verified(
    app: Flask, context: AppContext, client: FlaskClient, viewer: Browser, acme: Sender
) -> None:
    text = SHOP.replace("verify: none", "verify: {shared: {header: x-token}}\nsecrets: ['{{ secrets.A }}']")
    secrets.set_secret(context, acme.account_id, "A", "a long secret")
    token = sources.apply_source(context, acme.account_id, text).token
    assert client.post(f"/hooks/{token}", json={}).status_code == 401
    app.extensions["unverified"].flush()
    assert 'result=unverified">1</a>' in viewer.get(f"/{acme.slug}/sources").text
    assert "the header x-token is missing" in viewer.get(f"/{acme.slug}/source/shop").text


def test_a_delivery_is_explained_and_its_body_downloaded_as_it_arrived(
    client: FlaskClient, viewer: Browser, acme: Sender, shop: Shop
) -> None:
    body = f'{{"who":  "{HOSTILE} नमस्ते 🛒", "total": 10.50}}'.encode()
    fields = {"Authorization": "Bearer top-secret-token", "Content-Type": "application/json"}
    answer = client.post(f"/hooks/{shop.token}?a=1", data=body, headers=fields).get_json()
    path = f"/{acme.slug}/deliveries/{answer['delivery']}"
    page = viewer.get(path).text
    assert "<code>map.event</code>" in page
    assert "authorization: ***" in page
    assert "top-secret-token" not in page
    assert "10.50" in page
    assert HOSTILE not in page
    assert "नमस्ते 🛒" in page
    assert "Map it again" not in page
    assert "Try a document" not in page
    original = viewer.get(f"{path}/body")
    assert original.data == body
    assert original.headers["Content-Disposition"].startswith("attachment;")


def test_a_document_is_tried_beside_a_kept_delivery_and_nothing_is_stored(
    editor: Browser, acme: Sender, shop: Shop
) -> None:
    path = f"/{acme.slug}/deliveries/{shop.post()}"
    assert html.escape(BROKEN) in editor.get(path).text
    same = editor.post(f"{path}/try", path, document=BROKEN).text
    assert "Not mapped:" in same
    assert "line 3, column" in same
    tried = editor.post(f"{path}/try", path, document=SHOP.replace("\n", "\r\n")).text
    assert "Event 1 of 1" in tried
    assert "Nothing was stored." in tried
    refused = editor.post(f"{path}/try", path, document=SHOP + "colour: red\n")
    assert refused.status_code == 422
    assert "Line 4, column 1" in refused.text
    assert shop.results() == ["unmapped"]
    assert sources.find_source(shop.context, acme.account_id, "shop").source == BROKEN


def test_one_delivery_is_mapped_again(editor: Browser, acme: Sender, shop: Shop) -> None:
    delivery = shop.post()
    path = f"/{acme.slug}/deliveries/{delivery}"
    assert editor.post(f"{path}/replay", path).status_code == 302
    page = editor.get(path).text
    assert "0 of 1 mapped: 0 new events." in page
    assert f"Delivery {delivery}: unmapped: map.event: " in page
    shop.mend()
    editor.post(f"{path}/replay", path)
    page = editor.get(path).text
    assert "1 of 1 mapped: 1 new event." in page
    assert f"/{acme.slug}/events/" in page
    editor.post(f"{path}/replay", path)
    assert "It is not mapped again: it is accepted." in editor.get(path).text


def test_the_unmapped_deliveries_of_a_source_are_counted_then_mapped_again(
    context: AppContext, editor: Browser, acme: Sender, shop: Shop
) -> None:
    for _ in range(3):
        shop.post()
    plan = editor.get(f"{shop.path}/replay").text
    assert "or only in part: 3." in plan
    assert "3 unmapped: map.event: " in plan
    shop.mend()
    assert "Map unmapped deliveries again" in editor.get(shop.path).text
    assert editor.post(f"{shop.path}/replay", shop.path).status_code == 302
    assert "3 of 3 mapped: 3 new events." in editor.get(shop.path).text
    assert set(shop.results()) == {"accepted"}
    assert "are mapped." in editor.get(f"{shop.path}/replay").text
    editor.post(f"{shop.path}/replay", shop.path)
    assert "All deliveries are mapped." in editor.get(shop.path).text
    entry = list_entries(context, EntryFilter(account_id=acme.account_id, action="source.replay"), 2)
    assert [(one.actor, one.via) for one in entry] == [(editor.email, "console")]


def test_a_disabled_source_maps_nothing_again(context: AppContext, editor: Browser, acme: Sender, shop: Shop) -> None:
    shop.post()
    shop.mend()
    sources.set_enabled(context, acme.account_id, "shop", enabled=False)
    assert "The source is disabled." in editor.get(f"{shop.path}/replay").text
    refused = editor.post(f"{shop.path}/replay", shop.path)
    assert (refused.status_code, "enable it first" in refused.text) == (409, True)
    assert shop.results() == ["unmapped"]


def test_more_than_one_click_maps_are_left_for_the_next(
    editor: Browser, acme: Sender, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery_replay, "MAX_REPLAYED", 2)
    for _ in range(3):
        shop.post()
    shop.mend()
    assert "The oldest 2 of them:" in editor.get(f"{shop.path}/replay").text
    editor.post(f"{shop.path}/replay", shop.path)
    assert shop.results() == ["accepted", "accepted", "unmapped"]


def test_the_next_click_goes_on_behind_those_that_cannot_be_mapped(
    editor: Browser, acme: Sender, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery_replay, "MAX_REPLAYED", 2)
    for _ in range(3):
        shop.post()
    path = editor.post(f"{shop.path}/replay", shop.path).headers["Location"].removeprefix("/console")
    page = editor.get(path).text
    assert "0 of 2 mapped" in page
    assert "The earlier ones have just been tried. These remain." in page
    assert "or only in part: 1." in page
    shop.mend()
    assert editor.post(path, path).headers["Location"] == f"/console{shop.path}"
    assert shop.results() == ["unmapped", "unmapped", "accepted"]


def test_a_deep_body_is_shown_as_it_is(client: FlaskClient, viewer: Browser, acme: Sender, shop: Shop) -> None:
    body = b"[" * 50_000
    answer = client.post(f"/hooks/{shop.token}", data=body, content_type="application/json").get_json()
    page = viewer.get(f"/{acme.slug}/deliveries/{answer['delivery']}")
    assert page.status_code == 200
    assert len(page.text) < 100_000


def test_a_delivery_of_another_account_does_not_exist(
    context: AppContext, client: FlaskClient, editor: Browser, acme: Sender, globex: Sender
) -> None:
    delivery = Shop(context, client, globex).post()
    path = f"/{acme.slug}/deliveries/{delivery}"
    for part in ("", "/body"):
        assert editor.get(path + part).status_code == 404
    for part in ("/try", "/replay"):
        assert editor.post(path + part, "/profile", document=SHOP).status_code == 404
    assert delivery not in editor.get(f"/{acme.slug}/deliveries").text


def test_a_page_of_deliveries_leads_to_older_ones(viewer: Browser, acme: Sender, shop: Shop) -> None:
    sent = [shop.post(n=number) for number in range(51)]
    page = html.unescape(viewer.get(f"/{acme.slug}/deliveries?source=shop").text)
    assert sent[0] not in page
    older = page.partition('">Older</a>')[0].rpartition('href="/console')[2]
    assert sent[0] in viewer.get(older).text


def test_a_trial_with_many_large_events_is_a_small_page(
    context: AppContext, client: FlaskClient, editor: Browser, acme: Sender, shop: Shop
) -> None:
    text = BROKEN.replace("map:", 'events: [{each: "body.orders[]"}]\nmap:').replace("body.t", "item.t")
    orders = [{"type": "order", "who": "asha", "text": "x" * 20_000} for _ in range(30)]
    delivery = client.post(f"/hooks/{shop.token}", json={"orders": orders}).get_json()["delivery"]
    path = f"/{acme.slug}/deliveries/{delivery}"
    page = editor.post(f"{path}/try", path, document=text.replace("body.who", "item.who"))
    assert page.status_code == 200
    assert "The first 10 of 30 events." in page.text
    assert len(page.data) < 100_000
