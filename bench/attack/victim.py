"""The victim: a process of its own that posts ordinary events at a steady rate, and receives the calls of their runs.

It has its own process so that neither the attacker's sending nor its other work delays what is measured. It reads lines of JSON
(the parameters of `_measure`) and answers each with one line.
"""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from app.cli.devserver.child_process import end_all, start_program
from bench.running import Listener
from bench.sending import post_steadily
from bench.servers import ROOT

PATH = "/api/v1/cvf-events"
EVENT = "ordinary"
# Seconds after the last event in which the calls of its runs have to arrive.
MAX_WAIT = 30.0


@dataclass(frozen=True)
class Delays:
    """Milliseconds from when each event was due to its answer, and to the arrival of its run's call; and what failed."""

    answers: list[float] = field(default_factory=list)
    runs: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


class Victim:
    """Measures itself when asked. `target`: a URL that it answers with 200, and below it `500/…` with a 500."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self.target = f"http://127.0.0.1:{self._read()['port']}/"

    def measure(self, port: int, headers: Mapping[str, str], *, seconds: float, rate: float, runs: bool) -> Delays:
        """Post ordinary events for a while."""
        question = {"port": port, "headers": dict(headers), "seconds": seconds, "rate": rate, "runs": runs}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(question).encode() + b"\n")
        self._process.stdin.flush()
        return Delays(**self._read())

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the victim's process ended")
        found: dict[str, Any] = json.loads(line)
        return found


@contextmanager
def victim() -> Iterator[Victim]:
    """A victim, whose process ends with the block."""
    command = [sys.executable, "-m", "bench.attack.victim"]
    process = start_program(
        command, death_signal=signal.SIGKILL, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        yield Victim(process)
    finally:
        end_all([process], signal.SIGKILL, 5)
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


def _serve() -> None:
    listener = Listener()
    print(json.dumps({"port": listener.server_port}), flush=True)
    for number, line in enumerate(sys.stdin):
        question = json.loads(line)
        print(json.dumps(_measure(listener, f"{number}", **question)), flush=True)


def _measure(
    listener: Listener, prefix: str, port: int, headers: dict[str, str], seconds: float, rate: float, runs: bool
) -> dict[str, Any]:
    names = [f"{prefix}-{number}" for number in range(max(1, int(seconds * rate)))]
    bodies = [json.dumps({"event": EVENT, "distinct_id": name, "data": {"price": 1999}}).encode() for name in names]
    sent = asyncio.run(post_steadily(port, PATH, headers, bodies, rate=rate))
    failures = [f"{len(sent.refused)} events: {', '.join(sorted(set(sent.refused)))}"] if sent.refused else []
    stored = [names[number] for number in sent.late] if runs else []
    deadline = time.monotonic() + MAX_WAIT
    while any(name not in listener.arrived for name in stored) and time.monotonic() < deadline:
        time.sleep(0.05)
    late = [
        (listener.arrived[names[number]] - due) * 1000
        for number, due in sent.due.items()
        if names[number] in listener.arrived
    ]
    if len(late) < len(stored):
        failures.append(f"{len(stored) - len(late)} runs made no call within {MAX_WAIT:g} s")
    return {"answers": list(sent.late.values()), "runs": late, "failures": failures}


if __name__ == "__main__":
    _serve()
