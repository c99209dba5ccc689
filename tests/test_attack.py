"""The frame of `make attack`: starts the product, measures a victim, attacks, and prints one table."""

from __future__ import annotations

import pytest

from bench.attack import __main__ as command
from bench.attack.stage import PARTS, Attack, Row, attacked, steady_p99, table


def _row(*, p99: tuple[float, float] = (5.0, 55.0), restarts: int = 0, failures: tuple[str, ...] = ()) -> Row:
    attack = Attack(command.find_attack("unknown_keys").run, sends="much", bound="little")
    return Row("much", attack, "answers", (1.0, 2.0), p99, failures, restarts, ("answers: 9 × 401",))


def test_every_attack_describes_itself() -> None:
    found = [command.find_attack(name) for name in command.NAMES]
    assert "unknown_keys" in command.NAMES
    assert all(attack.sends and attack.bound for attack in found)


def test_a_bound_holds_while_the_victim_waits_little_longer_and_nothing_fails() -> None:
    assert _row().held
    assert not _row(p99=(5.0, 55.1)).held
    assert not _row(p99=(5.0, float("nan"))).held
    assert not _row(restarts=1).held
    assert not _row(failures=("3 events: 503",)).held


def test_one_stall_of_the_disk_does_not_decide_the_percentile() -> None:
    steady = [4.0] * 100 * PARTS
    assert steady_p99(steady[:-50] + [400.0] * 50) == 4.0
    assert steady_p99(steady[:-250] + [400.0] * 250) == 400.0
    assert steady_p99([7.0]) == 7.0


def test_the_table_has_a_line_for_each_row() -> None:
    lines = table([_row(), _row(restarts=2)]).splitlines()
    assert (
        lines[2] == "| `much` | much | answers | 1.0 → 2.0 | 5.0 → 55.0 | none | 0 | little; answers: 9 × 401 | yes |"
    )
    assert lines[3].endswith("| 2 | little; answers: 9 × 401 | NO |")
    assert len({line.count(" | ") for line in lines}) == 1


def test_an_unknown_attack_starts_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["unknown_keis"]) == 2
    assert "there are " in capsys.readouterr().err


def test_an_attack_runs_from_beginning_to_end() -> None:
    (answers, runs) = attacked("unknown_keys", _with_runs(), seconds=1, rate=10)
    assert (answers.measured, runs.measured) == ("answers", "runs")
    assert answers.failures == runs.failures == ()
    assert answers.restarts == 0
    assert all(value > 0 for value in (*answers.median, *runs.p99))
    assert set(answers.notes[0].removeprefix("answers: ").split(", ")) != {""}


def _with_runs() -> Attack:
    attack = command.find_attack("unknown_keys")
    return Attack(attack.run, sends=attack.sends, bound=attack.bound, runs=True)
