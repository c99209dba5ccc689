"""Concurrent callers' questions are answered together: who finds nobody asking asks for all that wait.

Comes in: one item per caller. Goes out: the answer to it. While one portion is being answered, the items of further callers
gather and make the next one: the busier it is the larger the portions, and who comes alone waits for nobody. Works over
threads and, where gevent has patched them, over greenlets: then all that has arrived in the process's sockets by now comes
along.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from app.core.errors import Unavailable

Item = TypeVar("Item")
Answer = TypeVar("Answer")
# Seconds for which somebody who asks for all lets others catch up, should there be no end of them.
_MOST_LINGERING = 0.005


def is_gevent_patched() -> bool:
    """Whether gevent has patched this process, so that who waits is a greenlet and not a thread."""
    monkey = sys.modules.get("gevent.monkey")
    return monkey is not None and bool(monkey.is_module_patched("socket"))


def _let_others_catch_up() -> None:
    """Let those that are on their way here come along. Takes no time where there are none."""
    if not is_gevent_patched():
        time.sleep(0)
        return
    import gevent

    with gevent.Timeout(_MOST_LINGERING, False):  # type: ignore[arg-type]
        gevent.idle()


class _Caller(Generic[Item, Answer]):
    """One who waits: `turn` is free when it has its answer, or is to answer for others."""

    __slots__ = ("answers", "item", "trouble", "turn")

    def __init__(self, item: Item) -> None:
        self.item = item
        self.answers: list[Answer] = []
        self.trouble: BaseException | None = None
        self.turn = threading.Lock()
        self.turn.acquire()


class Gathering(Generic[Item, Answer]):
    """`answer` takes a portion of items, in the order in which they came, and gives as many answers in that order. What it
    raises is raised to all whose items were in the portion. At most `portion` items at a time."""

    def __init__(self, answer: Callable[[Sequence[Item]], Sequence[Answer]], *, portion: int) -> None:
        self._answer = answer
        self._portion = portion
        self._lock = threading.Lock()
        self._callers: list[_Caller[Item, Answer]] = []
        self._busy = False

    def ask(self, item: Item) -> Answer:
        """The answer to `item`; raises what the answering raises."""
        own: _Caller[Item, Answer] = _Caller(item)
        with self._lock:
            waits, self._busy = self._busy, True
            if waits:
                self._callers.append(own)
        try:
            if waits:
                own.turn.acquire()
            else:
                _let_others_catch_up()
        except BaseException:
            # Stopped while it waited: whoever waits behind it is not to wait for ever.
            self._leave(own, its_turn=not waits)
            raise
        if not own.answers and own.trouble is None:
            self._ask_for_all(own)
        if own.trouble is not None:
            raise own.trouble
        return own.answers[0]

    def _leave(self, own: _Caller[Item, Answer], *, its_turn: bool) -> None:
        """One who waited is gone; if it was to ask for all, the next one does."""
        with self._lock:
            if own in self._callers:
                self._callers.remove(own)
                return
        has_answer = bool(own.answers) or own.trouble is not None
        if its_turn or (own.turn.acquire(blocking=False) and not has_answer):
            self._hand_on()

    def _hand_on(self) -> None:
        """Let the first of those who wait ask for all; with nobody there, whoever comes next."""
        with self._lock:
            successor = self._callers.pop(0) if self._callers else None
            self._busy = successor is not None
        if successor is not None:
            successor.turn.release()

    def _ask_for_all(self, first: _Caller[Item, Answer]) -> None:
        with self._lock:
            portion = [first, *self._callers[: self._portion - 1]]
            del self._callers[: self._portion - 1]
        try:
            answers = self._answer([caller.item for caller in portion])
            for caller, answer in zip(portion, answers, strict=True):
                caller.answers.append(answer)
        except BaseException as trouble:
            # Whoever stops this caller (a signal) has not stopped the others.
            told = (
                trouble if isinstance(trouble, Exception) else Unavailable("the request that asked for all was stopped")
            )
            for caller in portion:
                caller.answers.clear()
                caller.trouble = told
            first.trouble = trouble
        finally:
            self._hand_on()
            for caller in portion[1:]:
                caller.turn.release()
