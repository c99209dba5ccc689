"""A walk through the console in Debian's Chromium, with a real gunicorn, a real worker, and a target that is out of order at
first.

At each stop axe-core reads the page in both colour schemes, wide and on a phone. Pictures are kept in the folder
SIGNALBOX_SCREENSHOTS, if there is one.
"""

from __future__ import annotations

import base64
import hmac
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
from playwright.sync_api import Browser

from app.core.models import OWNER
from app.services import accounts, workflows
from app.services.context import AppContext
from tests.support.browser import Walk
from tests.support.builders import Sender, a_sender, a_workflow
from tests.support.console import a_user
from tests.support.http_target import Answer, HttpTarget, an_http_target
from tests.support.server import ROOT, Server, clean_environment, running_server

TIMEOUT = 120.0
# Where a text ends before its end and no title has all of it, or where it is wider than what it is in.
CUT = """() => [...document.querySelectorAll("main *, header *")].filter((one) => {
    const style = getComputedStyle(one);
    const cuts = style.overflowX === "hidden" || style.textOverflow === "ellipsis";
    return cuts && one.title !== one.textContent && one.clientWidth > 1 && one.scrollWidth > one.clientWidth + 1;
}).map((one) => one.outerHTML.slice(0, 200))"""
WORKFLOW = """name: {name}
on: product_view
steps:
  - http:
      url: {url}/offers/{{{{ distinct_id }}}}
      json: {{product: "{{{{ data.product }}}}"}}
    retry: {{attempts: 1}}
"""

# Pages at which the walk looks at its end.
REST = (
    "",
    "events",
    "runs",
    "failures",
    "workflows",
    "workflow?name=view-offer",
    "settings",
    "settings/retention",
    "audit",
    "refusals",
)


class Tour(Walk):
    """A walk that looks closely wherever it stops."""

    def __init__(self, chromium: Browser, server: Server, account: Sender, folder: Path | None) -> None:
        super().__init__(chromium, server)
        self._account, self._folder = account, folder

    def go(self, path: str) -> None:
        """To a page of the account."""
        self.page.goto(f"{self.url}/{self._account.slug}/{path}")

    def look(self, name: str) -> None:
        """Check the page as every reader would see it, and keep the pictures if they are wanted."""
        # What an open page asks for by itself is given up when it is left, or when its text has changed.
        self.faults = [fault for fault in self.faults if not fault.endswith(": net::ERR_ABORTED")]
        for scheme in ("light", "dark"):
            self.page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
            for width in (360, 1200):
                self.page.set_viewport_size({"width": width, "height": 900})
                self.check()
                assert self.page.evaluate(CUT) == [], self.page.url
                if self._folder is not None:
                    path = self._folder / f"{name}-{scheme}-{width}.png"
                    self.page.screenshot(path=path, full_page=True, animations="disabled")
        self.page.emulate_media(color_scheme="light")

    def press(self, text: str) -> None:
        """Press a button, and wait for the page to which that leads."""
        with self.page.expect_navigation():
            self.page.get_by_role("button", name=text, exact=True).first.click()

    def open(self, text: str) -> None:
        """Follow a link of the page."""
        with self.page.expect_navigation():
            self.page.locator("main").get_by_role("link", name=text).first.click()

    def reload_until(self, is_there: Callable[[str], bool]) -> str:
        """The text of the page once it says what is waited for."""
        deadline = time.monotonic() + TIMEOUT
        while not is_there(text := self.page.inner_text("main")):
            assert time.monotonic() < deadline, text
            self.page.wait_for_timeout(200)
            self.page.reload()
        return text


@pytest.fixture(scope="module")
def folder() -> Path | None:
    """Where pictures are kept."""
    if not (chosen := os.environ.get("SIGNALBOX_SCREENSHOTS")):
        return None
    made = Path(chosen)
    made.mkdir(parents=True, exist_ok=True)
    return made


@pytest.fixture(scope="module")
def settings(context: AppContext) -> dict[str, str]:
    """Of both processes. The target is on this machine."""
    keys = ",".join(context.settings.encryption_keys)
    url = context.settings.database_url
    return {"DATABASE_URL": url, "ENCRYPTION_KEY": keys, "ALLOWED_PRIVATE_TARGETS": "127.0.0.1/32"}


@pytest.fixture(scope="module")
def server(settings: dict[str, str]) -> Iterator[Server]:
    with running_server(**settings) as running:
        yield running


@contextmanager
def a_worker(settings: dict[str, str]) -> Iterator[None]:
    """A worker as `signalbox worker` starts it."""
    command = [sys.executable, "-m", "app.cli", "worker"]
    process = subprocess.Popen(command, env=clean_environment(**settings), cwd=ROOT, stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def shop(context: AppContext, server: Server) -> Sender:
    """A new account, in which nothing has happened."""
    sender = a_sender(context, server, "shop")
    accounts.update_account_details(context, sender.account_id, accounts.AccountDetails(name="Shop"))
    return sender


@pytest.fixture
def tour(context: AppContext, chromium: Browser, server: Server, shop: Sender, folder: Path | None) -> Iterator[Tour]:
    """An owner of the shop, who has signed in."""
    tour = Tour(chromium, server, shop, folder)
    tour.page.goto(f"{tour.url}/")
    tour.look("sign-in")
    tour.sign_in(a_user(context, shop, OWNER))
    yield tour
    tour.close()


def test_from_the_first_key_to_a_retried_failure(
    context: AppContext, tour: Tour, shop: Sender, settings: dict[str, str]
) -> None:
    tour.look("overview-of-a-new-account")
    command = _make_a_key(tour)
    _see_an_event_arrive(tour, command)
    choosy = a_workflow(name="expensive", on={"event": "product_view", "where": 'data.product == "Gold watch"'})
    workflows.apply_workflow(context, shop.account_id, choosy)
    with an_http_target(Answer(500, b'{"error": "out of order"}')) as target, a_worker(settings):
        _write_a_workflow(tour, target)
        _follow_a_run_to_its_failure(tour, command)
        target.answers = [Answer(200)]
        _retry_the_group(tour)
        assert [(call.path, call.json) for call in target.calls] == [
            ("/offers/915673412780", {"product": "Blue shirt"})
        ] * 2
    tour.go("subject?subject=915673412780")
    text = tour.page.inner_text("main")
    assert "expensive" in text
    assert "the filter is false" in text
    tour.look("person")
    for name in REST:
        tour.go(name)
        tour.look(name.partition("?")[0].replace("/", "-") or "overview")


def _make_a_key(tour: Tour) -> str:
    """The command that the page of the new key shows. The key is seen once."""
    tour.go("keys")
    tour.look("keys-of-a-new-account")
    tour.page.fill("#name", "checkout")
    tour.press("Generate new key")
    token, command = (tour.page.locator("pre code").nth(number).inner_text() for number in (0, 1))
    tour.look("key-created")
    tour.open("To the keys")
    assert token not in tour.page.content()
    tour.look("keys")
    return command


def _see_an_event_arrive(tour: Tour, command: str) -> None:
    """On a page that stays open."""
    tour.go("events")
    tour.look("events-of-a-new-account")
    _send(command)
    tour.page.wait_for_selector("tbody >> text=product_view")
    tour.follow("tbody >> text=product_view")
    assert "No enabled workflow looks at events of this name." in tour.page.inner_text("main")
    tour.look("event-without-a-workflow")


def _send(command: str) -> dict[str, Any]:
    """Send the event as who reads the page would; what the receiver answers."""
    answer = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=TIMEOUT, check=True)
    found: dict[str, Any] = json.loads(answer.stdout)
    return found


def _write_a_workflow(tour: Tour, target: HttpTarget) -> None:
    """In the editor, with a mistake in line 2 at first."""
    document = WORKFLOW.format(name="view-offer", url=target.url)
    tour.go("workflows/edit")
    tour.page.fill("#source", document.replace("on: product_view", "on: {evnt: product_view}"))
    tour.page.wait_for_selector("#mistakes >> text=Line 2")
    tour.look("editor-with-a-mistake")
    tour.page.fill("#source", document)
    tour.page.wait_for_selector("#mistakes >> text=No mistakes.")
    tour.press("Try")
    tour.page.fill("#own", '{"event": "product_view", "distinct_id": "7", "data": {"product": "Lamp"}}')
    tour.page.check("#on-own")
    tour.press("Try")
    text = tour.page.inner_text("main")
    assert "starts a run" in text
    assert "/offers/7" in text
    tour.look("workflow-tried")
    tour.press("Open in the editor")
    tour.press("Save and enable")
    tour.look("editor")


def _follow_a_run_to_its_failure(tour: Tour, command: str) -> None:
    """From the event to its run, whose only call fails."""
    sent = _send(command)
    tour.go(f"events/{sent['id']}")
    tour.reload_until(lambda text: "started a run" in text)
    tour.look("event")
    tour.open("a run")
    tour.reload_until(lambda text: "Attempt 1: failed (http_5xx)" in text)
    assert "out of order" in tour.page.content()
    tour.page.locator("details > summary", has_text="Attempt 1").click()
    tour.look("run-failed")


def _retry_the_group(tour: Tour) -> None:
    """From the list of failures, by a plan."""
    tour.go("failures")
    text = tour.page.inner_text("main")
    assert "/offers/*" in text
    assert "1 run of 1 subject" in text
    tour.look("failures-with-a-group")
    tour.open("Retry all…")
    tour.look("retry-plan")
    tour.press("Retry 1 run")
    tour.look("retried")
    tour.open("view-offer")
    tour.reload_until(lambda text: "done" in text)
    tour.look("run")
    tour.go("failures")
    assert "No run has failed" in tour.page.inner_text("main")


def test_from_a_new_source_to_a_replayed_delivery(tour: Tour) -> None:
    tour.go("sources")
    tour.look("sources-of-a-new-account")
    url = _create_a_source(tour)
    secret, body = b"the secret of the shop", b'{"id": 7, "email": "asha@example.com", "total_price": "499.00"}'
    signature = base64.b64encode(hmac.digest(secret, body, "sha256")).decode()
    fields = {
        "X-Shopify-Hmac-SHA256": signature,
        "X-Shopify-Topic": "orders/create",
        "Content-Type": "application/json",
    }
    with urlopen(Request(url, body, fields), timeout=TIMEOUT) as answer:
        assert json.load(answer)["result"] == "unmapped"
    tour.go("source/shop")
    tour.look("source")
    tour.follow("tbody a")
    assert "body.kind" in tour.page.inner_text("main")
    tour.look("delivery-unmapped")
    _mend(tour)
    tour.open("Map unmapped deliveries again")
    tour.look("map-again-plan")
    tour.press("Map 1 again")
    tour.look("source-mended")
    tour.follow("tbody a")
    assert "accepted" in tour.page.inner_text("main")
    tour.look("delivery")
    for name in ("sources", "deliveries", "secrets", "integrations"):
        tour.go(name)
        tour.look(name)


def _create_a_source(tour: Tour) -> str:
    """Of a preset, with a mapping that fits nothing; its URL."""
    tour.go("sources/new")
    tour.page.select_option("#provider", "shopify")
    tour.page.fill("#name", "shop")
    tour.press("Prepare the document")
    document = tour.page.input_value("#document")
    tour.page.fill("#document", document + "map: {event: body.kind}\n")
    tour.page.fill("#secret-SHOP", "the secret of the shop")
    tour.look("source-prepared")
    tour.press("Create the source")
    url = tour.page.locator("pre code").first.inner_text()
    tour.look("source-created")
    return url


def _mend(tour: Tour) -> None:
    """Try another document beside the delivery, and save it."""
    document = tour.page.input_value("#document").replace("map: {event: body.kind}\n", "")
    tour.page.fill("#document", document)
    tour.press("Try")
    assert "Event 1 of 1" in tour.page.inner_text("main")
    tour.look("delivery-tried")
    tour.open("Edit the saved document")
    tour.page.fill("#document", document)
    tour.look("source-edited")
    tour.press("Save as the next version")
