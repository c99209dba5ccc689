"""The pictures of the README: pages of a demo account. `make screenshots` makes them again."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from playwright.sync_api import Browser

from app.core.models import OWNER
from app.db.accounts import AccountDetails
from app.services import accounts, workflows
from app.services.context import AppContext
from tests.support.browser import Walk, a_chromium, a_console_server
from tests.support.builders import Sender, a_sender, a_workflow, an_event
from tests.support.console import a_user
from tests.support.run_execution import execute_run
from tests.support.server import ROOT, Server

IMAGES, MAX_BYTES = ROOT / "docs" / "images", 80 * 1024
PAGES = {
    "person": "subject?subject=customer-1040",
    "editor": "workflows/edit?name=abandoned-cart",
    "failures": "failures",
}
CART = """name: abandoned-cart
on:
  seq: [cart_updated, {none: order_placed, for: 1h}]
steps:
  - whatsapp:
      to: "{{ phone }}"
      template: cart_reminder
      language: en
      params: ["{{ data.product }}"]
  - wait: 1d
  - sms: {to: "{{ phone }}", text: "{{ data.product }} is still in your cart."}
exit_on: order_placed
"""
# Names of hosts that are never resolved (RFC 2606): the calls fail at once, whatever the network.
COURIER = {"http": {"url": "https://api.courier.example/v1/orders/{{ data.order }}"}, "retry": {"attempts": 1}}
CRM = {"http": {"url": "https://crm.example/contacts"}, "retry": {"attempts": 1}}


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with a_chromium("--disable-lcd-text") as browser:
        yield browser


@pytest.fixture(scope="module")
def server(context: AppContext) -> Iterator[Server]:
    with a_console_server(context) as running:
        yield running


@pytest.fixture(scope="module")
def demo(context: AppContext, client: FlaskClient) -> Sender:
    """A shop in which something has happened; nobody in it exists. Made before the browser, whose event loop
    lets no other run in its thread."""
    sender = a_sender(context, client, "demo-shop")
    accounts.update_account_details(context, sender.account_id, AccountDetails(name="Demo shop"))
    for document in (
        CART,
        a_workflow(name="delivery-delay", on="shipment_delayed", steps=[COURIER]),
        a_workflow(name="lead-score", on={"event": "product_view", "where": "data.price > 900"}, steps=[CRM]),
        a_workflow(name="win-back", on="order_placed", steps=[{"wait": "60d"}, {"log": "win back"}]),
    ):
        workflows.apply_workflow(context, sender.account_id, document)
    for number in range(24):
        name, price = (
            ("product_view", "cart_updated", "order_placed", "shipment_delayed")[number % 4],
            300 + 61 * number,
        )
        _happen(context, sender, name, f"customer-{1040 + number % 7}", {"price": price, "order": 7000 + number})
    return sender


def _happen(context: AppContext, sender: Sender, name: str, subject: str, data: dict[str, Any]) -> None:
    sent = sender.post(an_event(event=name, distinct_id=subject, phone=..., data={"product": "Blue shirt", **data}))
    for run in sent.get_json()["runs"]:
        execute_run(context, sender.account_id, run)


def test_the_pictures_of_the_readme_can_be_made_again(
    context: AppContext, demo: Sender, chromium: Browser, server: Server, tmp_path: Path
) -> None:
    folder = Path(os.environ.get("SIGNALBOX_PICTURES", tmp_path))
    walk = Walk(chromium, server, width=1000)
    walk.page.set_viewport_size({"width": 1000, "height": 440})
    walk.sign_in(a_user(context, demo, OWNER))
    for name, path in PAGES.items():
        walk.page.goto(f"{walk.url}/{demo.slug}/{path}")
        if name == "editor":
            walk.page.fill("#source", CART.replace(", for: 1h", ""))
            walk.page.wait_for_selector("#mistakes >> text=Line 3")
        walk.check()
        # The address of the one who has signed in is made of random numbers.
        walk.page.locator("header a[href$=profile]").evaluate("(link) => { link.textContent = 'asha@shop.example'; }")
        made = folder / f"{name}.png"
        walk.page.screenshot(path=made, animations="disabled")
        assert made.stat().st_size < MAX_BYTES
    walk.close()


def test_the_readme_shows_them() -> None:
    shown = re.findall(r"!\[[^\]]+\]\(docs/images/([^)]+)\)", (ROOT / "README.md").read_text())
    assert sorted(shown) == sorted(f"{name}.png" for name in PAGES)
    assert sorted(path.name for path in IMAGES.iterdir()) == sorted(shown)
    for name in shown:
        assert (IMAGES / name).read_bytes().startswith(b"\x89PNG")
        assert (IMAGES / name).stat().st_size < MAX_BYTES
