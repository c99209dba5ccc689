"""Semaphores for threads and for gevent's greenlets."""

from __future__ import annotations

import threading
from typing import Protocol

from app.core.pacing import is_gevent_patched


class Semaphore(Protocol):
    """What threads and greenlets have in common."""

    def acquire(self, blocking: bool = True, timeout: float | None = None) -> bool:
        """Wait for a permit, for at most `timeout` seconds; whether there was one."""

    def release(self) -> object:
        """Give a permit back."""


def make_semaphore(permits: int) -> Semaphore:
    """A semaphore with so many permits. Under gevent it is gevent's own: releasing one of the standard library gives up the
    processor."""
    if not is_gevent_patched():
        return threading.Semaphore(permits)
    from gevent.lock import Semaphore as OfGreenlets

    found: Semaphore = OfGreenlets(permits)
    return found
