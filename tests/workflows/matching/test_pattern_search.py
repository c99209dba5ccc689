"""The matcher agrees with exhaustive search: on random patterns and timelines, and on every small timeline for patterns
that a simpler matcher would get wrong."""

import os
from itertools import product
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from app.workflows.matching.pattern_parser import TOO_LARGE, check
from tests.support.exhaustive_search import complete, is_leaf, judge, split
from tests.support.pattern_strategies import as_timeline, patterns, scenes, short_timelines
from tests.support.timelines import Timeline, plain_filter, plain_leaf_matches, plain_pattern, run_matcher

# After a change of the matcher: PATTERN_EXAMPLES=100000.
EXAMPLES = int(os.environ.get("PATTERN_EXAMPLES", "8000"))

search = settings(max_examples=EXAMPLES, database=None, suppress_health_check=list(HealthCheck))
quick_search = settings(search, max_examples=EXAMPLES // 4)


@search
@given(scenes())
def test_the_matcher_agrees_with_exhaustive_search(scene: tuple[Any, Timeline]) -> None:
    assert_agreement(*scene)


HARD = [
    {"all": ["a", "a"]},
    {"all": ["a", {"event": "*"}]},
    {"all": [{"seq": ["a", "b"], "within": "1s"}, {"seq": ["a", "b"], "within": "2s"}]},
    {"all": [{"seq": ["a", "b"], "unless": "c"}, "c"]},
    {"all": [{"seq": ["a", "b"]}, {"seq": ["a", "c"]}], "within": "2s"},
    {"all": [{"times": 2, "of": "a", "within": "1s"}, {"times": 2, "of": "b", "within": "1s"}], "unless": "c"},
    {"all": [{"times": 2, "of": "a", "within": "1s"}, {"seq": ["a", "b"], "within": "2s"}]},
    {"all": [{"any": ["a", {"seq": ["b", "c"]}]}, "b"], "within": "1s"},
    {"seq": ["a", {"all": ["a", "b"]}], "within": "2s"},
    {"seq": ["a", {"seq": ["b", "c"], "within": "1s"}], "within": "2s"},
    {"seq": ["a", "b", "c"], "unless": "b"},
    {"seq": ["a", "b"], "unless": "a"},
    {"seq": ["a", "b"], "unless": "b"},
    {"seq": [{"seq": ["a", "b"], "unless": "c"}, "c"], "within": "2s"},
    {"seq": [{"any": ["a", {"seq": ["a", "b"]}]}, "b"], "within": "1s"},
    {"times": 3, "of": "a", "within": "2s", "unless": "b"},
    {"times": 2, "of": {"seq": ["a", "b"]}, "within": "2s"},
    {"times": 2, "of": {"seq": ["a", "b"], "within": "1s"}, "unless": "c"},
    {"times": 2, "of": {"any": ["a", {"seq": ["b", "c"]}]}, "within": "2s"},
    {"times": 2, "of": {"all": ["a", "b"], "within": "1s"}},
    {"times": 2, "of": {"times": 2, "of": "a", "within": "1s"}, "within": "2s"},
    {"seq": ["a", {"none": "b", "for": "1s"}]},
    {"seq": ["a", {"none": "a", "for": "1s"}]},
    {"seq": ["a", "b", {"none": "c", "for": "1s"}], "within": "1s", "unless": "c"},
]  # fmt: skip


@pytest.mark.parametrize("document", HARD, ids=str)
def test_the_matcher_agrees_on_every_timeline_of_five_events(document: Any) -> None:
    later = list(product(product("abc", [0, 1]), repeat=4))
    for first, events in product("abc", later):
        assert_agreement(document, as_timeline([(first, 0, {}), *((name, pause, {}) for name, pause in events)]))


def assert_agreement(document: Any, timeline: Timeline) -> None:
    mistakes = check(document, plain_filter)
    if mistakes:
        assert mistakes == [("on", TOO_LARGE)]
        return
    pattern = plain_pattern(document)
    observed, verdict = run_matcher(pattern, timeline), judge(document, timeline, plain_leaf_matches)
    assert observed.matches.keys() == verdict.matches.keys()
    assert observed.deadline_matches.keys() == verdict.deadline_matches.keys()
    assert observed.contributing == verdict.contributing
    assert observed.deadlines == verdict.deadlines
    for index, used in observed.matches.items():
        assert used in verdict.matches[index]
    for second, used in observed.deadline_matches.items():
        assert used in verdict.deadline_matches[second]


@quick_search
@given(patterns(3), short_timelines)
def test_contributing_means_that_wildcards_could_complete_the_match(document: Any, timeline: Timeline) -> None:
    """Checks how the search reads rule 6: add as many wildcard events as the pattern is long, at the same second, each of
    which matches every leaf and cancels nothing, and look for a complete match."""
    rest, _ = split(document)
    wildcards: Timeline = [("wildcard", timeline[-1][1], {})] * (length(rest) - 1)
    if len(wildcards) > 5:
        return
    last = len(timeline) - 1
    choices = complete(mark_cancelling(rest), [*timeline, *wildcards], wildcard_or_leaf_matches)
    can_complete = any(last in choice for choice in choices)
    fresh = judge(rest, timeline, plain_leaf_matches)
    if not any(index < last for index in fresh.matches):
        assert fresh.contributing[-1] == can_complete


def mark_cancelling(document: Any) -> Any:
    """Mark the cancelling leaves, which a wildcard does not match."""
    if is_leaf(document):
        return document
    inner = {
        key: [mark_cancelling(member) for member in document[key]] for key in ("seq", "all", "any") if key in document
    }
    inner |= {"of": mark_cancelling(document["of"])} if "of" in document else {}
    return {**document, **inner, **({"unless": mark(document["unless"])} if "unless" in document else {})}


def mark(document: Any) -> Any:
    if "any" in document and not isinstance(document, str):
        return {"any": [mark(leaf) for leaf in document["any"]]}
    return {"cancels": True, **({"event": document} if isinstance(document, str) else document)}


def wildcard_or_leaf_matches(leaf: Any, event: tuple[str, int, dict[str, Any]]) -> bool:
    if event[0] == "wildcard":
        return isinstance(leaf, str) or "cancels" not in leaf
    return plain_leaf_matches(leaf, event)


def length(document: Any) -> int:
    if is_leaf(document):
        return 1
    if "times" in document:
        return int(document["times"]) * length(document["of"])
    if "any" in document:
        return max(map(length, document["any"]))
    return sum(map(length, document["seq"] if "seq" in document else document["all"]))
