"""Fragments that follow what happens, in Chromium: they slow down while nothing changes, and stop while nobody looks."""

from __future__ import annotations

from playwright.sync_api import Browser, Request

from app.core.models import VIEWER
from app.services.context import AppContext
from tests.support.browser import Walk
from tests.support.builders import a_sender
from tests.support.console import a_user
from tests.support.server import Server

# Notes each pause, shortens it, and lets the test say whether the page is seen.
_WATCH = """
const start = window.setTimeout;
window.pauses = [];
window.isUnseen = false;
window.setTimeout = (call, pause) => { window.pauses.push(pause); return start(call, 20); };
window.rest = () => new Promise((done) => start(done, 500));
Object.defineProperty(document, "hidden", { get: () => window.isUnseen });
"""


def test_a_live_list_slows_down_while_nothing_changes_and_stops_while_unseen(
    context: AppContext, chromium: Browser, console_server: Server
) -> None:
    sender = a_sender(context, console_server, "quiet")
    walk = Walk(chromium, console_server)
    walk.sign_in(a_user(context, sender, VIEWER))
    page = walk.page
    page.add_init_script(_WATCH)
    page.goto(f"{walk.url}/{sender.slug}/events")
    for _ in range(8):
        page.wait_for_event("requestfinished", lambda request: "/events/rows" in request.url)
    # The first answer differs from the page, in which times are in the reader's zone.
    pauses = [pause for pause in page.evaluate("window.pauses") if pause >= 3_000]
    assert pauses[0] == 3_000
    assert [pause for pause in pauses if pause > 3_000][:5] == [6_000, 12_000, 24_000, 48_000, 60_000]
    assert max(pauses) == 60_000
    page.evaluate("window.isUnseen = true; window.rest()")
    requests: list[Request] = []
    page.on("request", lambda request: requests.append(request))
    page.evaluate("window.rest()")
    assert requests == []
    with page.expect_request(lambda request: "/events/rows" in request.url):
        page.evaluate(
            "window.pauses = []; window.isUnseen = false; document.dispatchEvent(new Event('visibilitychange'))"
        )
    assert page.evaluate("window.pauses")[0] == 3_000
    walk.close()
