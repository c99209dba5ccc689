"""Long work in pieces, with the other requests of the process in between.

However many requests have long work to do, one piece of it is done between two rounds of the event loop: other requests wait for
one piece, not for one of each.
"""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from gevent.lock import Semaphore

Argument = TypeVar("Argument")
Result = TypeVar("Result")

# Seconds that a piece takes, and that others have after it when they could use more.
_PIECE, _PAUSE = 0.001, 0.001
_CALLS_PER_CHECK = 50

# When a piece could begin last; and the CPU time until which pieces were charged.
_since, _charged_until = 0.0, 0.0
_one_piece: Semaphore | None = None
# Takes the seconds of a piece out of a share; for how many seconds the next one has to wait.
Charge = Callable[[float], float]
_charge: ContextVar[Charge | None] = ContextVar("charge", default=None)


def pause_if_due() -> None:
    """Let other requests run when a millisecond has passed since they last could. Call this often: between the steps of long
    work, and before each part of work that consists of many short parts."""
    if time.perf_counter() - _since > _PIECE:
        pause()


def pause() -> None:
    """Let other requests run; where pieces are charged, for as long as the share needs."""
    global _since
    if seconds := charge_piece():
        time.sleep(seconds)
    if is_gevent_patched():
        with _piece_permit():
            yield_to_others()
    else:
        yield_to_others()
    _since = time.perf_counter()


def pause_if_charged() -> None:
    """Let other requests run if it is time, where pieces are charged. For work that waits often and takes little in between."""
    if _charge.get() is not None:
        pause_if_due()


@contextmanager
def charged(charge: Charge) -> Iterator[None]:
    """Take what the block does out of a share, piece by piece, and do it as slowly as the share allows: `charge` is called with
    the seconds that each piece took, and its result is how many seconds the next one waits. Counts what greenlets do; threads,
    as those of commands, are not charged."""
    token = _charge.set(charge)
    try:
        if seconds := charge(0.0):
            time.sleep(seconds)
        yield
    finally:
        charge_piece()
        _charge.reset(token)


def charge_piece() -> float:
    """Charge what this greenlet has done since others could run last; for how many seconds the next piece has to wait. Call this
    before others can run."""
    charge = _charge.get()
    return 0.0 if charge is None else charge(_end_piece())


def _end_piece() -> float:
    """The CPU time of this greenlet's piece, which ends now. It began at the earliest when the event loop's current round did."""
    global _charged_until
    if not is_gevent_patched():
        return 0.0
    import gevent

    round_seconds = time.time() - gevent.get_hub().loop.now()
    since, _charged_until = _charged_until, time.thread_time()
    return max(0.0, min(round_seconds, _charged_until - since))


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
