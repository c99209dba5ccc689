"""The outcome of a status, and the pause before the next attempt."""

from __future__ import annotations

from datetime import UTC, datetime
from random import Random
from typing import Any

import pytest

from app.actions import retry_policy
from app.actions.retry_policy import classify_status, pause, retry_after

NOW = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)


class Fixed(Random):
    """A generator of one fixed number."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def random(self) -> float:
        return self.value


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_2xx_is_done(status: int) -> None:
    assert classify_status(status, {}, NOW).kind == "done"


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 599])
def test_transient_statuses_are_retried(status: int) -> None:
    assert classify_status(status, {}, NOW).kind == "retry"


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 409, 410, 413, 422, 451, 499])
def test_permanent_client_errors_fail(status: int) -> None:
    assert classify_status(status, {}, NOW).kind == "failed"


def test_a_redirect_fails_and_the_error_names_its_location() -> None:
    outcome = classify_status(307, {"Location": "https://example.com/new"}, NOW)
    assert (outcome.kind, outcome.error_class) == ("failed", "http_3xx")
    assert "https://example.com/new" in str(outcome.error)


def test_410_has_its_own_error() -> None:
    outcome = classify_status(410, {}, NOW)
    assert (outcome.error_class, outcome.error) == ("http_410", "answered 410: the target is gone for good")


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("120", 120.0),
        (" 7 ", 7.0),
        ("Sun, 22 Nov 2026 12:10:00 GMT", 600.0),
        ("Sunday, 22-Nov-26 12:10:00 GMT", 600.0),
        ("999999999999999999", 86_400.0),
        ("Sun, 22 Nov 2099 12:10:00 GMT", 86_400.0),
        ("0", None),
        ("-5", None),
        ("Sun, 22 Nov 2020 12:10:00 GMT", None),
        ("soon", None),
        ("", None),
        (None, None),
        ("1.5", None),
        ("²", None),
    ],
)
def test_retry_after_is_read_and_bounded(value: str | None, seconds: float | None) -> None:
    headers = {} if value is None else {"Retry-After": value}
    assert retry_after(headers, NOW) == seconds


def test_a_503_has_the_seconds_of_retry_after() -> None:
    assert classify_status(503, {"Retry-After": "30"}, NOW).retry_after == 30


def test_the_pause_doubles_up_to_the_maximum() -> None:
    policy = {"attempts": 20, "first": "5s", "max": "1m"}
    assert [pause(policy, attempt, Fixed(1.0)) for attempt in range(1, 7)] == [5, 10, 20, 40, 60, 60]


def test_jitter_removes_up_to_half_of_the_pause() -> None:
    assert pause({}, 1, Fixed(0.0)) == 2.5
    assert pause({}, 1, Fixed(0.5)) == 3.75


def test_the_default_is_six_attempts_from_five_seconds_to_an_hour() -> None:
    assert retry_policy.attempts({}) == 6
    assert pause({}, 1, Fixed(1.0)) == 5
    assert pause({}, 50, Fixed(1.0)) == 3_600


@pytest.mark.parametrize("policy", [{}, {"attempts": 1}, {"first": "1s", "max": "1s"}, {"max": "2d"}])
def test_a_valid_policy_has_no_errors(policy: dict[str, Any]) -> None:
    assert retry_policy.check(policy, "retry") == []


@pytest.mark.parametrize(
    ("policy", "path"),
    [
        ("often", "retry"),
        ({"attempts": 0}, "retry.attempts"),
        ({"attempts": 101}, "retry.attempts"),
        ({"attempts": True}, "retry.attempts"),
        ({"attempts": "6"}, "retry.attempts"),
        ({"first": "5"}, "retry.first"),
        ({"first": 5}, "retry.first"),
        ({"max": "0s"}, "retry.max"),
        ({"first": "2h"}, "retry.first"),
        ({"max": "1s"}, "retry.max"),
        ({"tries": 3}, "retry.tries"),
    ],
)
def test_an_error_in_a_policy_has_its_path(policy: Any, path: str) -> None:
    assert [found_path for found_path, _ in retry_policy.check(policy, "retry")] == [path]
