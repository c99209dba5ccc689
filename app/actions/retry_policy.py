"""Which failures are retried, and when: an HTTP status becomes an outcome, a policy the pause before the next attempt.

A policy is what an author wrote under `retry`: any of `attempts`, `first` and `max`.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from random import Random
from typing import Any

from app.core.durations import read_duration
from app.core.models import Outcome
from app.core.retry_after import parse_retry_after

DEFAULTS: Mapping[str, Any] = {"attempts": 6, "first": "5s", "max": "1h"}
MAX_ATTEMPTS = 100
MAX_RETRY_AFTER = 86_400.0
# Client errors (4xx) that may be gone at the next attempt.
TRANSIENT_STATUSES = frozenset((408, 425, 429))


def check(policy: Any, path: str) -> list[tuple[str, str]]:
    """All errors in a policy, as (path, message)."""
    if not isinstance(policy, Mapping):
        return [(path, "must be an object such as {attempts: 6, first: 5s, max: 1h}")]
    errors = [
        (f"{path}.{name}", f"is unknown; a retry has {', '.join(DEFAULTS)}") for name in policy if name not in DEFAULTS
    ]
    count = policy.get("attempts", DEFAULTS["attempts"])
    if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= MAX_ATTEMPTS:
        errors.append((f"{path}.attempts", f"must be a whole number from 1 to {MAX_ATTEMPTS}"))
    durations = {}
    for name in ("first", "max"):
        try:
            durations[name] = read_duration(policy.get(name, DEFAULTS[name]))
        except ValueError as exc:
            errors.append((f"{path}.{name}", str(exc)))
    if len(durations) == 2 and durations["first"] > durations["max"]:
        errors.append((f"{path}.first" if "first" in policy else f"{path}.max", "first is longer than max"))
    return errors


def attempts(policy: Mapping[str, Any]) -> int:
    """The number of attempts that a checked policy allows."""
    return int(policy.get("attempts", DEFAULTS["attempts"]))


def pause(policy: Mapping[str, Any], attempt: int, rng: Random) -> float:
    """Seconds to wait after attempt number `attempt` (from 1) has failed.

    The full pause is `first`, doubled with each further attempt, and at most `max`. The result is random, between half of it
    and all of it, so that runs that failed together do not come back together.
    """
    first = read_duration(policy.get("first", DEFAULTS["first"])).total_seconds()
    maximum = read_duration(policy.get("max", DEFAULTS["max"])).total_seconds()
    full = min(maximum, first * 2 ** (attempt - 1))
    return float(full * (0.5 + rng.random() / 2))


def classify_status(status: int, headers: Mapping[str, str], now: datetime) -> Outcome:
    """The outcome of an HTTP response by its status: done, retry, or failed."""
    if 200 <= status < 300:
        return Outcome("done")
    if 300 <= status < 400:
        location = headers.get("Location")
        target = f" to {location[:300]}" if location else ""
        return _failed("http_3xx", f"answered {status}: a redirect{target}, which is not followed")
    if status == 410:
        return _failed("http_410", "answered 410: the target is gone for good")
    if status in TRANSIENT_STATUSES or status >= 500:
        kind = "http_5xx" if status >= 500 else f"http_{status}"
        return Outcome(
            "retry",
            error=f"answered {status}",
            error_class=kind,
            retry_after=retry_after(headers, now),
        )
    return _failed(f"http_{status // 100}xx", f"answered {status}")


def _failed(error_class: str, error: str) -> Outcome:
    return Outcome("failed", error=error, error_class=error_class)


def retry_after(headers: Mapping[str, str], now: datetime) -> float | None:
    """The seconds to wait by the header Retry-After, at most a day; None when the header asks for no wait.

    Then the policy's pause holds, so that a target that answers `Retry-After: 0` does not get all attempts at once.
    """
    seconds = parse_retry_after(headers.get("Retry-After"), now)
    return min(seconds, MAX_RETRY_AFTER) if seconds else None
