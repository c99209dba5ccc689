"""An account has a limited number of turns at the same time."""

from __future__ import annotations

import pytest

from app.core.account_turns import AccountTurns
from app.core.errors import Problem


def test_an_account_waits_for_its_own_turns_only() -> None:
    turns = AccountTurns(2, 0.01)
    with turns.turn(1), turns.turn(1):
        with turns.turn(2):
            pass
        with pytest.raises(Problem, match="at the same time"), turns.turn(1):
            pass


def test_all_accounts_together_have_a_limited_number_of_turns() -> None:
    turns = AccountTurns(2, 0.01, together=3)
    with turns.turn(1), turns.turn(1), turns.turn(2):
        with pytest.raises(Problem, match="of this kind"), turns.turn(3):
            pass
        assert sorted(turns._accounts) == [1, 2]
    with turns.turn(3):
        pass


def test_a_turn_ends_with_an_error() -> None:
    turns = AccountTurns(1, 0.01)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), turns.turn(1):
            raise ZeroDivisionError


def test_an_account_without_turns_is_forgotten() -> None:
    turns = AccountTurns(1, 0.01)
    with turns.turn(1), pytest.raises(Problem), turns.turn(1):
        pass
    assert turns._accounts == {}
