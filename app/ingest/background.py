"""A thread (a greenlet under gevent) that writes what requests leave behind, so that no response waits for it."""

from __future__ import annotations

import atexit
import threading
import time
from collections.abc import Callable

import structlog

from app.core.log_config import describe_exception

# Seconds for which entries are collected, and after which Postgres is tried again.
_INTERVAL, _RETRY_INTERVAL = 0.2, 2.0
# Seconds that the end of the process waits for what is being written.
_CLOSE_TIMEOUT = 5.0
_log = structlog.get_logger()


class BackgroundWriter:
    """Calls `write` soon after `wake`. It writes all waiting entries and returns False when it has to be called again, such as
    while Postgres is unavailable. The thread starts with the first call, so that it starts after a fork; what is left is
    written when the process ends."""

    def __init__(self, name: str, write: Callable[[], bool]) -> None:
        self._name = name
        self._write = write
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._wakeup = threading.Event()
        self._thread: threading.Thread | None = None

    def wake(self) -> None:
        """There is something to write. Waits for nothing."""
        if self._thread is None:
            with self._lock:
                if self._thread is None:
                    self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                    self._thread.start()
                    atexit.register(self.close)
        self._wakeup.set()

    def flush(self) -> bool:
        """Write all that waits now; False when it has to be called again."""
        with self._writing:
            return self._write()

    def close(self) -> None:
        """Write what is left, before the process ends. Tries once."""
        if self._writing.acquire(timeout=_CLOSE_TIMEOUT):
            self._writing.release()
            self.flush()

    def _run(self) -> None:
        while True:
            self._wakeup.wait()
            time.sleep(_INTERVAL)
            self._wakeup.clear()
            try:
                is_written = self.flush()
            except Exception as exc:
                _log.error(f"{self._name} were not written", error=describe_exception(exc))
                continue
            if not is_written:
                time.sleep(_RETRY_INTERVAL)
                self._wakeup.set()
