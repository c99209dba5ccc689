"""Texts of users and senders that look like HTML stay texts: on every page and in the answers to every form."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any
from uuid import UUID

import pytest
from flask import Flask

from tests.console.test_access import CONSOLE, RULES
from tests.support.builders import Sender
from tests.support.console import Browser
from tests.support.console_pages import fill_account

RAW = "<img src=x"
HOSTILE = RAW + " onerror=alert(1)>\"&'"
_FIELD = re.compile(r'<(?:input|select|textarea|button)[^>]*\sname="([^"]+)"')


class _Reader(HTMLParser):
    """Notes what is inline, and what comes from another host."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        loaded = values.get("src") or (values.get("href") if tag == "link" else None)
        is_inline = (
            tag == "style" or (tag == "script" and not loaded) or any(re.match("style|on", one) for one in values)
        )
        if is_inline or not (loaded or "/console/").startswith(("/console/", "data:,")):
            self.found.append(self.get_starttag_text() or tag)


def _inline(text: str) -> list[str]:
    reader = _Reader()
    reader.feed(text)
    return reader.found


def test_hostile_texts_stay_texts_on_every_page_and_nothing_is_inline(app: Flask, owner: Browser, acme: Sender) -> None:
    filled = fill_account(app, acme, HOSTILE)
    fragments = [filled.path(path) for path in ("now", "events/rows", "events/{event}/now")]
    for path in [*filled.paths(), *fragments]:
        text = owner.get(path).text
        assert RAW not in text, path
        assert _inline(text) == [], path


@pytest.mark.parametrize(
    "path",
    ["events/{event}/data", "workflow/source?name=waiting", "refusals/{refusal}/body", "deliveries/{mapped}/body"],
)
def test_what_was_sent_is_never_answered_as_html(app: Flask, owner: Browser, acme: Sender, path: str) -> None:
    answer = owner.get(fill_account(app, acme, HOSTILE).path(path))
    assert RAW[:6] in answer.text
    assert answer.content_type in ("text/plain; charset=utf-8", "application/octet-stream")


def test_hostile_texts_in_any_form_stay_texts(app: Flask, owner: Browser, acme: Sender) -> None:
    filled = fill_account(app, acme, "a")
    fields = {name for path in filled.paths() for name in _FIELD.findall(owner.get(path).text)} - {"csrf_token"}
    assert {"source", "document", "subject", "event", "own"} <= fields
    known = {"account": acme.slug, "name": "shop", "kind": "twilio", "run_id": filled.failed, "event_id": filled.event}
    known |= {"delivery_id": filled.unmapped, "refusal_id": filled.refusal, "session_id": UUID(int=1)}
    for rule in RULES:
        if "POST" not in (rule.methods or ()) or rule.endpoint == "sign_out":
            continue
        values: dict[str, Any] = {name: known.get(name, "x") for name in rule.arguments}
        path = CONSOLE.url_map.bind("").build(rule.endpoint, values, method="POST")
        answer = owner.post(path, "/profile", **dict.fromkeys(fields, HOSTILE))
        assert answer.status_code < 500, path
        assert RAW not in answer.text, path
        if answer.location:
            assert RAW not in owner.client.get(answer.location).text, path
