"""How many connections each web process of one gunicorn has, in memory that they share: new ones go to that with the fewest.

Without it, whichever process wakes up first takes several of the connections that arrive together, and keeps them as long as
their clients do, while another process is idle (docs/decisions/0070-connections-are-balanced.md).
"""

from __future__ import annotations

import mmap

# Processes with greater numbers are not counted.
_PROCESSES = 128
# What a slot has besides the number of connections: 0 is no process.
_PRESENT = 1


class ConnectionCounts:
    """Created before the processes are forked. Each writes only its own number, from 1."""

    def __init__(self) -> None:
        self._slots = memoryview(mmap.mmap(-1, _PROCESSES * 4)).cast("i")

    def set(self, process: int, connections: int) -> None:
        """Say how many connections a process has."""
        if process < _PROCESSES:
            self._slots[process] = connections + _PRESENT

    def remove(self, process: int) -> None:
        """A process accepts no more connections."""
        if process < _PROCESSES:
            self._slots[process] = 0

    def another_has_fewer(self, process: int) -> bool:
        """Whether another process has fewer connections than this one."""
        own = self._slots[process] if process < _PROCESSES else 0
        return any(0 < slot < own for slot in self._slots)
