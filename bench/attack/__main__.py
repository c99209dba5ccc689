"""Runs the attacks: `python -m bench.attack [NAME,…]`, or `make attack ONLY=unknown_keys`. Prints one table (Markdown). Exit
status: 1 if a bound did not hold, 2 for an unknown name."""

from __future__ import annotations

import importlib
import os
import pkgutil
import traceback

from bench.attack import attacks
from bench.attack.stage import Attack, Row, attacked, broken, table
from bench.program import run_all, start

NAMES = sorted(module.name for module in pkgutil.iter_modules(attacks.__path__))
DURATION = 15.0


def find_attack(name: str) -> Attack:
    """The attack of a module."""
    attack: Attack = importlib.import_module(f"bench.attack.attacks.{name}").ATTACK
    return attack


def main(wanted: list[str]) -> int:
    """Run the given attacks, or all, one after the other."""
    return run_all(wanted, NAMES, _run, _report)


def _report(rows: list[Row]) -> bool:
    print(table(rows))
    return all(row.held for row in rows)


def _run(name: str) -> list[Row]:
    """Run one attack. One that raises does not stop the others."""
    attack = find_attack(name)
    try:
        return attacked(name, attack, seconds=float(os.environ.get("DURATION", DURATION)))
    except Exception as exc:
        traceback.print_exc()
        return [broken(name, attack, exc)]


if __name__ == "__main__":
    start(main)
