"""Runs that kill the worker that executes them, as an out-of-memory killer would: a server kills who calls it."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import psutil

from app.services import workflows
from bench.attack.stage import Attack, Stage
from bench.attack.victim import PATH

SENT = 20


@contextmanager
def deadly_runs(stage: Stage) -> Iterator[None]:
    """Each event starts one such run."""
    with _killer(stage) as (port, killed):
        document = {"name": "deadly", "on": "deadly", "steps": [{"http": {"url": f"http://127.0.0.1:{port}/"}}]}
        workflows.apply_workflow(stage.context, stage.attacker.account, json.dumps(document))
        request = stage.attacker.request(PATH, {"event": "deadly", "distinct_id": "1", "data": {}})
        with stage.flood(lambda number: request, rate=SENT):
            yield
        stage.note(f"{len(killed)} processes killed, {stage.processes.restarts} of them workers")


@contextmanager
def _killer(stage: Stage) -> Iterator[tuple[int, list[int]]]:
    """The port of a server that kills the worker, or its child, that calls it; and the ids of those it has killed."""
    killed: list[int] = []

    class Kill(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            for process in _candidates(stage):
                with suppress(psutil.Error, ProcessLookupError):
                    ports = [each.laddr.port for each in process.net_connections("tcp4") if each.laddr]
                    if self.client_address[1] in ports:
                        os.kill(process.pid, signal.SIGKILL)
                        killed.append(process.pid)

        def log_message(self, *_: Any) -> None:
            pass

    with _Server(("127.0.0.1", 0), Kill) as server:
        thread = threading.Thread(target=server.serve_forever, name="killer")
        thread.start()
        try:
            yield server.server_port, killed
        finally:
            server.shutdown()
            thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A process that was killed resets its connections."""


def _candidates(stage: Stage) -> list[psutil.Process]:
    worker = stage.processes.worker_id
    if worker is None:
        return []
    with suppress(psutil.Error):
        process = psutil.Process(worker)
        return [process, *process.children(recursive=True)]
    return []


ATTACK = Attack(
    deadly_runs,
    sends=f"{SENT} events a second, each of which starts a run that kills the process that executes it",
    bound="two deaths of a worker for each workflow, then a process of its own; jobs of a dead worker wait for "
    "HEARTBEAT_TIMEOUT (15 s)",
    runs=True,
    # A run may be there at two deaths.
    max_added_ms=40_000.0,
    max_restarts=3,
)
