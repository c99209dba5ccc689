"""A short sentence describes the progress of a subject."""

from datetime import timedelta
from typing import Any

import pytest

from app.workflows.matching.describe import describe
from app.workflows.matching.progress_json import Progress
from tests.support.timelines import START, a_timeline, build_events, plain_pattern, run_pattern

A_CART = {"seq": ["cart_updated", {"none": "order_placed", "for": "30m"}]}
TWICE = {"times": 2, "of": {"seq": ["view", "add"]}}
SHARED = {"all": [{"event": "buy", "where": "x == 1"}, "buy", "pay"], "within": "1d"}


@pytest.mark.parametrize(
    ("document", "events", "minutes", "sentence"),
    [
        ("a", [], 0, "nothing yet"),
        ({"times": 3, "of": "a", "within": "1h"}, [["a", 0], ["a", 600]], 52, "2 of 3 a in the last 52 min"),
        ({"times": 3, "of": "a", "within": "1h"}, [["a", 0], ["a", 600]], 65, "1 of 3 a in the last 55 min"),
        ({"times": 3, "of": "a", "within": "1h"}, [["a", 0], ["a", 600]], 71, "nothing yet"),
        ({"seq": ["a", "order_placed"], "within": "125m"}, [["a", 0]], 1, "waits for order_placed until 14:05"),
        ({"seq": ["a", "b"], "within": "2d"}, [["a", 0]], 1, "waits for b until 2026-10-20 12:00"),
        ({"seq": ["a", "b", "c"]}, [["a", 0], ["b", 1]], 1, "step 3 of 3: waits for c"),
        ({"seq": ["a", {"times": 2, "of": "b"}]}, [["a", 0], ["b", 60]], 3, "1 of 2 b in the last 2 min"),
        (A_CART, [["cart_updated", 0]], 1, "starts at 12:30 unless order_placed arrives"),
        (TWICE, [["view", 0]], 1, "waits for add"),
        (TWICE, [["view", 0], ["add", 1]], 1, "1 of 2 view, then add in the last 60 s"),
        (TWICE, [["view", 0], ["add", 1], ["view", 2]], 1, "1 of 2 view, then add in the last 60 s; waits for add"),
        ({"all": ["a", "b", "*"]}, [["a", 0]], 1, "has a, waits for b and any event"),
        ({"all": ["a", "b", "c"]}, [["a", 0], ["c", 1]], 1, "has a and c, waits for b"),
        ({"all": ["a", {"seq": ["b", "c"]}]}, [["a", 0], ["b", 1]], 1, "has a, waits for b, then c; waits for c"),
        ({"any": [{"seq": ["a", "b", "c"]}, {"seq": ["a", "d"]}]}, [["a", 0], ["b", 0]], 1, "step 3 of 3: waits for c"),
        (
            SHARED,
            [["buy", 0, {"x": 1}], ["pay", 0]],
            1,
            "has pay, waits for buy and buy until 2026-10-19 12:00; has buy",
        ),
    ],
    ids=str,
)
def test_progress_is_described(document: Any, events: list[Any], minutes: int, sentence: str) -> None:
    pattern = plain_pattern(document)
    progress: Progress = {}
    for step in run_pattern(pattern, build_events(a_timeline(events)), until=START):
        progress = step.result.progress
    assert describe(pattern, progress, START + timedelta(minutes=minutes)).startswith(sentence)
