"""The matcher agrees with exhaustive search: on random patterns and timelines, and on every timeline of a small size
for patterns where a short cut would be tempting."""

import os
from itertools import product
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from app.workflows.matching.matcher import check
from app.workflows.matching.pattern_parser import TOO_MUCH
from tests.support.exhaustive_search import complete, is_leaf, judge, split
from tests.support.pattern_strategies import laid_out, patterns, scenes, short_timelines
from tests.support.timelines import Timeline, plain_filter, plain_fits, plain_pattern, watch

EXAMPLES = int(os.environ.get("PATTERN_EXAMPLES", "20000"))

search = settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
glance = settings(search, max_examples=EXAMPLES // 10)


@search
@given(scenes())
def test_the_matcher_agrees_with_exhaustive_search(scene: tuple[Any, Timeline]) -> None:
    assert_agreement(*scene)


TEMPTING = [
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


@pytest.mark.parametrize("document", TEMPTING, ids=str)
def test_the_matcher_agrees_on_every_timeline_of_five_events(document: Any) -> None:
    later = list(product(product("abc", [0, 1]), repeat=4))
    for first, events in product("abc", later):
        assert_agreement(document, laid_out([(first, 0, {}), *((name, pause, {}) for name, pause in events)]))


def assert_agreement(document: Any, timeline: Timeline) -> None:
    mistakes = check(document, plain_filter)
    if mistakes:
        assert mistakes == [("on", TOO_MUCH)]
        return
    pattern = plain_pattern(document)
    seen, verdict = watch(pattern, timeline), judge(document, timeline, plain_fits)
    assert seen.fires.keys() == verdict.fires.keys()
    assert seen.clock_fires.keys() == verdict.clock_fires.keys()
    assert seen.contributing == verdict.contributing
    assert seen.deadlines == verdict.deadlines
    for place, used in seen.fires.items():
        assert used in verdict.fires[place]
    for second, used in seen.clock_fires.items():
        assert used in verdict.clock_fires[second]


@glance
@given(patterns(3), short_timelines)
def test_contributing_means_that_jokers_could_finish_the_match(document: Any, timeline: Timeline) -> None:
    """The search's reading of rule 6, checked once more: add as many jokers as the pattern is long, at the same
    second, each of which fits every place and cancels nothing, and look for a whole match."""
    rest, _ = split(document)
    jokers: Timeline = [("joker", timeline[-1][1], {})] * (length(rest) - 1)
    if len(jokers) > 5:
        return
    last = len(timeline) - 1
    choices = complete(joking(rest), [*timeline, *jokers], fits_or_joker)
    could = any(last in choice for choice in choices)
    fresh = judge(rest, timeline, plain_fits)
    if not any(place < last for place in fresh.fires):
        assert fresh.contributing[-1] == could


def joking(document: Any) -> Any:
    """Marks the cancelling leaves, so that a joker can tell them from places."""
    if is_leaf(document):
        return document
    inner = {key: [joking(member) for member in document[key]] for key in ("seq", "all", "any") if key in document}
    inner |= {"of": joking(document["of"])} if "of" in document else {}
    return {**document, **inner, **({"unless": marked(document["unless"])} if "unless" in document else {})}


def marked(document: Any) -> Any:
    if "any" in document and not isinstance(document, str):
        return {"any": [marked(leaf) for leaf in document["any"]]}
    return {"cancels": True, **({"event": document} if isinstance(document, str) else document)}


def fits_or_joker(leaf: Any, event: tuple[str, int, dict[str, Any]]) -> bool:
    if event[0] == "joker":
        return isinstance(leaf, str) or "cancels" not in leaf
    return plain_fits(leaf, event)


def length(document: Any) -> int:
    if is_leaf(document):
        return 1
    if "times" in document:
        return int(document["times"]) * length(document["of"])
    if "any" in document:
        return max(map(length, document["any"]))
    return sum(map(length, document["seq"] if "seq" in document else document["all"]))
