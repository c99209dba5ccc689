"""What a web process needs for itself after a million requests: its unique set size (USS), and whether that still grows."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack

import psutil

from bench.measuring import Side, write_script
from bench.rows import Row, limited
from bench.servers import backends, ours
from bench.single import PATH, disagreements, provide, varied

REQUESTS = 1_000_000
MAX_MIB = 90
# Over the last half; what an allocator wanders by.
MAX_GROWTH_MIB = 3.0
PIECE_SECONDS = 10


def memory() -> list[Row]:
    """MEMORY_REQUESTS (a million) single events of 100,000 subjects; processes are not replaced meanwhile."""
    wanted = int(os.environ.get("MEMORY_REQUESTS", REQUESTS))
    with ExitStack() as stack:
        base = stack.enter_context(backends())
        account, headers = provide(base)
        script = write_script(base.folder / "post.lua", headers, varied(100_000))
        url, pid = stack.enter_context(ours(base, "--max-requests", "0"))
        side = Side(url + PATH, script, {"web": [pid], **base.processes})
        half: list[float] = []
        while side.answered < wanted and not side.errors:
            side.load(PIECE_SECONDS)
            print(f"    {side.answered:,} requests: {_formatted(_unique(pid))}", file=sys.stderr)
            if not half and side.answered >= wanted / 2:
                half = _unique(pid)
        end = _unique(pid)
        failures = disagreements(side, base, account)
    growth = max((late - early for early, late in zip(half, end, strict=True)), default=0.0)
    if len(half) != len(end):
        failures.append("a web process was replaced on the way")
    unit = f"MiB of a web process alone after {side.answered:,} requests"
    return [
        limited(
            "memory",
            max(end),
            MAX_MIB,
            unit=unit,
            failures=failures,
            processes=_formatted(end),
            at_half=_formatted(half),
        ),
        limited("memory-growth", max(0.0, growth), MAX_GROWTH_MIB, unit="MiB over the last half of them"),
    ]


def _unique(pid: int) -> list[float]:
    """USS of each web process, in MiB, by process id."""
    found = sorted(psutil.Process(pid).children(), key=lambda process: process.pid)
    return [process.memory_full_info().uss / 2**20 for process in found]


def _formatted(sizes: list[float]) -> str:
    return " and ".join(f"{size:.1f}" for size in sizes) + " MiB"
