"""One account takes a share of a process while others use it, and all of it while it is alone."""

from __future__ import annotations

import pytest

from app.core.work_shares import BURST, SHARE, SHARE_OF_ALL, WorkShares
from tests.support.clocks import Clock

HEAVY, LIGHT, IDLE = 1, 2, 3
EVENT = 200_000
# Seconds of one step of the simulated time.
STEP = 0.01


@pytest.fixture
def clock() -> Clock:
    return Clock()


def work(shares: WorkShares, clock: Clock, accounts: dict[int, int], *, seconds: float) -> dict[int, int]:
    """What each account gets when it wants to use so many units, again and again, in each step."""
    taken = dict.fromkeys(accounts, 0)
    for _ in range(round(seconds / STEP)):
        clock.now += STEP
        for account_id, units in accounts.items():
            if shares.is_used_up(account_id):
                shares.spend(account_id, 0)
            else:
                shares.spend(account_id, units)
                taken[account_id] += units
    return taken


def test_an_account_that_is_alone_is_not_restricted(clock: Clock) -> None:
    assert work(WorkShares(clock), clock, {HEAVY: EVENT}, seconds=10) == {HEAVY: 1_000 * EVENT}


def test_an_account_gets_its_share_while_another_one_is_active(clock: Clock) -> None:
    taken = work(WorkShares(clock), clock, {HEAVY: EVENT, LIGHT: 100}, seconds=10)
    assert SHARE * 9 < taken[HEAVY] <= SHARE * 10 + BURST + EVENT
    assert taken[LIGHT] == 1_000 * 100


def test_many_heavy_accounts_get_a_limited_share_together(clock: Clock) -> None:
    heavy = dict.fromkeys(range(10, 20), EVENT)
    taken = work(WorkShares(clock), clock, {**heavy, LIGHT: 100}, seconds=20)
    bursts = 10 * (BURST + EVENT)
    assert sum(taken[number] for number in heavy) <= SHARE_OF_ALL * 20 + bursts
    assert min(taken[number] for number in heavy) > SHARE_OF_ALL * 20 / 10 * 0.7
    assert taken[LIGHT] == 2_000 * 100


def test_what_an_account_used_alone_is_forgotten_soon(clock: Clock) -> None:
    shares = WorkShares(clock)
    work(shares, clock, {HEAVY: 10 * EVENT}, seconds=60)
    shares.spend(LIGHT, 100)
    assert shares.is_used_up(HEAVY)
    clock.now += BURST / SHARE + 0.1
    shares.spend(LIGHT, 100)
    assert not shares.is_used_up(HEAVY)


def test_an_account_is_alone_a_second_after_the_others(clock: Clock) -> None:
    shares = WorkShares(clock)
    shares.spend(LIGHT, 100)
    for _ in range(20):
        shares.spend(HEAVY, EVENT)
    assert shares.is_used_up(HEAVY)
    assert not shares.is_used_up(LIGHT)
    clock.now += 1.01
    for _ in range(20):
        shares.spend(HEAVY, EVENT)
    assert not shares.is_used_up(HEAVY)


def test_postponed_work_comes_back_one_after_the_other(clock: Clock) -> None:
    shares = WorkShares(clock)
    shares.spend(LIGHT, 100)
    assert shares.postpone(HEAVY, EVENT) == 0
    for _ in range(10):
        shares.spend(HEAVY, EVENT)
    delays = [shares.postpone(HEAVY, EVENT) for _ in range(1_000)]
    assert delays[0] == pytest.approx(BURST / SHARE)
    assert delays[1] - delays[0] == pytest.approx(EVENT / SHARE)
    # Those for which there are units within half a minute, and then fifty a second.
    assert sum(delay <= 30 for delay in delays) == pytest.approx(30 * SHARE / EVENT, abs=5)
    assert delays[-1] - delays[-51] == pytest.approx(1)


def test_accounts_that_are_idle_again_are_forgotten(clock: Clock) -> None:
    shares = WorkShares(clock)
    work(shares, clock, {HEAVY: EVENT, LIGHT: EVENT}, seconds=1)
    clock.now += 10
    shares.spend(IDLE, 1)
    assert list(shares._left) == [IDLE]
