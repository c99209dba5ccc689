"""Look-ups of unknown names are bounded, and a name that exists is found by its second request."""

from __future__ import annotations

from collections.abc import Collection

import pytest

from app.core.errors import LookupLimit
from app.core.lookup_budget import BURST, RATE, LookupBudget
from tests.support.clocks import Clock


class Names:
    """What exists, and which names were looked for, by query."""

    def __init__(self, *existing: str) -> None:
        self.existing, self.queries = set(existing), list[set[str]]()

    def __call__(self, names: Collection[str]) -> set[str]:
        self.queries.append(set(names))
        return self.existing & set(names)


def spent(budget: LookupBudget, count: int) -> int:
    """How many of `count` different names are let through."""
    passed = 0
    for number in range(count):
        try:
            budget.spend(f"unknown {number}")
        except LookupLimit:
            continue
        passed += 1
    return passed


def test_a_burst_is_let_through_and_then_a_steady_rate() -> None:
    clock = Clock()
    budget = LookupBudget(Names(), clock)
    assert spent(budget, 1_000) == BURST
    clock.now += 0.5
    assert spent(budget, 1_000) == RATE / 2
    clock.now += 3_600
    assert spent(budget, 1_000) == BURST


def test_a_look_up_that_found_something_costs_nothing() -> None:
    budget = LookupBudget(Names(), Clock())
    for _ in range(1_000):
        budget.spend("known")
        budget.refund()
    assert spent(budget, 1_000) == BURST


def test_one_query_a_second_looks_for_all_names_that_were_refused() -> None:
    names, clock = Names(), Clock()
    budget = LookupBudget(names, clock)
    spent(budget, 500)
    assert names.queries == [{f"unknown {BURST:.0f}"}]
    clock.now += 0.01
    spent(budget, 500)
    assert len(names.queries) == 1
    clock.now += 1
    spent(budget, 500)
    assert names.queries[1:] == [{f"unknown {number}" for number in range(500)}]


def test_a_name_that_exists_is_let_through_when_it_comes_again() -> None:
    names, clock = Names("new"), Clock()
    budget = LookupBudget(names, clock)
    spent(budget, 500)
    with pytest.raises(LookupLimit):
        budget.spend("new")
    clock.now += 1
    spent(budget, 500)
    budget.spend("new")


def test_a_name_that_exists_is_let_through_once() -> None:
    names, clock = Names("new"), Clock()
    budget = LookupBudget(names, clock)
    spent(budget, int(BURST))
    budget.spend("new")
    with pytest.raises(LookupLimit):
        budget.spend("new")


def test_the_memory_is_bounded() -> None:
    names, clock = Names(), Clock()
    budget = LookupBudget(names, clock)
    spent(budget, 20_000)
    clock.now += 1
    spent(budget, 21)
    assert len(names.queries[-1]) == 5_000
