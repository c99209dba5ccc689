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
        ({"times": 3, "of": "a", "within": "1h"}, [["a", 0], ["a", 600]], 52, "2 of 3 a in the last 52m"),
        ({"times": 3, "of": "a", "within": "1h"}, [["a", 0], ["a", 600]], 65, "1 of 3 a in the last 55m"),
        ({"times": 3, "of": "a", "within": "1h"}, [["a", 0], ["a", 600]], 71, "nothing yet"),
        (
            {"seq": ["a", "order_placed"], "within": "125m"},
            [["a", 0]],
            1,
            "waits for order_placed until 2026-10-18T14:05:00.000000Z",
        ),
        ({"seq": ["a", "b"], "within": "2d"}, [["a", 0]], 1, "waits for b until 2026-10-20T12:00:00.000000Z"),
        ({"seq": ["a", "b", "c"]}, [["a", 0], ["b", 1]], 1, "step 3 of 3: waits for c"),
        ({"seq": ["a", {"times": 2, "of": "b"}]}, [["a", 0], ["b", 60]], 3, "1 of 2 b in the last 2m"),
        (A_CART, [["cart_updated", 0]], 1, "will start at 2026-10-18T12:30:00.000000Z unless order_placed arrives"),
        (TWICE, [["view", 0]], 1, "waits for add"),
        (TWICE, [["view", 0], ["add", 1]], 1, "1 of 2 view, then add in the last 1m"),
        (TWICE, [["view", 0], ["add", 1], ["view", 2]], 1, "1 of 2 view, then add in the last 1m; waits for add"),
        ({"all": ["a", "b", "*"]}, [["a", 0]], 1, "has a, waits for b and any event"),
        ({"all": ["a", "b", "c"]}, [["a", 0], ["c", 1]], 1, "has a and c, waits for b"),
        ({"all": ["a", {"seq": ["b", "c"]}]}, [["a", 0], ["b", 1]], 1, "has a, waits for b, then c; waits for c"),
        ({"any": [{"seq": ["a", "b", "c"]}, {"seq": ["a", "d"]}]}, [["a", 0], ["b", 0]], 1, "step 3 of 3: waits for c"),
        (
            SHARED,
            [["buy", 0, {"x": 1}], ["pay", 0]],
            1,
            "has pay, waits for buy and buy until 2026-10-19T12:00:00.000000Z; has buy",
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


def test_events_of_now_are_described_without_a_duration() -> None:
    pattern = plain_pattern({"times": 3, "of": "a"})
    (step,) = run_pattern(pattern, build_events(a_timeline([["a", 0]])), until=START)
    assert describe(pattern, step.result.progress, START + timedelta(milliseconds=999)) == "1 of 3 a"
    assert describe(pattern, step.result.progress, START + timedelta(seconds=1)) == "1 of 3 a in the last 1s"
