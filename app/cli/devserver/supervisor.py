"""Starts programs and restarts those that end, until a signal asks to stop."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Protocol

from app.cli.devserver.child_process import Program, StartError, end_all, end_group, exit_reason, start_program

# A program that ran for less than this many seconds is restarted after a pause that doubles each time.
SHORT_RUN = 10.0
MAX_PAUSE = 10.0


class Supervised(Protocol):
    """A program that can be started again."""

    def start(self) -> None:
        """Start it, also after it has ended. Raises StartError."""

    def running(self) -> bool:
        """Whether it runs."""

    def exit_reason(self) -> str:
        """Why it ended, in words."""


class StopRequest:
    """`requested` is set by Ctrl-C, SIGTERM or SIGHUP. A second Ctrl-C raises KeyboardInterrupt."""

    def __init__(self) -> None:
        self.requested = False

    def install(self) -> None:
        """Install the signal handlers."""
        for signal_number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(signal_number, self._handle)

    def _handle(self, signal_number: int, _frame: FrameType | None) -> None:
        if self.requested and signal_number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = True


class Command:
    """A program that shuts down cleanly on SIGTERM."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self._command = list(command)
        self._environment = dict(environment)
        self.program: Program | None = None

    def start(self) -> None:
        """Start it, after ending what an earlier process left in its group."""
        if self.program is not None:
            end_group(self.program.pid)
        try:
            self.program = start_program(self._command, death_signal=signal.SIGTERM, env=self._environment)
        except OSError as exc:
            raise StartError(f"{self._command[0]} cannot be run: {exc.strerror}") from None

    def running(self) -> bool:
        """Whether it runs."""
        return self.program is not None and self.program.poll() is None

    def exit_reason(self) -> str:
        """`exit code 1` or `signal 9`."""
        return exit_reason(self.program) if self.program is not None else "not started"


def stop_together(
    commands: Sequence[Command], timeout: float, *, signal_number: signal.Signals = signal.SIGTERM
) -> None:
    """Send a signal to all commands, and kill those that have not ended after `timeout` seconds."""
    end_all([command.program for command in commands if command.program is not None], signal_number, timeout)


@dataclass(slots=True)
class _Entry:
    """`short_runs`: how often in a row it ended soon after its start. `due_at`: when to restart it, once it has ended."""

    name: str
    program: Supervised
    started_at: float
    short_runs: int = 0
    due_at: float | None = None

    def pause(self) -> float:
        """Seconds to wait before the restart: 0, then 1, 2, 4, 8, 10, 10, …"""
        return 0.0 if self.short_runs < 2 else min(MAX_PAUSE, 2.0 ** (self.short_runs - 2))


class Supervisor:
    """Starts programs and restarts those that end."""

    def __init__(self, stop: StopRequest, say: Callable[[str], None]) -> None:
        self._stop = stop
        self._say = say
        self._entries: list[_Entry] = []

    def supervise(self, name: str, program: Supervised) -> None:
        """Start a program now, and restart it while `watch` runs. Raises StartError."""
        program.start()
        self._entries.append(_Entry(name, program, time.monotonic()))

    def watch(self) -> None:
        """Restart programs until a stop is requested."""
        while not self._stop.requested:
            for entry in self._entries:
                if not self._stop.requested and not entry.program.running():
                    self._restart(entry)
            time.sleep(0.1)

    def _restart(self, entry: _Entry) -> None:
        if entry.due_at is not None:
            if time.monotonic() >= entry.due_at:
                self._start(entry)
            return
        reason = entry.program.exit_reason()
        entry.short_runs = entry.short_runs + 1 if time.monotonic() - entry.started_at < SHORT_RUN else 0
        pause = entry.pause()
        entry.due_at = time.monotonic() + pause
        if pause:
            self._say(f"{entry.name} ended ({reason}) soon after its start, restarting it in {pause:.0f} s")
        elif self._start(entry):
            self._say(f"{entry.name} ended ({reason}), restarted")

    def _start(self, entry: _Entry) -> bool:
        entry.started_at = time.monotonic()
        try:
            entry.program.start()
        except StartError as exc:
            entry.short_runs = max(2, entry.short_runs + 1)
            entry.due_at = time.monotonic() + entry.pause()
            if not self._stop.requested:
                self._say(f"{entry.name} does not start, next attempt in {entry.pause():.0f} s: {exc}")
            return False
        entry.due_at = None
        return True
