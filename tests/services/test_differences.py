"""The difference between two texts."""

from __future__ import annotations

import pytest

from app.services.differences import MAX_LINES, MAX_ROWS, Row, compare


def test_changed_lines_have_their_numbers_in_both_texts() -> None:
    rows = compare("a\nb\nc\n", "a\nB\nc\nd\n")
    assert rows == [
        Row(1, 1, "", "a"),
        Row(2, None, "-", "b"),
        Row(None, 2, "+", "B"),
        Row(3, 3, "", "c"),
        Row(None, 4, "+", "d"),
    ]


def test_equal_lines_far_from_a_change_are_left_out() -> None:
    old = [str(number) for number in range(30)]
    rows = compare("\n".join(old), "\n".join(["x", *old[1:-1], "y"]))
    assert rows is not None
    assert [row.text for row in rows if row.sign] == ["0", "x", "29", "y"]
    assert [row.text for row in rows].count("") == 1
    assert len(rows) == 11


def test_equal_texts_have_no_rows() -> None:
    assert compare("a\n", "a") == []


def test_long_texts_are_cut_and_longer_ones_are_not_compared() -> None:
    one, other = "\n".join(["- a"] * (MAX_LINES // 2)), "\n".join(["- b"] * (MAX_LINES // 2))
    assert len(compare(one, other) or ()) == MAX_ROWS
    assert compare(one + "\nmore", other) is None


@pytest.mark.parametrize("kinds", [5, 50, 1_970])
def test_texts_with_a_change_after_each_of_many_lines_are_not_compared(kinds: int) -> None:
    old = [f"#{number % kinds}" for number in range(1_970)]
    new = [line for number, line in enumerate(old) for line in (line, f"- {number}")]
    rows = compare("\n".join(old), "\n".join(new))
    assert rows is None or kinds == 5  # Lines that are so frequent are left out.


def test_a_long_text_with_some_changes_is_compared() -> None:
    old = [f"- line {number % 1_000}" for number in range(2_000)]
    new = [f"{line}!" if number % 100 == 50 else line for number, line in enumerate(old)]
    rows = compare("\n".join(old), "\n".join(new))
    assert rows is not None
    assert [row.sign for row in rows].count("+") == [row.sign for row in rows].count("-") == 20
