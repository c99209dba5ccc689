"""Long work in pieces, with the other requests of the process in between.

However many requests have long work to do, one piece of it is done between two rounds of the event loop: other requests wait for
one piece, not for one of each.
"""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from gevent.lock import Semaphore

Argument = TypeVar("Argument")
Result = TypeVar("Result")

# Seconds that a piece takes, and that others have after it when they could use more.
_PIECE, _PAUSE = 0.001, 0.001
_CALLS_PER_CHECK = 50

# When a piece could begin last.
_since = 0.0
_one_piece: Semaphore | None = None


def pause_if_due() -> None:
    """Let other requests run when a millisecond has passed since they last could. Call this often: between the steps of long
    work, and before each part of work that consists of many short parts."""
    if time.perf_counter() - _since > _PIECE:
        pause()


def pause() -> None:
    """Let other requests run."""
    global _since
    if is_gevent_patched():
        with _piece_permit():
            yield_to_others()
    else:
        yield_to_others()
    _since = time.perf_counter()


def hide_from_collector() -> None:
    """Hide what is in memory from the garbage collector, which looks through everything in one piece. For after something
    large was made that stays; it is freed when nothing refers to it any more. Unreachable cycles that are older than a few
    thousand objects stay, so call it seldom."""
    gc.collect(1)
    gc.freeze()


def is_gevent_patched() -> bool:
    """Whether gevent has patched this process, so that its requests are greenlets and not threads."""
    monkey = sys.modules.get("gevent.monkey")
    return monkey is not None and bool(monkey.is_module_patched("socket"))


def yield_to_others(seconds: float = _PAUSE) -> None:
    """Let the other requests of this process run, for at most so many seconds. Takes no time when there are none.

    gevent.sleep(0) is not enough: it runs greenlets that are ready, and skips the event loop that makes others ready.
    """
    if not is_gevent_patched():
        time.sleep(0)
        return
    import gevent

    with gevent.Timeout(seconds, False):  # type: ignore[arg-type]
        gevent.idle()


def _piece_permit() -> Semaphore:
    """Held by the greenlet whose piece is next. Without it, all greenlets that pause would go on in the same round of the event
    loop, each with a piece."""
    global _one_piece
    if _one_piece is None:
        from gevent.lock import Semaphore

        _one_piece = Semaphore()
    return _one_piece


def in_pieces(function: Callable[[Argument], Result]) -> Callable[[Argument], Result]:
    """The function, for something that calls it very often: other requests run between calls."""
    calls = 0

    def call(argument: Argument) -> Result:
        nonlocal calls
        calls += 1
        if calls % _CALLS_PER_CHECK == 0:
            pause_if_due()
        return function(argument)

    return call
