"""A list reads batches of bounded size, and says how to continue."""

from __future__ import annotations

import pytest

from app.cli.lists import Page, json_line, print_list

ROWS = list(range(1, 1_001))


def _print(page: Page) -> list[tuple[str | None, int]]:
    """Print a page of the numbers; returns what was asked of the database."""
    queries: list[tuple[str | None, int]] = []

    def find(after: str | None, count: int) -> list[int]:
        queries.append((after, count))
        return [row for row in ROWS if row > int(after or 0)][:count]

    print_list(
        page, find, cursor=lambda row: row, cells=lambda row: (row, "a"), widths=(), as_json=lambda row: str(row)
    )
    return queries


def test_a_long_list_is_read_in_batches(capsys: pytest.CaptureFixture[str]) -> None:
    queries = _print(Page(limit=10_000, after=None, as_json=False))
    assert {count for _, count in queries} == {101}
    assert [after for after, _ in queries] == [None, *(str(number) for number in range(100, 1_000, 100))]
    output = capsys.readouterr()
    assert output.out.splitlines() == [f"{number}\ta" for number in ROWS]
    assert output.err == ""


@pytest.mark.parametrize("limit", [1, 99, 100, 101, 250, 999])
def test_a_page_ends_with_how_to_continue(limit: int, capsys: pytest.CaptureFixture[str]) -> None:
    _print(Page(limit, None, as_json=True))
    output = capsys.readouterr()
    assert output.out.splitlines() == [str(number) for number in range(1, limit + 1)]
    assert output.err == f"There are more; continue with --after {limit}\n"
    _print(Page(10_000, str(limit), as_json=True))
    assert capsys.readouterr().out.splitlines() == [str(number) for number in range(limit + 1, 1_001)]


@pytest.mark.parametrize("limit", [1_000, 1_001])
def test_the_last_page_says_nothing(limit: int, capsys: pytest.CaptureFixture[str]) -> None:
    _print(Page(limit, None, as_json=True))
    assert capsys.readouterr().err == ""


def test_a_cursor_is_quoted_for_the_shell(capsys: pytest.CaptureFixture[str]) -> None:
    print_list(
        Page(1, None, as_json=True),
        lambda after, count: ["a b", "c"],
        cursor=lambda row: row,
        cells=lambda row: (row,),
        widths=(),
        as_json=json_line_of,
    )
    assert capsys.readouterr().err == "There are more; continue with --after 'a b'\n"


def json_line_of(row: str) -> str:
    return json_line({"name": row})
