"""One target hangs until its time-out, with 500 runs queued for it: how late are the runs for another target?

The same stream of runs with and without the 500, by one worker, alternately. The worker is stopped while they are queued, so that
all of them are due when the stream begins. Both targets belong to one account, which is the worst case.
"""

from __future__ import annotations

import json
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from app import create_app
from app.cli.devserver.child_process import Program, end_all, start_program
from app.core.models import EVENTS_WRITE, PLANS
from app.services import accounts, api_keys, workflows
from app.services.context import AppContext
from bench.measuring import median, p99
from bench.rows import Row, limited
from bench.running import Listener
from bench.servers import ROOT, Backends, backends

QUEUED = 500
TIMEOUT = "15s"
RATE = 20
SECONDS = 25
TRIES = 3
MAX_DELAY = 100


def hanging() -> list[Row]:
    """The median delay with the hanging target may be at most 100 ms more than without."""
    with ExitStack() as stack:
        base = stack.enter_context(backends())
        fast, slow = Listener(), stack.enter_context(_silent())
        send = _Sender(base, f"http://127.0.0.1:{fast.server_port}/", f"http://127.0.0.1:{slow}/")
        # Circuits and permits are in the worker's memory: each try has its own worker.
        tries = []
        for _ in range(TRIES):
            for queued in (0, QUEUED):
                with _worker(base) as worker:
                    tries.append((queued, _delays(send, fast, worker, queued)))
        send.context.database.close()
        stored, started = base.query("SELECT count(*) FROM events"), base.query("SELECT count(*) FROM runs")
    without, during = ([late for queued, late in tries if bool(queued) is wanted] for wanted in (False, True))
    with_them, alone = median(map(median, during)), median(map(median, without))
    failures = [f"{missing} calls of the stream did not arrive"] if (missing := _missing(tries)) else []
    if not stored == started == send.count:
        failures.append(f"{send.count:,} answers were 200, but {stored:,} events and {started:,} runs are stored")
    return [
        limited(
            "hanging",
            max(0.0, with_them - alone),
            MAX_DELAY,
            unit=f"ms later in the median with {QUEUED} runs for a target that hangs",
            failures=failures,
            **{"with them ms": round(with_them, 1), "alone ms": round(alone, 1)},
            **{
                "p99 with them ms": round(median(map(p99, during)), 1),
                "p99 alone ms": round(median(map(p99, without)), 1),
            },
        )
    ]


def _missing(tries: list[tuple[int, list[float]]]) -> int:
    return sum(RATE * SECONDS - len(late) for _, late in tries)


class _Sender:
    """An account with a workflow for each target, and events for them; each try has names of its own."""

    def __init__(self, base: Backends, fast: str, slow: str) -> None:
        app = create_app(base.settings)
        self.context: AppContext = app.extensions["context"]
        self._client = app.test_client()
        account = accounts.create_account(self.context, "bench", PLANS["unlimited"])
        for name, url in (("fast", fast), ("slow", slow)):
            step = {"http": {"url": url}, "timeout": TIMEOUT}
            workflows.apply_workflow(self.context, account, json.dumps({"name": name, "on": name, "steps": [step]}))
        key = api_keys.create_key(self.context, account, "bench", (EVENTS_WRITE,))
        self._headers = {"x-limechat-uat": key, "x-fb-account-id": str(account)}
        self.count = 0

    def post(self, name: str) -> tuple[str, float]:
        """One event that starts one run; its subject, and when it was acknowledged."""
        self.count += 1
        subject = f"{name}-{self.count}"
        body = {"event": name, "distinct_id": subject, "data": {}}
        answer = self._client.post("/api/v1/cvf-events", json=body, headers=self._headers)
        assert answer.status_code == 200, answer.get_data()
        return subject, time.monotonic()


def _delays(send: _Sender, fast: Listener, worker: Program, queued: int) -> list[float]:
    """Milliseconds from the acknowledgement of each event of the stream to its call."""
    send.post("fast")
    time.sleep(3)
    worker.send_signal(signal.SIGSTOP)
    for _ in range(queued):
        send.post("slow")
    worker.send_signal(signal.SIGCONT)
    began, answered = time.monotonic(), {}
    for number in range(RATE * SECONDS):
        time.sleep(max(0.0, began + number / RATE - time.monotonic()))
        subject, timestamp = send.post("fast")
        answered[subject] = timestamp
    time.sleep(2)
    late = [
        (fast.arrived[subject] - timestamp) * 1000 for subject, timestamp in answered.items() if subject in fast.arrived
    ]
    print(
        f"    {queued} queued: median {median(late):.1f} ms, 99 % {p99(late):.1f} ms, last {max(late):.1f} ms",
        file=sys.stderr,
    )
    return late


@contextmanager
def _worker(base: Backends) -> Iterator[Program]:
    command = [sys.executable, "-m", "app.cli", "worker"]
    program = start_program(command, death_signal=signal.SIGKILL, cwd=ROOT, env=base.environment)
    try:
        yield program
    finally:
        # What hangs would be waited for.
        end_all([program], signal.SIGKILL, 5)


@contextmanager
def _silent() -> Iterator[int]:
    """A port that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        kept: list[socket.socket] = []

        def accept() -> None:
            while True:
                try:
                    kept.append(listener.accept()[0])
                except OSError:
                    return

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield int(listener.getsockname()[1])
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
        for connection in kept:
            connection.close()
