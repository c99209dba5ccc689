"""Runs the benchmarks: `python -m bench [NAME,…]`, or `make bench ONLY=single`. Prints one table, writes results/latest.json."""

from __future__ import annotations

import json
import os
import platform
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench.hanging import hanging
from bench.patterns import advance
from bench.running import first_call, runs, waiting
from bench.single import many_workflows, single, single_starting

BENCHMARKS = {
    "single": single,
    "single-starting": single_starting,
    "advance": advance,
    "many-workflows": many_workflows,
    "runs": runs,
    "first-call": first_call,
    "waiting": waiting,
    "hanging": hanging,
}
RESULTS = Path(__file__).resolve().parent / "results" / "latest.json"


def main(wanted: list[str]) -> int:
    """Run the wanted benchmarks (all without any); 1 when a target was missed, 2 for an unknown name."""
    unknown = [name for name in wanted if name not in BENCHMARKS]
    if unknown:
        print(f"unknown: {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}", file=sys.stderr)
        return 2
    rows: list[dict[str, Any]] = []
    for name in wanted or BENCHMARKS:
        print(f"{name} …", file=sys.stderr)
        rows += BENCHMARKS[name]()
    _print_table(rows)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps({"machine": _machine(), "versions": _versions(), "rows": rows}, indent=2) + "\n")
    return 0 if all(row["ok"] for row in rows) else 1


def _print_table(rows: list[dict[str, Any]]) -> None:
    print(f"{'what':<18}{'ours':>10}{'reference':>11}{'ratio':>8}{'target':>8}  ok?  ")
    for row in rows:
        known = ("name", "ours", "reference", "ratio", "target", "ok")
        more = ", ".join(f"{name} {value}" for name, value in row.items() if name not in known)
        print(
            f"{row['name']:<18}{row['ours']:>10}{row['reference']:>11}{row['ratio']:>8}{row['target']:>8}  "
            f"{'yes' if row['ok'] else 'NO':<5}{more}"
        )


def _machine() -> dict[str, Any]:
    return {"cores": os.cpu_count(), "system": platform.platform(), "python": platform.python_version()}


def _versions() -> dict[str, str]:
    return {
        name: version(name) for name in ("flask", "gunicorn", "sqlalchemy", "psycopg2-binary", "marshmallow", "limits")
    }


if __name__ == "__main__":
    sys.exit(main([name for part in sys.argv[1:] for name in part.split(",") if name]))
