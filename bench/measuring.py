"""How things are measured here: load by wrk, CPU time over all processes, and tries on a busy machine thrown away.

Hypervisors steal time and machines are noisy: reference and candidate alternate, a try with more than 10 % steal is repeated,
medians are quoted, and what is compared is CPU time per request over all processes, exited children included.
"""

from __future__ import annotations

import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

TRIES = 5
SECONDS = 5
CONNECTIONS = 16
MOST_STEAL = 0.10
MOST_REPEATS = 10


@dataclass(frozen=True)
class Load:
    """What one try of one side gave: requests answered, answers that were no 2xx, seconds, CPU seconds, latencies (ms)."""

    requests: int
    errors: int
    seconds: float
    cpu: float
    p50: float
    p99: float

    @property
    def rate(self) -> float:
        """Requests a second."""
        return self.requests / self.seconds

    @property
    def cpu_per_request(self) -> float:
        """Microseconds of CPU a request, over all processes."""
        return self.cpu / self.requests * 1e6


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
        sys.exit("The benchmarks need wrk: `apt install wrk`.")
    return found


def load(url: str, script: Path, processes: Sequence[int], seconds: int = SECONDS) -> Load:
    """Post with wrk for a while; `script` is wrk's Lua that makes the requests."""
    cpu = cpu_seconds(processes)
    began = time.monotonic()
    command = [find_wrk(), "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "--latency", "-s", str(script), url]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    spent = time.monotonic() - began
    cpu = cpu_seconds(processes) - cpu
    requests = int(re.search(r"^\s*(\d+) requests in", said, re.MULTILINE)[1])  # type: ignore[index]
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", said)
    broken = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", said)
    errors = int(refused[1]) if refused else 0
    errors += sum(map(int, broken.groups())) if broken else 0
    return Load(requests, errors, spent, cpu, _latency(said, "50%"), _latency(said, "99%"))


def _latency(said: str, which: str) -> float:
    match = re.search(rf"^\s*{which}\s+([\d.]+)(us|ms|s)$", said, re.MULTILINE)
    if match is None:
        return float("nan")
    return float(match[1]) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[match[2]]


def without_steal(measure: Callable[[], Load]) -> Load:
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


def alternate(
    reference: Callable[[], Load], candidate: Callable[[], Load], tries: int = TRIES
) -> list[tuple[Load, Load]]:
    """Reference, candidate, reference, candidate …: the pairs, after one uncounted try of each."""
    reference(), candidate()
    return [(without_steal(reference), without_steal(candidate)) for _ in range(tries)]


def median(values: Iterable[float]) -> float:
    """The middle one."""
    return statistics.median(list(values))
