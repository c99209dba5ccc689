"""The console in Debian's Chromium: a key is made and used, and axe-core reads each page in both colour schemes, wide and on a
phone."""

from __future__ import annotations

import hmac
import http.client
import json
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser

from app.core.models import EDITOR, OWNER
from app.services import sources, workflows
from app.services.context import AppContext
from tests.support.browser import Scheme, Walk
from tests.support.builders import EVENTS_PATH, Sender, a_sender, a_workflow, an_event
from tests.support.console import a_user
from tests.support.server import Server

HOSTILE = "<b onmouseover=alert(1)>שלום 🛒 नमस्ते"


@pytest.fixture(scope="module")
def shop(context: AppContext, console_server: Server) -> Sender:
    """An account with hostile texts in everything that is shown."""
    sender = a_sender(context, console_server, "shop")
    workflows.apply_workflow(context, sender.account_id, a_workflow(name="hello", on=HOSTILE, steps=[{"wait": "1h"}]))
    on = {"seq": [{"event": "cart", "where": f"data.name != '{HOSTILE}'"}, {"none": "order", "for": "1h"}]}
    steps = [{"if": "data.rich", "then": [{"log": HOSTILE}]}, {"par": [[{"wait": "1h"}], [{"log": HOSTILE * 5}]]}]
    draft = a_workflow(name="hello", description=HOSTILE, on=on, steps=steps)
    workflows.save_draft(context, sender.account_id, draft)
    sender.post(an_event(event=HOSTILE, distinct_id=HOSTILE, data={HOSTILE: [HOSTILE] * 30}))
    sender.post(an_event(event=HOSTILE, phone="1"))
    _add_source(context, sender)
    return sender


def _add_source(context: AppContext, sender: Sender) -> None:
    """The source `shop` with a mapped and an unmapped delivery of hostile texts."""
    text = "name: shop\nverify: none\nmap: {event: body.kind, distinct_id: body.who}\n"
    token = sources.apply_source(context, sender.account_id, text).token
    sources.apply_source(context, sender.account_id, f"{text}description: {json.dumps(HOSTILE * 9)}\n")
    for body in ({"kind": HOSTILE, "who": HOSTILE}, {HOSTILE: HOSTILE * 50}):
        fields = {"Content-Type": "application/json"}
        sender.client.post(f"/hooks/{token}", data=json.dumps(body).encode(), headers=fields)


def test_a_key_is_made_and_its_event_appears_without_reloading(
    context: AppContext, chromium: Browser, console_server: Server, shop: Sender
) -> None:
    walk = Walk(chromium, console_server)
    page = walk.page
    walk.sign_in(a_user(context, shop, OWNER))
    walk.follow("text=API keys")
    page.fill("#name", "checkout")
    walk.follow("#submit")
    token = page.locator("pre code").first.inner_text()
    walk.check()
    walk.follow("nav >> text=Events")
    page.wait_for_selector("text=Received")
    connection = http.client.HTTPConnection("127.0.0.1", console_server.port, timeout=30)
    fields = {"Content-Type": "application/json", "x-limechat-uat": token, "x-fb-account-id": str(shop.account_id)}
    connection.request("POST", EVENTS_PATH, json.dumps(an_event(event="from_the_key")), fields)
    assert connection.getresponse().status == 200
    connection.close()
    walk.follow("text=from_the_key")
    assert "No enabled workflow looks at events of this name." in page.inner_text("main")
    walk.check()
    walk.close()


def test_a_workflow_is_checked_while_it_is_written(
    context: AppContext, chromium: Browser, console_server: Server, shop: Sender
) -> None:
    walk = Walk(chromium, console_server)
    page = walk.page
    walk.sign_in(a_user(context, shop, OWNER))
    page.goto(f"{walk.url}/{shop.slug}/workflows/edit")
    text = page.locator("#source")
    text.fill("name: typed\non: order_placed\nsteps:\n" + "  - log: hello\n" * 30 + "  - wait: soon\n")
    page.wait_for_selector("text=Line 34, column 11")
    assert page.locator(".gutter .bad").inner_text().strip() == "34"
    assert page.evaluate(
        "document.querySelector('#source').scrollHeight <= document.querySelector('#source').offsetHeight"
    )
    walk.check()
    page.click("[data-line='34']")
    page.keyboard.press("Shift+End")
    page.keyboard.type("1h")
    page.wait_for_selector("text=No mistakes.")
    walk.follow("text=Try")
    page.fill("#own", '{"event": "order_placed", "distinct_id": "1"}')
    walk.follow("main >> button:text-is('Try')")
    assert "The run is done." in page.inner_text("main")
    walk.check()
    walk.follow("text=Open in the editor")
    assert page.locator(".gutter .bad").count() == 0
    walk.follow("text=Save")
    assert "Version 1 is saved; the workflow is disabled." in page.inner_text("main")
    walk.check()
    walk.close()


@pytest.mark.parametrize("width", [360, 1200], ids=["phone", "wide"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_editor_and_a_trial_can_be_read_by_everybody(
    context: AppContext, chromium: Browser, console_server: Server, shop: Sender, scheme: Scheme, width: int
) -> None:
    walk = Walk(chromium, console_server, scheme, width)
    page = walk.page
    walk.sign_in(a_user(context, shop, OWNER))
    page.goto(f"{walk.url}/{shop.slug}/workflows/templates")
    walk.follow("text=Begin from it")
    walk.check()
    walk.follow("text=Try")
    walk.follow("main >> button:text-is('Try')")
    assert "The run is done." in page.inner_text("main")
    walk.check()
    page.goto(f"{walk.url}/{shop.slug}/workflows/edit?name=hello")
    page.fill("#source", f"name: renamed\non: {{ {HOSTILE} \nstep: {'x' * 200}\n")
    walk.follow("text=Check")
    assert page.locator("[data-line]").count() > 0
    walk.check()
    walk.close()


def test_a_source_is_created_and_a_delivery_that_it_cannot_map_is_mended_and_mapped(
    context: AppContext, chromium: Browser, console_server: Server, shop: Sender
) -> None:
    walk, secret = Walk(chromium, console_server), "a secret of the payments"
    page = walk.page
    walk.sign_in(a_user(context, shop, EDITOR))
    walk.follow("nav >> text=Sources")
    walk.follow("text=New source")
    page.select_option("#provider", "razorpay")
    page.fill("#name", "payments")
    walk.follow("text=Prepare the document")
    text = page.input_value("#document")
    page.fill("#document", f"{text}map: {{event: body.colour, distinct_id: [body.}}\n")
    page.wait_for_selector("#mistakes >> text=Line 4")
    page.fill("#document", f"{text}map: {{event: body.colour}}\n")
    page.wait_for_selector("#mistakes >> text=No mistakes.")
    page.fill("#secret-PAYMENTS", secret)
    walk.follow("text=Create the source")
    path = urlsplit(page.locator("pre code").first.inner_text()).path
    walk.check()
    body = json.dumps({"event": "payment.captured", "account_id": "acc_1"}).encode()
    signature = hmac.digest(secret.encode(), body, "sha256").hex()
    fields = {"Content-Type": "application/json", "X-Razorpay-Signature": signature}
    answer = shop.client.post(path, data=body, headers=fields)
    assert (answer.status_code, answer.json["result"]) == (200, "unmapped")
    walk.follow("main a:text-is('payments')")
    walk.follow("tbody a")
    page.fill("#document", text)
    walk.follow("button:text-is('Try')")
    assert "Event 1 of 1" in page.inner_text("main")
    walk.check()
    walk.follow("text=Edit the saved document")
    with page.expect_response("**/sources/check"):
        page.fill("#document", text)
    walk.follow("text=Save as the next version")
    walk.follow("text=Map unmapped deliveries again")
    walk.check()
    walk.follow("button:text-is('Map 1 again')")
    assert "1 of 1 mapped: 1 new event." in page.inner_text("main")
    walk.check()
    walk.close()
