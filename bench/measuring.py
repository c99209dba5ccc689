"""Measurement: load by wrk, CPU time over all processes, alternating tries.

Machines are noisy and hypervisors steal time: reference and candidate alternate, a try with more than 10 % steal is repeated,
medians are reported, and the comparison is by CPU time per request over all processes, ended children included.
"""

from __future__ import annotations

import math
import os
import re
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

import psutil

MAX_STEAL = 0.10
MAX_REPEATS = 10
CONNECTIONS = 16
# Seconds at the end of a try in which wrk sends nothing but still counts responses.
QUIET = 2.0


def tries() -> int:
    """How often each side is measured: TRIES, 5 without it."""
    return int(os.environ.get("TRIES", "5"))


def duration() -> float:
    """Seconds of load in one try: DURATION, 5 without it."""
    return float(os.environ.get("DURATION", "5"))


@dataclass(frozen=True)
class Load:
    """The result of one try of one side: responses, responses that were not 2xx, seconds of load, CPU seconds by part
    (web, postgres, redis), latencies (ms)."""

    requests: int
    errors: int
    seconds: float
    cpu: Mapping[str, float]
    p50: float = float("nan")
    p99: float = float("nan")

    @property
    def rate(self) -> float:
        """Requests per second."""
        return self.requests / self.seconds

    @property
    def cpu_per_request(self) -> float:
        """Microseconds of CPU per request, over all processes."""
        return sum(self.cpu.values()) / max(1, self.requests) * 1e6

    def share(self, part: str) -> float:
        """Microseconds of CPU per request of one part."""
        return self.cpu[part] / max(1, self.requests) * 1e6


def cpu_seconds(roots: Iterable[int]) -> float:
    """CPU time of these processes and their children, ended ones included."""
    total = 0.0
    for root in roots:
        for process in [psutil.Process(root), *psutil.Process(root).children(recursive=True)]:
            try:
                times = process.cpu_times()
            except psutil.NoSuchProcess:
                continue
            total += times.user + times.system
            # Ended children count for the process that waited for them.
            total += times.children_user + times.children_system
    return total


def steal_share(before: Sequence[int], after: Sequence[int]) -> float:
    """The share of the processors' time that the hypervisor gave to others between two readings of `cpu_ticks`."""
    spent = [late - early for early, late in zip(before, after, strict=True)]
    return spent[7] / max(1, sum(spent[:8]))


def cpu_ticks() -> list[int]:
    """The first line of /proc/stat; zeros where there is none."""
    try:
        return [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    except OSError:
        return [0] * 8


def find_wrk() -> str:
    """wrk's path; ends with a clear line when it is missing."""
    found = shutil.which("wrk")
    if found is None:
        sys.exit("The benchmarks need wrk, a load generator: `apt install wrk`.")
    return found


# Every wrk script begins with this: it stops sending after SECONDS, so that no request is open when wrk ends.
_STOPPING = """
local ffi = require("ffi")
ffi.cdef[[ typedef struct { long seconds; long nanoseconds; } instant; int clock_gettime(int, instant *); ]]
local read = ffi.new("instant")
local function now()
  ffi.C.clock_gettime(1, read)
  return tonumber(read.seconds) + tonumber(read.nanoseconds) / 1e9
end
local stop_at
function delay()
  if stop_at == nil then stop_at = now() + tonumber(os.getenv("SECONDS")) end
  return now() < stop_at and 0 or 3600000
end
wrk.method = "POST"
"""


def write_script(file: Path, headers: Mapping[str, str], body: str) -> Path:
    """A script for wrk that posts with these headers; `body` is Lua: `wrk.body = …`, or a function `request`."""
    lines = [_STOPPING, *(f'wrk.headers["{name}"] = "{value}"' for name, value in headers.items()), body]
    file.write_text("\n".join(lines))
    return file


class Measured(Protocol):
    """Something that is measured alternately with others."""

    def load(self, seconds: float) -> Load:
        """One try."""


@dataclass
class Side:
    """A server under wrk's load: its URL, wrk's script, and the processes whose CPU time counts, by part.

    `answered` and `errors` count over all tries, also unused ones: the table has to have as many rows.
    """

    url: str
    script: Path
    processes: Mapping[str, Sequence[int]]
    connections: int = CONNECTIONS
    answered: int = 0
    errors: int = 0

    def load(self, seconds: float) -> Load:
        """Post for a while."""
        before = {part: cpu_seconds(processes) for part, processes in self.processes.items()}
        output = self._wrk(seconds)
        cpu = {part: cpu_seconds(processes) - before[part] for part, processes in self.processes.items()}
        requests, errors = read_wrk(output)
        self.answered += requests - errors
        self.errors += errors
        return Load(requests, errors, seconds, cpu, latency(output, "50%"), latency(output, "99%"))

    def _wrk(self, seconds: float) -> str:
        lasts = f"-d{math.ceil(seconds + QUIET)}s"
        command = [find_wrk(), "-t1", f"-c{self.connections}", lasts, "--timeout", "20s", "--latency"]
        environment = {**os.environ, "SECONDS": str(seconds)}
        return subprocess.run(
            [*command, "-s", str(self.script), self.url], capture_output=True, text=True, check=True, env=environment
        ).stdout


def read_wrk(output: str) -> tuple[int, int]:
    """How many responses wrk counted, and how many requests failed."""
    requests = int(re.search(r"^\s*(\d+) requests in", output, re.MULTILINE)[1])  # type: ignore[index]
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", output)
    broken = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", output)
    errors = int(refused[1]) if refused else 0
    return requests, errors + (sum(map(int, broken.groups())) if broken else 0)


def latency(output: str, which: str) -> float:
    """A latency percentile of wrk, in milliseconds."""
    match = re.search(rf"^\s*{which}\s+([\d.]+)(us|ms|s|m)$", output, re.MULTILINE)
    if match is None:
        return float("nan")
    return float(match[1]) * {"us": 0.001, "ms": 1.0, "s": 1000.0, "m": 60_000.0}[match[2]]


T = TypeVar("T")


def without_steal(measure: Callable[[], T]) -> T:
    """One try with at most 10 % steal; after ten tries the last one is used, with a warning."""
    for _ in range(MAX_REPEATS):
        before = cpu_ticks()
        result = measure()
        steal = steal_share(before, cpu_ticks())
        if steal <= MAX_STEAL:
            return result
        print(f"    (repeated: {steal:.0%} of the time was stolen)", file=sys.stderr)
    print("    (used although time was stolen: the machine is too busy)", file=sys.stderr)
    return result


def alternate(*sides: Measured, times: int = 1) -> list[tuple[Load, ...]]:
    """Measure A, B, C, A, B, C …, after a short uncounted try of each. `times` multiplies the number of rounds, for small
    differences."""
    for side in sides:
        side.load(min(2.0, duration()))
    return [tuple(without_steal(partial(side.load, duration())) for side in sides) for _ in range(times * tries())]


def median(values: Iterable[float]) -> float:
    """The middle one."""
    return statistics.median(list(values))


def p99(values: Iterable[float]) -> float:
    """The value that 99 of 100 do not exceed."""
    found = sorted(values)
    return found[min(len(found) - 1, int(len(found) * 0.99))]
