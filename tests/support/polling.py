"""Waiting for what another process does."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def until(look: Callable[[], T], good: Callable[[T], object] = bool, *, timeout: float = 60.0) -> T:
    """What `look` returns as soon as it is good. Fails after `timeout` seconds, which only what does not come needs."""
    deadline = time.monotonic() + timeout
    while not good(seen := look()):
        assert time.monotonic() < deadline, seen
        time.sleep(0.05)
    return seen
