"""Every page of the console in Debian's Chromium: with hostile texts in everything that is shown, and of an account in which
nothing has happened.

Each page is seen in both colour schemes, wide and on a phone: nothing is cut, covered or outside of the window. axe-core reads
each in two of the four. Pictures are kept in the folder SIGNALBOX_SCREENSHOTS, if there is one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal
from uuid import uuid4
from zoneinfo import ZoneInfo

import pytest
from flask import Flask
from flask.testing import FlaskClient
from playwright.sync_api import Browser

from app.core.models import OWNER
from app.services import accounts, users
from app.services.context import AppContext
from tests.support.browser import Walk, a_chromium, a_console_server
from tests.support.builders import Sender, a_sender
from tests.support.console import PASSWORD
from tests.support.console_pages import EMPTY, Filled, fill_account
from tests.support.server import Server

HOSTILE = "<b onmouseover=alert(1)>\"&' שלום 🛒 नमस्ते दुनिया مرحبا " + "x" * 60
LOOKS: list[tuple[Literal["light", "dark"], int]] = [("light", 360), ("dark", 1200), ("light", 1200), ("dark", 360)]
# Texts that are cut without a title that has all of it, and pairs of texts of which one covers the other.
CUT = """() => [...document.querySelectorAll("main *, header *")].filter((one) => {
    const style = getComputedStyle(one);
    const cuts = style.overflowX === "hidden" || style.textOverflow === "ellipsis";
    return cuts && one.title !== one.textContent && one.clientWidth > 1 && one.scrollWidth > one.clientWidth + 1;
}).map((one) => one.outerHTML.slice(0, 200))"""
COVERED = """() => {
    const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), found = [];
    while (texts.nextNode()) {
        const text = texts.currentNode, holder = text.parentElement;
        if (!text.data.trim() || !holder.checkVisibility({ visibilityProperty: true, opacityProperty: true })) continue;
        if (holder.closest(".visually-hidden, .visually-hidden-focusable, script, svg, textarea, option, datalist")) continue;
        const range = document.createRange();
        range.selectNodeContents(text);
        for (let { left, top, right, bottom } of range.getClientRects()) {
            for (let box = holder; box !== document.body; box = box.parentElement) {
                if (getComputedStyle(box).overflowX === "visible") continue;
                const edge = box.getBoundingClientRect();
                [left, top] = [Math.max(left, edge.left), Math.max(top, edge.top)];
                [right, bottom] = [Math.min(right, edge.right), Math.min(bottom, edge.bottom)];
            }
            if (right - left > 3 && bottom - top > 3) found.push({ text, left, top, right, bottom });
        }
    }
    // Lines of one text may touch: letters of some scripts are higher than the line.
    const meets = (a, b) => Math.min(a.right, b.right) - Math.max(a.left, b.left) > 3
        && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 8;
    return found.flatMap((a, index) => found.slice(index + 1).filter((b) => a.text !== b.text && meets(a, b))
        .map((b) => `${a.text.data.slice(0, 40)} | ${b.text.data.slice(0, 40)}`)).slice(0, 5);
}"""


@pytest.fixture(scope="module")
def filled(app: Flask, context: AppContext, client: FlaskClient) -> Filled:
    """Made before the browser, whose event loop lets no other run in its thread."""
    return fill_account(app, a_sender(context, client, "full"), HOSTILE, 3)


@pytest.fixture(scope="module")
def empty(context: AppContext, client: FlaskClient) -> Sender:
    return a_sender(context, client, "empty")


@pytest.fixture(scope="module")
def server(context: AppContext) -> Iterator[Server]:
    with a_console_server(context) as running:
        yield running


@pytest.fixture(scope="module")
def chromium(filled: Filled, empty: Sender) -> Iterator[Browser]:
    with a_chromium() as browser:
        yield browser


# What is wrong in a form: the page, the texts of fields (None: the box is not ticked), and the button.
MISTAKES: list[tuple[str, dict[str, str | None], str]] = [
    ("keys", {"#name": HOSTILE, "#scopes-0": None}, "Generate new key"),
    ("clients", {"#name": HOSTILE, "#scopes-0": None, "#scopes-1": None, "#scopes-2": None}, "Create client"),
    ("events/new", {"#event": "", "#phone": HOSTILE, "#data": HOSTILE}, "Send"),
    ("secrets", {"#name": HOSTILE[:60], "#value": "x"}, "Set secret"),
    ("integrations/twilio", {"#account_sid": HOSTILE}, "Save"),
    ("settings", {"#time_zone": HOSTILE[:60]}, "Save"),
    ("settings", {"#email": "nobody@example.com"}, "Set role"),
    ("settings/retention", {"#events": HOSTILE[:40]}, "Show what this changes…"),
    ("subject/erase?{subject}", {"#confirmation": "another"}, "Erase permanently"),
    ("workflows/edit", {"#source": f"name: renamed\non: {{ {HOSTILE} \nstep: {'x' * 200}\n"}, "Check"),
    ("workflows/try?name=failing", {"#own": HOSTILE}, "Try"),
    ("sources/new?name=new&provider=whatsapp", {"#document": f"name: {HOSTILE}\nmap: 1\n"}, "Create the source"),
    ("source/shop/edit", {"#document": f"name: shop\nverify: {HOSTILE}\n"}, "Save as the next version"),
    ("source/shop/try", {"#request": HOSTILE}, "Try"),
    ("deliveries/{unmapped}", {"#document": f"name: shop\nverify: {HOSTILE}\n"}, "Try"),
    ("/profile", {"#current": "wrong", "#new": "x"}, "Change password"),
]


class Gallery(Walk):
    """A walk that looks at each page in all schemes and widths, and notes what is wrong."""

    def __init__(self, chromium: Browser, server: Server) -> None:
        super().__init__(chromium, server)
        self.problems: list[str] = []

    def look(self, name: str, number: int) -> None:
        """See the page as every reader would. `number` chooses in which two of the four axe-core reads it."""
        # Chromium notes that a page has a status of 4xx.
        self.faults = [fault for fault in self.faults if "Failed to load resource" not in fault]
        for index, (scheme, width) in enumerate(LOOKS):
            self.page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
            self.page.set_viewport_size({"width": width, "height": 900})
            try:
                self.check_layout()
                if index % 2 == number % 2:
                    self.check_with_axe()
            except AssertionError as exc:
                self.problems.append(f"{name}, {scheme}, {width}: {exc}")
                self.faults.clear()
            self.problems += [f"{name}, {scheme}, {width}: cut: {text}" for text in self.page.evaluate(CUT)]
            self.problems += [f"{name}, {scheme}, {width}: covered: {text}" for text in self.page.evaluate(COVERED)]
            if folder := os.environ.get("SIGNALBOX_SCREENSHOTS"):
                file = re.sub(r"\W+", "-", name)[:80].strip("-") or "overview"
                path = Path(folder) / f"{file}-{scheme}-{width}.png"
                self.page.screenshot(path=path, full_page=True, animations="disabled")


@pytest.fixture
def gallery(chromium: Browser, server: Server) -> Iterator[Gallery]:
    gallery = Gallery(chromium, server)
    yield gallery
    gallery.close()


def _sign_in(context: AppContext, walk: Walk, slug: str) -> None:
    account = accounts.find_account(context, slug)
    assert account is not None
    email = f"{uuid4().hex[:12]}@example.com"
    users.create_user(context, email, PASSWORD, role=(account, OWNER))
    walk.sign_in(email)


def test_every_page_can_be_read_by_everybody(context: AppContext, gallery: Gallery, filled: Filled) -> None:
    gallery.page.goto(f"{gallery.url}/sign-in")
    gallery.look("sign-in", 0)
    _sign_in(context, gallery, filled.slug)
    for number, path in enumerate(filled.paths()):
        gallery.page.goto(gallery.url + filled.path(path))
        gallery.look(path.removeprefix(f"/{filled.slug}/"), number)
        assert gallery.page.locator("[onmouseover]").count() == 0
    assert gallery.problems == []


def test_every_page_of_an_account_in_which_nothing_has_happened_says_what_to_do(
    context: AppContext, gallery: Gallery, empty: Sender
) -> None:
    _sign_in(context, gallery, empty.slug)
    for number, path in enumerate(EMPTY):
        gallery.page.goto(f"{gallery.url}/{empty.slug}/{path}")
        gallery.look(f"empty-{path}", number)
    assert gallery.problems == []


def test_every_form_with_mistakes_can_be_read_by_everybody(
    context: AppContext, gallery: Gallery, filled: Filled
) -> None:
    page = gallery.page
    _sign_in(context, gallery, filled.slug)
    for number, (path, texts, button) in enumerate(MISTAKES):
        page.goto(gallery.url + filled.path(path))
        for selector, text in texts.items():
            field = page.locator(selector)
            assert field.count() == 1, (path, selector, page.inner_text("main"))
            field.uncheck() if text is None else field.fill(text)
        page.evaluate("for (const form of document.forms) form.noValidate = true")
        with page.expect_navigation():
            page.locator("main").get_by_role("button", name=button, exact=True).last.click()
        assert page.locator("main .text-danger, main .alert, main [data-line]").count() > 0, path
        gallery.look(f"mistake-{path}-{button}", number)
    assert gallery.problems == []


@pytest.mark.parametrize(("path", "title"), [("/none/", "Not found"), ("/{slug}/source/none", "Not found")])
def test_a_page_that_says_what_is_wrong_can_be_read_by_everybody(
    context: AppContext, gallery: Gallery, filled: Filled, path: str, title: str
) -> None:
    _sign_in(context, gallery, filled.slug)
    gallery.page.goto(gallery.url + path.format(slug=filled.slug))
    assert title in gallery.page.inner_text("h1")
    gallery.look(f"error-{path}", 0)
    assert gallery.problems == []


def test_every_page_works_without_javascript(
    context: AppContext, chromium: Browser, server: Server, filled: Filled
) -> None:
    walk = Walk(chromium, server, width=360, java_script_enabled=False)
    _sign_in(context, walk, filled.slug)
    for path in filled.paths():
        walk.page.goto(walk.url + path)
        assert walk.page.locator("h1").inner_text(), path
        # What only a script can do is not offered; times are in UTC.
        assert walk.page.locator("button[data-copy]:visible").count() == 0
        times = walk.page.locator("time:visible").all_inner_texts()
        assert [text for text in times if not text.endswith(" UTC")] == [], path
        assert walk.page.locator("main").evaluate("(main) => main.scrollWidth <= innerWidth"), path
    walk.close()


def test_the_keyboard_gets_to_the_content_first_and_shows_where_it_is(
    context: AppContext, gallery: Gallery, filled: Filled
) -> None:
    page, focused = gallery.page, "document.activeElement.textContent.trim()"
    _sign_in(context, gallery, filled.slug)
    page.goto(f"{gallery.url}/{filled.slug}/events")
    page.keyboard.press("Tab")
    assert page.evaluate(focused) == "Skip to the content"
    assert page.evaluate("document.activeElement.getBoundingClientRect().height > 10")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "content"
    page.keyboard.press("Tab")
    assert page.evaluate(focused) == "Send a test event"
    style = "(({ outlineStyle, boxShadow }) => outlineStyle !== 'none' || boxShadow !== 'none')"
    assert page.evaluate(f"{style}(getComputedStyle(document.activeElement))")


def test_times_are_shown_in_the_zone_of_the_reader_and_in_utc_when_pointed_at(
    context: AppContext, chromium: Browser, server: Server, filled: Filled
) -> None:
    walk = Walk(chromium, server, timezone_id="Asia/Kolkata", locale="en-GB")
    _sign_in(context, walk, filled.slug)
    walk.page.goto(f"{walk.url}/{filled.slug}/events/{filled.event}")
    time = walk.page.locator("dd time").first
    at = datetime.fromisoformat(str(time.get_attribute("title")))
    assert at.utcoffset() == timedelta(0)
    assert f"{at.astimezone(ZoneInfo('Asia/Kolkata')):%H:%M:%S}" in time.inner_text()
    walk.close()
