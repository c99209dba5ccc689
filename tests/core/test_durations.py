"""Durations are written as workflows write them."""

from __future__ import annotations

from datetime import timedelta

import pytest

from app.core.durations import format_duration, read_duration, write_duration


@pytest.mark.parametrize(
    ("seconds", "formatted"),
    [
        (0, "0ms"),
        (-3, "0ms"),
        (0.0123, "12ms"),
        (0.9999, "1s"),
        (3.21, "3.2s"),
        (4, "4s"),
        (9.97, "10s"),
        (59, "59s"),
        (3_725, "1h2m"),
        (100_000, "1d3h"),
        (1_209_600, "2w"),
    ],
)
def test_a_duration_is_formatted_in_its_two_largest_units(seconds: float, formatted: str) -> None:
    assert format_duration(timedelta(seconds=seconds)) == formatted


@pytest.mark.parametrize("text", ["1d", "1h30m", "2w3d", "90s", "1w2d3h4m5s"])
def test_a_written_duration_reads_as_the_same(text: str) -> None:
    duration = read_duration(text)
    assert read_duration(write_duration(duration.total_seconds())) == duration
