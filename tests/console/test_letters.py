"""Names in the letters of people: not cut within a letter, and not reordered by the direction of others."""

from __future__ import annotations

import pytest

from app.console.jinja_filters import shorten
from tests.support.builders import Sender, an_event
from tests.support.console import Browser

ARABIC = "طلب 25 (جديد)!"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("abcd", "abcd"),
        ("abcdef", "abc…"),
        ("नमस्ते दुनिया", "नम…"),
        ("किकिकि", "कि…"),
        ("ab👩\u200d👧x", "ab…"),
        ("x" + "\u0301" * 9, "x…"),
    ],
)
def test_a_shortened_text_ends_with_a_whole_letter(text: str, shown: str) -> None:
    assert shorten(text, 4) == shown


def test_a_name_in_a_title_keeps_its_order(viewer: Browser, acme: Sender) -> None:
    event = acme.post(an_event(event=ARABIC, distinct_id=ARABIC)).get_json()["id"]
    assert (
        f'<h1 class="h3 text-break">Event \u2068{ARABIC}\u2069</h1>' in viewer.get(f"/{acme.slug}/events/{event}").text
    )
    page = viewer.get(f"/{acme.slug}/subject", query_string={"subject": ARABIC}).text
    assert f"<title>\u2068{ARABIC}\u2069 · Signalbox</title>" in page
