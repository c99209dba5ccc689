"""An account does a limited number of operations at the same time."""

from __future__ import annotations

import pytest

from app.core.concurrency_limit import ConcurrencyLimit
from app.core.errors import Problem


def test_an_account_waits_for_its_own_operations_only() -> None:
    limit = ConcurrencyLimit(2, 0.01)
    with limit.acquire(1), limit.acquire(1):
        with limit.acquire(2):
            pass
        with pytest.raises(Problem, match="at the same time"), limit.acquire(1):
            pass


def test_all_accounts_together_have_a_limited_number_of_permits() -> None:
    limit = ConcurrencyLimit(2, 0.01, together=3)
    with limit.acquire(1), limit.acquire(1), limit.acquire(2):
        with pytest.raises(Problem, match="of this kind"), limit.acquire(3):
            pass
        assert sorted(limit._accounts) == [1, 2]
    with limit.acquire(3):
        pass


def test_a_permit_is_released_after_an_error() -> None:
    limit = ConcurrencyLimit(1, 0.01)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), limit.acquire(1):
            raise ZeroDivisionError


def test_an_account_without_operations_is_forgotten() -> None:
    limit = ConcurrencyLimit(1, 0.01)
    with limit.acquire(1), pytest.raises(Problem), limit.acquire(1):
        pass
    assert limit._accounts == {}
