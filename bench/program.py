"""What `python -m bench` and `python -m bench.attack` share: the command line, the order, and the exit status."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Collection
from typing import NoReturn, TypeVar

Row = TypeVar("Row")


def run_all(
    wanted: list[str], names: Collection[str], run: Callable[[str], list[Row]], report: Callable[[list[Row]], bool]
) -> int:
    """Run the wanted names, or all, one after the other. `report` prints the rows and says whether all are good; also those
    that there are when the program is stopped. The exit status: 1 if they are not, 2 for an unknown name, 130 after Ctrl-C."""
    unknown = [name for name in wanted if name not in names]
    if unknown:
        print(f"unknown: {', '.join(unknown)}; there are {', '.join(names)}", file=sys.stderr)
        return 2
    rows: list[Row] = []
    is_good = True
    try:
        for name in wanted or names:
            print(f"{name} …", file=sys.stderr, flush=True)
            rows += run(name)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    finally:
        if rows:
            is_good = report(rows)
    return 0 if is_good else 1


def start(main: Callable[[list[str]], int]) -> NoReturn:
    """Call `main` with the names of the command line, and exit with its status."""
    # SIGTERM cleans up like Ctrl-C.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(main([name for part in sys.argv[1:] for name in part.split(",") if name]))
