"""Text for terminals: control characters are escaped, and rows fit the width."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from wcwidth import width

from app.cli.terminal_text import cut, format_relative, parse_time, row, visible, visible_json

NOW = datetime(2026, 11, 22, 12, 0, 0, 123_456, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ünïcode 😀", "plain ünïcode 😀"),
        ("\x1b[2Jgone", r"\x1b[2Jgone"),
        ("a\nb\tc\rd\x00e\x7f", r"a\nb\tc\rd\x00e\x7f"),
        ("\x9b31mred", r"\x9b31mred"),
        ("\u202egnirts", r"\u202egnirts"),
        ("\u2028line", r"\u2028line"),
        ("क्\u200dष 👩\u200d💻", "क्\u200dष 👩\u200d💻"),
        ("\ud800", r"\ud800"),
    ],
)
def test_terminal_control_characters_are_escaped(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_escaped_json_has_the_same_value() -> None:
    value = {"a\x7f": "\x9b31m\u202e\U000e0001😀"}
    shown = visible_json(json.dumps(value, ensure_ascii=False))
    assert json.loads(shown) == value
    assert shown == r'{"a\u007f": "\u009b31m\u202e\udb40\udc01😀"}'


@pytest.mark.parametrize(
    ("text", "columns", "shown"),
    [
        ("abc", 3, "abc"),
        ("abcd", 3, "ab…"),
        ("日本語", 6, "日本語"),
        ("日本語", 5, "日本…"),
        ("日本語", 4, "日…"),
        ("", 1, ""),
    ],
)
def test_text_is_cut_by_its_width_in_columns(text: str, columns: int, shown: str) -> None:
    assert cut(text, columns) == shown
    assert width(shown) <= columns


def test_a_row_is_complete_and_tab_separated_without_a_terminal() -> None:
    assert row(("a", "long" * 30, "rest"), (5, 5), None) == "a\t" + "long" * 30 + "\trest"


def test_a_row_is_aligned_and_cut_on_a_terminal() -> None:
    assert row(("a", "longer", "the rest of the line is here"), (5, 5), 34) == "a      long…  the rest of the lin…"


def test_a_narrow_terminal_still_shows_some_of_the_rest() -> None:
    assert row(("a", "b", "x" * 50), (20, 20), 30).endswith("x" * 15 + "…")


def test_a_relative_time_has_a_direction() -> None:
    assert format_relative(NOW + timedelta(hours=2), NOW) == "in 2h"
    assert format_relative(NOW - timedelta(minutes=3), NOW) == "3m ago"


@pytest.mark.parametrize(
    ("text", "timestamp"),
    [
        ("1h30m", NOW - timedelta(minutes=90)),
        ("2026-11-22T10:00Z", datetime(2026, 11, 22, 10, tzinfo=UTC)),
        ("2026-11-22T10:00+05:30", datetime(2026, 11, 22, 4, 30, tzinfo=UTC)),
        ("2026-11-21", datetime(2026, 11, 21, tzinfo=UTC)),
    ],
)
def test_a_time_is_a_past_duration_or_an_iso_time(text: str, timestamp: datetime) -> None:
    assert parse_time(text, NOW) == timestamp


@pytest.mark.parametrize("text", ["", "soon", "1x", "2026-13-01"])
def test_an_invalid_time_is_reported_with_examples(text: str) -> None:
    with pytest.raises(ValueError, match="is neither a duration back from now such as 90s"):
        parse_time(text, NOW)
