"""The processes of the product under attack: a worker that is started again when it ends, and a count of restarts."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import BinaryIO

import psutil

from app.cli.devserver.child_process import Program, end_all, start_program
from bench.servers import ROOT


class Processes:
    """Looks every 0.1 s for web processes that gunicorn replaced, and for a worker that ended, which is started again."""

    def __init__(self, gunicorn: int, environment: Mapping[str, str], log: BinaryIO, *, worker: bool) -> None:
        self._gunicorn, self._environment, self._log = psutil.Process(gunicorn), environment, log
        self._worker = self._start_worker() if worker else None
        self._seen = self.web_processes()
        self._first = frozenset(self._seen)
        self._worker_restarts = 0
        self._stop = threading.Event()
        # Programs end with the thread that started them: this one lives until `close`.
        self._thread = threading.Thread(target=self._watch, name="processes")
        self._thread.start()

    @property
    def restarts(self) -> int:
        """How often a web process or the worker was started again."""
        return len(self._seen - self._first) + self._worker_restarts

    @property
    def worker_id(self) -> int | None:
        """The process id of the worker, if there is one now."""
        worker = self._worker
        return worker.pid if worker is not None and worker.poll() is None else None

    def web_processes(self) -> set[int]:
        """The process ids of the web processes."""
        return {child.pid for child in self._gunicorn.children()}

    def close(self) -> None:
        """End the worker, and stop looking."""
        self._stop.set()
        if self._worker is not None:
            end_all([self._worker], signal.SIGTERM, 10)
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.1):
            with suppress(psutil.Error):
                self._seen |= self.web_processes()
            if self._worker is not None and self._worker.poll() is not None and not self._stop.is_set():
                self._worker = self._start_worker()
                self._worker_restarts += 1

    def _start_worker(self) -> Program:
        command = [sys.executable, "-m", "app.cli", "worker"]
        return start_program(
            command,
            death_signal=signal.SIGTERM,
            cwd=ROOT,
            env=self._environment,
            stdout=self._log,
            stderr=self._log,
        )


@contextmanager
def watched(gunicorn: int, environment: Mapping[str, str], log: BinaryIO, *, worker: bool) -> Iterator[Processes]:
    """The processes of a running gunicorn, with a worker where asked for, which writes to `log` and ends with the block."""
    processes = Processes(gunicorn, environment, log, worker=worker)
    try:
        yield processes
    finally:
        processes.close()
