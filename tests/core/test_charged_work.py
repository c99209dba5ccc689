"""Work whose pieces are charged: it takes what a share allows, and slows down beyond it."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import gevent
import pytest

from app.core import pacing
from app.core.concurrency_limit import ConcurrencyLimit
from app.core.work_shares import BURST, SHARE, UNITS_PER_MILLISECOND, WorkShares
from tests.support.clocks import Clock

BUSY, OTHER, IDLE = 1, 2, 3


class Process:
    """Its time: pieces of work take a millisecond each, and sleeping takes what is slept."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.slept: list[float] = []
        self.worked = 0.0

    def end_piece(self) -> float:
        self.clock.now += 0.001
        self.worked += 0.001
        return 0.001

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.clock.now += seconds


@pytest.fixture
def process(monkeypatch: pytest.MonkeyPatch) -> Iterator[Process]:
    process = Process()
    monkeypatch.setattr(pacing, "_end_piece", process.end_piece)
    monkeypatch.setattr(pacing.time, "sleep", process.sleep)
    monkeypatch.setattr(pacing, "yield_to_others", lambda *seconds: None)
    return process


def work_for(process: Process, seconds: float, others: list[tuple[WorkShares, int]]) -> float:
    """Seconds of the processor that work of the account BUSY gets within so many, while others spend, too."""
    events = WorkShares(process.clock)
    shares = WorkShares(process.clock, share_of_all=SHARE, tick=0.005, other_work=events)
    limit = ConcurrencyLimit(1, 1.0, shares=shares)
    until = process.clock.now + seconds
    with limit.acquire(BUSY):
        while process.clock.now < until:
            for account_id, is_event in others:
                (events if is_event else shares).spend(account_id, 1)
            pacing.pause()
    return process.worked


def part_of(seconds: float) -> float:
    """What the share gives within so many seconds, with what was in the bucket."""
    return (seconds * SHARE + BURST) / (1000 * UNITS_PER_MILLISECOND)


def test_work_gets_all_of_the_process_while_nobody_else_uses_it(process: Process) -> None:
    assert work_for(process, 10, []) == pytest.approx(10, abs=0.01)
    assert process.slept == []


def test_work_gets_its_share_while_events_of_another_account_arrive(process: Process) -> None:
    assert work_for(process, 10, [(OTHER, True)]) == pytest.approx(part_of(10), rel=0.02)
    # About one piece is done between two waits.
    assert max(process.slept) < 0.01


def test_events_of_the_account_itself_do_not_slow_its_work(process: Process) -> None:
    assert work_for(process, 10, [(BUSY, True)]) == pytest.approx(10, abs=0.01)


def test_all_accounts_with_such_work_together_get_one_share(process: Process) -> None:
    events = WorkShares(process.clock)
    shares = WorkShares(process.clock, share_of_all=SHARE, tick=0.005, other_work=events)
    due = dict.fromkeys((BUSY, OTHER, IDLE), process.clock.now)
    until, worked = process.clock.now + 20, 0.0
    while process.clock.now < until:
        process.clock.now += 0.001
        events.spend(9, 0)
        for account_id, at in due.items():
            if at <= process.clock.now:
                due[account_id] = process.clock.now + shares.pay(account_id, 0.001)
                worked += 0.001
    assert worked <= part_of(20) + 0.4
    assert worked >= 0.9 * part_of(20)


def test_an_account_that_uses_little_is_not_slowed_by_others(process: Process) -> None:
    shares = WorkShares(process.clock, share_of_all=SHARE, tick=0.005)
    limit = ConcurrencyLimit(1, 1.0, shares=shares)
    shares.pay(OTHER, 10.0)
    with limit.acquire(BUSY):
        for _ in range(20):
            pacing.pause()
    assert process.slept == []


def test_a_request_of_an_account_that_has_used_too_much_waits_first(process: Process) -> None:
    shares = WorkShares(process.clock, share_of_all=SHARE, tick=0.005)
    limit = ConcurrencyLimit(1, 1.0, shares=shares)
    shares.spend(OTHER, 1)
    shares.spend(BUSY, 2 * BURST)
    with limit.acquire(BUSY):
        assert process.slept == [pytest.approx(BURST / SHARE)]


def test_work_without_pauses_is_charged_when_it_ends(process: Process) -> None:
    shares = WorkShares(process.clock)
    with ConcurrencyLimit(1, 1.0, shares=shares).acquire(BUSY):
        pass
    assert shares._left[BUSY] == BURST - UNITS_PER_MILLISECOND


def test_work_outside_of_a_limit_with_shares_is_not_charged(process: Process) -> None:
    with ConcurrencyLimit(1, 1.0).acquire(BUSY):
        pacing.pause()
    assert process.worked == 0


def test_a_piece_is_neither_waiting_nor_what_other_greenlets_did_in_earlier_rounds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seconds = {"processor": 5.0, "clock": 100.0, "round": 100.0}
    loop = SimpleNamespace(now=lambda: seconds["round"])
    monkeypatch.setattr(gevent, "get_hub", lambda: SimpleNamespace(loop=loop))
    monkeypatch.setattr(pacing, "is_gevent_patched", lambda: True)
    times = SimpleNamespace(time=lambda: seconds["clock"], thread_time=lambda: seconds["processor"])
    monkeypatch.setattr(pacing, "time", times)
    pacing._end_piece()
    # In this round it used the processor for 2 ms, and waited for it.
    seconds.update(processor=5.002, clock=100.05)
    assert pacing._end_piece() == pytest.approx(0.002)
    # Others used it for 80 ms in earlier rounds, and it for 3 ms in this one.
    seconds.update(processor=5.085, clock=100.203, round=100.2)
    assert pacing._end_piece() == pytest.approx(0.003)
    # The clock was set back.
    seconds.update(processor=5.09, clock=50.0)
    assert pacing._end_piece() == 0
