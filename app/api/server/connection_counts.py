"""How many connections each web process has, in memory that all of them share: new connections go to the one with the fewest.

Without it, whichever process wakes up first takes several of the connections that arrive together, and keeps them as long as
their clients do, while another process is idle (docs/decisions/0070-connections-are-balanced.md).
"""

from __future__ import annotations

import mmap

# Processes with greater numbers are not counted.
_PROCESSES = 512
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

    def another_has_fewer(self, process: int, processes: int) -> bool:
        """Whether one of so many processes has fewer connections than this one."""
        own = self._slots[process] if process < _PROCESSES else 0
        return any(0 < slot < own for slot in self._slots[1 : processes + 1])
