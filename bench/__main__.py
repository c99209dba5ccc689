"""Runs the benchmarks: `python -m bench [NAME,…]`, or `make bench ONLY=single,batch`. Prints one table, writes
results/latest.json. Exit status: 1 if a target was missed or a response was wrong, 2 for an unknown name."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import traceback
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench.api import api
from bench.batch import batch
from bench.console import console
from bench.filters import filters
from bench.grown import grown
from bench.hanging import hanging
from bench.latency import latency
from bench.measuring import cpu_ticks, steal_share
from bench.memory import memory
from bench.patterns import advance
from bench.program import run_all, start
from bench.restart import restart
from bench.rows import Row, broken, table
from bench.running import first_call, runs, waiting
from bench.single import many_workflows, pgbench, single, single_starting
from bench.slow import slow
from bench.source import source
from bench.sql import sql

BENCHMARKS = {
    "single": single,
    "single-starting": single_starting,
    "source": source,
    "pgbench": pgbench,
    "batch": batch,
    "many-workflows": many_workflows,
    "grown": grown,
    "latency": latency,
    "filters": filters,
    "advance": advance,
    "runs": runs,
    "first-call": first_call,
    "waiting": waiting,
    "hanging": hanging,
    "memory": memory,
    "sql": sql,
    "console": console,
    "api": api,
    "restart": restart,
    "slow": slow,
}
RESULTS = Path(__file__).resolve().parent / "results" / "latest.json"
_PACKAGES = (
    "flask",
    "gunicorn",
    "sqlalchemy",
    "psycopg2-binary",
    "marshmallow",
    "msgspec",
    "limits",
    "redis",
)


def main(wanted: list[str]) -> int:
    """Run the given benchmarks, or all, one after the other."""
    before = cpu_ticks()

    def report(rows: list[Row]) -> bool:
        print(table(rows))
        _write(rows, round(steal_share(before, cpu_ticks()), 3))
        return all(row["ok"] for row in rows)

    return run_all(wanted, BENCHMARKS, _run, report)


def _run(name: str) -> list[Row]:
    """Run one benchmark. One that raises does not stop the others."""
    try:
        return BENCHMARKS[name]()
    except Exception as exc:
        traceback.print_exc()
        return [broken(name, exc)]


def _write(rows: list[Row], steal: float) -> None:
    RESULTS.parent.mkdir(exist_ok=True)
    found = {"machine": {**_machine(), "stolen": steal}, "versions": _versions(), "rows": rows}
    RESULTS.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n")


def _machine() -> dict[str, Any]:
    return {"cores": os.cpu_count(), "system": f"{platform.system()} {platform.machine()}"}


def _versions() -> dict[str, str]:
    """Versions of Python, the packages and the external programs."""
    found = {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}}
    for program, option in (("redis-server", "--version"), ("nginx", "-v"), ("wrk", "-v")):
        binary = shutil.which(program) or shutil.which(program, path="/usr/sbin")
        if binary is not None:
            output = subprocess.run([binary, option], capture_output=True, text=True, check=False)
            number = re.search(r"\d+(\.\d+)+", output.stdout + output.stderr)
            found[program] = number[0] if number else "?"
    return found


if __name__ == "__main__":
    start(main)
