"""What a page costs a browser: bytes of HTML on a filled account, and the number and bytes of the files that it loads.

Every page is measured: `PAGES` has each route that shows one.
"""

from __future__ import annotations

import gzip
import re

import pytest
from flask import Flask

from app.services import workflows
from app.services.context import AppContext
from tests.console.test_access import RULES
from tests.support.builders import Sender, a_workflow, an_event
from tests.support.console import Browser
from tests.support.console_pages import NO_PAGES, PAGES, fill_account
from tests.support.http_target import Answer, an_http_target
from tests.support.run_execution import execute_run
from tests.support.server import ROOT

# Bytes of HTML of any page, files of a page, and their bytes as they are stored and as they would be sent compressed.
MAX_HTML, MAX_FILES, MAX_BYTES, MAX_COMPRESSED = 100 * 1024, 5, 320 * 1024, 64 * 1024
_LOADED = re.compile(r'(?:src|rel="stylesheet"[^>]*href|<link href)="(/console/[^"]+)"')
# More than a page shows.
ROWS = 55
# A letter takes three bytes, and nine in an address.
LONG = "प्रिया शर्मा +915673412780 " * 9


def test_each_route_that_shows_a_page_is_among_the_pages() -> None:
    shown = {rule.endpoint for rule in RULES if "GET" in (rule.methods or ())}
    assert shown - NO_PAGES == set(PAGES)


@pytest.mark.parametrize("text", ['a "quoted" text & <more>', LONG], ids=["short", "long"])
def test_no_page_of_a_filled_account_is_larger_than_100_kib(
    app: Flask, owner: Browser, acme: Sender, text: str
) -> None:
    filled = fill_account(app, acme, text, ROWS)
    sizes = {}
    for path in filled.paths():
        page = owner.get(path)
        # Signed in already, and a version with mistakes.
        assert page.status_code == 200 or path.endswith(("/sign-in", "/backtest?name=draft")), path
        sizes[path.removeprefix(f"/{acme.slug}")] = len(page.data)
    assert {path: size for path, size in sizes.items() if size > MAX_HTML} == {}
    assert sizes["/runs"] > 20_000


def test_the_page_of_a_run_with_large_requests_and_many_steps_is_not_larger(
    context: AppContext, owner: Browser, acme: Sender
) -> None:
    data = {f"field {number}": ['a "quoted" text & <more>'] * 50 for number in range(50)}
    with an_http_target(Answer(500, b'{"error": "out of order"}' * 80)) as target:
        step = {"http": {"url": target.url + "/orders/{{ distinct_id }}", "json": data}, "retry": {"attempts": 1}}
        again = {"repeat": [{"log": "again"}], "until": "false", "most": 150}
        workflows.apply_workflow(context, acme.account_id, a_workflow(steps=[again, step]))
        sent = acme.post(an_event(data=data)).get_json()
        execute_run(context, acme.account_id, sent["runs"][0])
    for path in (f"events/{sent['id']}", f"runs/{sent['runs'][0]}"):
        assert 20_000 < len(owner.get(f"/{acme.slug}/{path}").data) < MAX_HTML


def test_a_page_loads_few_small_files_that_stay_in_the_cache(app: Flask, owner: Browser, acme: Sender) -> None:
    files = set(_LOADED.findall(owner.get(f"/{acme.slug}/").text))
    assert len(files) <= MAX_FILES
    bodies = {}
    for path in files:
        answer = owner.client.get(path, buffered=True)
        assert "max-age=" in answer.headers["Cache-Control"], path
        bodies[path] = answer.data
    assert any("bootstrap" in path for path in files)
    assert sum(map(len, bodies.values())) <= MAX_BYTES
    assert sum(len(gzip.compress(body)) for body in bodies.values()) <= MAX_COMPRESSED
    for path in fill_account(app, acme, "a").paths():
        assert set(_LOADED.findall(owner.get(path).text)) <= files, path


def test_the_scripts_have_less_than_200_lines() -> None:
    scripts = list((ROOT / "app" / "console" / "static").glob("*.js"))
    assert scripts
    assert sum(len(script.read_text().splitlines()) for script in scripts) < 200


def test_a_long_subject_is_shortened_in_lists_and_still_found(app: Flask, owner: Browser, acme: Sender) -> None:
    filled = fill_account(app, acme, LONG)
    for name, row in (("events", filled.event), ("runs", filled.failed)):
        page = owner.get(f"/{acme.slug}/{name}").text
        assert LONG not in page.partition("<tbody>")[2]
        path = f"/{acme.slug}/subjects?{name[:-1]}={row}"
        assert f'href="/console{path}"' in page
        found = owner.client.get(owner.get(path).location).text
        assert LONG in found


@pytest.mark.parametrize("name", ["event", "run"])
def test_the_subject_of_another_account_is_not_found(
    app: Flask, owner: Browser, acme: Sender, globex: Sender, name: str
) -> None:
    filled = fill_account(app, globex, "a")
    row = filled.event if name == "event" else filled.failed
    assert owner.get(f"/{acme.slug}/subjects?{name}={row}").status_code == 404
