"""Runs the attacks: `python -m bench.attack [NAME,…]`, or `make attack ONLY=unknown_keys`. Prints one table (Markdown). Exit
status: 1 if a bound did not hold, 2 for an unknown name."""

from __future__ import annotations

import importlib
import os
import pkgutil
import signal
import sys
import traceback

from bench.attack import attacks
from bench.attack.stage import Attack, Row, attacked, broken, table

NAMES = sorted(module.name for module in pkgutil.iter_modules(attacks.__path__))
DURATION = 15.0


def find_attack(name: str) -> Attack:
    """The attack of a module."""
    attack: Attack = importlib.import_module(f"bench.attack.attacks.{name}").ATTACK
    return attack


def main(wanted: list[str]) -> int:
    """Run the given attacks, or all, one after the other."""
    unknown = [name for name in wanted if name not in NAMES]
    if unknown:
        print(f"unknown: {', '.join(unknown)}; there are {', '.join(NAMES)}", file=sys.stderr)
        return 2
    rows: list[Row] = []
    try:
        for name in wanted or NAMES:
            print(f"{name} …", file=sys.stderr, flush=True)
            rows += _run(name)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    finally:
        if rows:
            print(table(rows))
    return 0 if all(row.held for row in rows) else 1


def _run(name: str) -> list[Row]:
    """Run one attack. One that raises does not stop the others."""
    attack = find_attack(name)
    try:
        return attacked(name, attack, seconds=float(os.environ.get("DURATION", DURATION)))
    except Exception as exc:
        traceback.print_exc()
        return [broken(name, attack, exc)]


if __name__ == "__main__":
    # SIGTERM cleans up like Ctrl-C.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(main([name for part in sys.argv[1:] for name in part.split(",") if name]))
