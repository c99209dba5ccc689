"""How things are measured here: load by wrk, CPU time over all processes, and tries on a busy machine thrown away.

Hypervisors steal time and machines are noisy: reference and candidate alternate, a try with more than 10 % steal is repeated,
medians are quoted, and what is compared is CPU time per request over all processes, exited children included.
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

MOST_STEAL = 0.10
MOST_REPEATS = 10
CONNECTIONS = 16
# For so long wrk asks nothing more but listens on: each request that was sent is answered, and counted.
QUIET = 2.0


def tries() -> int:
    """How often each side is measured: TRIES, 5 without it."""
    return int(os.environ.get("TRIES", "5"))


def duration() -> float:
    """Seconds of load in one try: DURATION, 5 without it."""
    return float(os.environ.get("DURATION", "5"))


@dataclass(frozen=True)
class Load:
    """What one try of one side gave: requests answered, answers that were no 2xx, seconds of asking, CPU seconds by part
    (web, postgres, redis), latencies (ms)."""

    requests: int
    errors: int
    seconds: float
    cpu: Mapping[str, float]
    p50: float = float("nan")
    p99: float = float("nan")

    @property
    def rate(self) -> float:
        """Requests a second."""
        return self.requests / self.seconds

    @property
    def cpu_per_request(self) -> float:
        """Microseconds of CPU a request, over all processes."""
        return sum(self.cpu.values()) / max(1, self.requests) * 1e6

    def share(self, part: str) -> float:
        """Microseconds of CPU a request of one part."""
        return self.cpu[part] / max(1, self.requests) * 1e6


def cpu_seconds(roots: Iterable[int]) -> float:
    """CPU time of these processes and all that came from them, those that have ended included."""
    total = 0.0
    for root in roots:
        for process in [psutil.Process(root), *psutil.Process(root).children(recursive=True)]:
            try:
                times = process.cpu_times()
            except psutil.NoSuchProcess:
                continue
            total += times.user + times.system
            # The time of ended children is kept by the one who waited for them.
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


# What every script of wrk begins with: after SECONDS it stops asking, so that nothing is on its way when wrk ends.
_STOPPING = """
local ffi = require("ffi")
ffi.cdef[[ typedef struct { long seconds; long nanoseconds; } moment; int clock_gettime(int, moment *); ]]
local read = ffi.new("moment")
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
    """Something that is measured by turns with others."""

    def load(self, seconds: float) -> Load:
        """One try."""


@dataclass
class Side:
    """A server under wrk's load: its URL, wrk's script, and the processes whose CPU time counts, by part.

    `answered` and `errors` count over all tries, also those that are not used: the table has to agree with them.
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
        said = self._wrk(seconds)
        cpu = {part: cpu_seconds(processes) - before[part] for part, processes in self.processes.items()}
        requests, errors = read_wrk(said)
        self.answered += requests - errors
        self.errors += errors
        return Load(requests, errors, seconds, cpu, latency(said, "50%"), latency(said, "99%"))

    def _wrk(self, seconds: float) -> str:
        lasts = f"-d{math.ceil(seconds + QUIET)}s"
        command = [find_wrk(), "-t1", f"-c{self.connections}", lasts, "--timeout", "20s", "--latency"]
        environment = {**os.environ, "SECONDS": str(seconds)}
        return subprocess.run(
            [*command, "-s", str(self.script), self.url], capture_output=True, text=True, check=True, env=environment
        ).stdout


def read_wrk(said: str) -> tuple[int, int]:
    """How many answers wrk got, and how many requests went wrong."""
    requests = int(re.search(r"^\s*(\d+) requests in", said, re.MULTILINE)[1])  # type: ignore[index]
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", said)
    broken = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", said)
    errors = int(refused[1]) if refused else 0
    return requests, errors + (sum(map(int, broken.groups())) if broken else 0)


def latency(said: str, which: str) -> float:
    """A percentile of wrk's, in milliseconds."""
    match = re.search(rf"^\s*{which}\s+([\d.]+)(us|ms|s|m)$", said, re.MULTILINE)
    if match is None:
        return float("nan")
    return float(match[1]) * {"us": 0.001, "ms": 1.0, "s": 1000.0, "m": 60_000.0}[match[2]]


T = TypeVar("T")


def without_steal(measure: Callable[[], T]) -> T:
    """One try that the hypervisor left alone; after ten it takes what it gets and says so."""
    for _ in range(MOST_REPEATS):
        before = cpu_ticks()
        result = measure()
        steal = steal_share(before, cpu_ticks())
        if steal <= MOST_STEAL:
            return result
        print(f"    (repeated: {steal:.0%} of the time was stolen)", file=sys.stderr)
    print("    (taken although time was stolen: the machine is too busy)", file=sys.stderr)
    return result


def by_turns(*sides: Measured, times: int = 1) -> list[tuple[Load, ...]]:
    """A, B, C, A, B, C …: what each gave in each turn, after a short uncounted try of each. `times` as many turns as usual,
    where a small difference has to be told from noise."""
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
