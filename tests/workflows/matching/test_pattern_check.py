"""Every mistake in a pattern document is found with its path. The limits hold."""

from datetime import timedelta
from typing import Any

import pytest

from app.core.durations import read_duration
from app.workflows.matching.pattern_parser import MAX_REFERENCES, TOO_LARGE, PatternError, check, compile_pattern
from tests.support.timelines import plain_filter, plain_pattern

A_NONE = {"none": "a", "for": "1h"}


def find_mistakes(document: Any) -> list[tuple[str, str]]:
    return check(document, plain_filter)


@pytest.mark.parametrize(
    ("document", "path"),
    [
        (None, "on"),
        (7, "on"),
        ([], "on"),
        ({}, "on"),
        ("", "on.event"),
        ({"event": 1}, "on.event"),
        ({"event": "a", "where": 1}, "on.where"),
        ({"event": "a", "where": None}, "on.where"),
        ({"event": "a", "where": "nonsense"}, "on.where"),
        ({"event": "a", "if": "b"}, "on.if"),
        ({"seq": ["a"], "all": ["b"]}, "on"),
        ({"seq": []}, "on.seq"),
        ({"all": []}, "on.all"),
        ({"any": []}, "on.any"),
        ({"any": "a"}, "on.any"),
        ({"seq": ["a", {"times": 0, "of": "b"}]}, "on.seq[1].times"),
        ({"times": 1001, "of": "a"}, "on.times"),
        ({"times": True, "of": "a"}, "on.times"),
        ({"times": 2.0, "of": "a"}, "on.times"),
        ({"times": "2", "of": "a"}, "on.times"),
        ({"times": 2}, "on.of"),
        ({"times": 2, "of": {"times": 2}}, "on.of.of"),
        ({"seq": ["a"], "within": "soon"}, "on.within"),
        ({"seq": ["a"], "within": 30}, "on.within"),
        ({"seq": ["a"], "unless": {"seq": ["b"]}}, "on.unless"),
        ({"seq": ["a"], "unless": {"event": "b", "within": "1h"}}, "on.unless.within"),
        ({"seq": ["a"], "unless": {"any": ["b", {"any": ["c"]}]}}, "on.unless.any[1]"),
        ({"seq": ["a"], "unless": {"any": []}}, "on.unless.any"),
        ({"event": "a", "unless": {"times": 1, "of": "b"}}, "on.unless"),
        (A_NONE, "on"),
        ({"any": ["a", A_NONE]}, "on.any[1]"),
        ({"seq": [A_NONE, "a"]}, "on.seq[0]"),
        ({"seq": [A_NONE]}, "on.seq[0]"),
        ({"seq": ["a", {"seq": ["b", A_NONE]}]}, "on.seq[1].seq[1]"),
        ({"times": 2, "of": {"seq": ["a", A_NONE]}}, "on.of.seq[1]"),
        ({"seq": ["a", {"none": "b"}]}, "on.seq[1].for"),
        ({"seq": ["a", {"none": "b", "for": "never"}]}, "on.seq[1].for"),
        ({"seq": ["a", {"none": {"seq": ["b"]}, "for": "1h"}]}, "on.seq[1].none"),
        ({"seq": ["a", {**A_NONE, "within": "1h"}]}, "on.seq[1].within"),
        ({"seq": ["a", {**A_NONE, "unless": "b"}]}, "on.seq[1].unless"),
    ],
    ids=str,
)
def test_a_mistake_is_found_at_its_path(document: Any, path: str) -> None:
    assert [found for found, _ in find_mistakes(document)] == [path]


def test_all_mistakes_are_found_at_once() -> None:
    document = {
        "seq": [{"times": 0, "of": {"event": ""}}, {"any": []}, A_NONE, "a"],
        "within": "x",
        "unless": 1,
        "y": 2,
    }
    assert sorted(path for path, _ in find_mistakes(document)) == [
        "on.seq[0].of.event",
        "on.seq[0].times",
        "on.seq[1].any",
        "on.seq[2]",
        "on.unless",
        "on.within",
        "on.y",
    ]


def test_the_error_of_an_invalid_document_lists_its_mistakes() -> None:
    with pytest.raises(PatternError, match=r"on\.seq\[1\]\.times: expected a whole number from 1 to 1000"):
        plain_pattern({"seq": ["a", {"times": 0, "of": "b"}]})


def test_paths_begin_with_the_path_that_the_caller_passes() -> None:
    assert [path for path, _ in check({"seq": []}, plain_filter, path="exit_on")] == ["exit_on.seq"]


def test_the_message_of_an_invalid_filter_is_the_one_of_its_compiler() -> None:
    def refuse(text: str) -> Any:
        raise ValueError(f"{text} makes no sense")

    with pytest.raises(PatternError, match=r"on\.where: 1 \+ makes no sense"):
        compile_pattern({"event": "a", "where": "1 +"}, refuse)


@pytest.mark.parametrize(
    "document",
    [
        {"all": [{"times": 1000, "of": f"event {number}"} for number in range(30)]},
        {"all": [{"times": 40, "of": "a"}, {"times": 60, "of": {"event": "a", "where": "x == 1"}}]},
        {"all": ["*"] * 30},
        {"times": 1000, "of": {"times": 1000, "of": "a"}},
    ],
    ids=["thirty thousands", "two counts of one event", "thirty of anything", "a million"],
)
def test_a_pattern_that_may_remember_too_many_events_is_refused(document: Any) -> None:
    assert find_mistakes(document) == [("on", TOO_LARGE)]


@pytest.mark.parametrize(
    "document",
    [
        {"times": 1000, "of": "a", "within": "1d"},
        {"all": [{"times": 300, "of": name} for name in "abcde"], "within": "7d"},
        {"times": 100, "of": {"seq": ["a", "b"], "within": "1m"}, "within": "1d"},
        {"seq": [{"times": 100, "of": "a"}, {"times": 100, "of": "b"}], "within": "1d"},
        {"all": [{"event": "a", "where": f"x == {value}"} for value in range(8)], "within": "1d"},
        {"all": [{"times": 4, "of": {"event": "a", "where": f"x == {value}"}, "within": "1h"} for value in range(3)]},
    ],
    ids=[
        "a thousand",
        "five counts",
        "a hundred pairs",
        "counts in a row",
        "eight filters",
        "three counts of one event",
    ],
)
def test_a_realistic_pattern_is_not_refused(document: Any) -> None:
    assert find_mistakes(document) == []
    assert plain_pattern(document).bound.references <= MAX_REFERENCES


def test_a_pattern_nested_too_deeply_is_refused() -> None:
    document: Any = "a"
    for _ in range(3000):
        document = {"seq": [document]}
    [(path, message)] = find_mistakes(document)
    assert path == "on" + ".seq[0]" * 20
    assert message == "nested deeper than 20"


def test_a_pattern_of_too_many_events_has_one_mistake() -> None:
    assert [path for path, _ in find_mistakes({"any": ["a"] * 300})] == ["on.any[200]"]


@pytest.mark.parametrize(
    ("text", "length"),
    [
        ("90s", timedelta(seconds=90)),
        ("30m", timedelta(minutes=30)),
        ("1h30m", timedelta(minutes=90)),
        ("7d", timedelta(days=7)),
        ("2w", timedelta(days=14)),
    ],
)
def test_a_duration_is_read(text: str, length: timedelta) -> None:
    assert read_duration(text) == length


@pytest.mark.parametrize(
    "text", ["", "0s", "5", "m", "1.5h", "-1h", "30m1h", "1h 30m", "1H", "٣s", "99999w", 5, None, True]
)
def test_an_invalid_duration_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="longer than ten years" if text == "99999w" else "duration"):
        read_duration(text)
