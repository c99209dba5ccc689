"""The processes of the product under attack: a worker that is restarted as systemd does, and a count of restarts."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

import psutil

from app.cli.devserver.supervisor import Command, stop_together


class Processes:
    """Looks every 0.1 s for web processes that gunicorn replaced, and for a worker that ended, which is started again."""

    def __init__(self, gunicorn: int, worker: Command | None) -> None:
        self._gunicorn, self._worker = psutil.Process(gunicorn), worker
        self._stop = threading.Event()
        self._seen = self.web_processes()
        self._first = frozenset(self._seen)
        self._worker_restarts = 0
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
        program = self._worker.program if self._worker is not None else None
        return program.pid if program is not None and program.poll() is None else None

    def web_processes(self) -> set[int]:
        """The process ids of the web processes."""
        return {child.pid for child in self._gunicorn.children()}

    def close(self) -> None:
        """End the worker, and stop looking."""
        self._stop.set()
        if self._worker is not None:
            stop_together([self._worker], 10)
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.1):
            with suppress(psutil.Error):
                self._seen |= self.web_processes()
            if self._worker is not None and not self._worker.running() and not self._stop.is_set():
                self._worker.start()
                self._worker_restarts += 1


@contextmanager
def watched(gunicorn: int, environment: Mapping[str, str], *, worker: bool) -> Iterator[Processes]:
    """The processes of a running gunicorn, with a worker where asked for; the worker ends with the block."""
    command = None
    if worker:
        command = Command([sys.executable, "-m", "flask", "--app", "wsgi", "worker"], environment)
        command.start()
    processes = Processes(gunicorn, command)
    try:
        yield processes
    finally:
        processes.close()
