"""Keeping things running: what ends is started again, until somebody asks to stop.

Comes in: things that can be started. Goes out: one line whenever one of them ended.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Protocol

from app.cli.devserver.child_process import Program, StartError, clear_group, end_all, how_it_ended, spawn

# What lived shorter than this is not started again at once, but after a pause that grows with each time.
SHORT_LIFE = 10.0
LONGEST_PAUSE = 10.0


class Keepable(Protocol):
    """What can be kept running."""

    def start(self) -> None:
        """Start it, also after it ended; raises StartError when that does not work now."""

    def running(self) -> bool:
        """Whether it lives."""

    def how_it_ended(self) -> str:
        """In words, for what lives no more."""


class StopRequest:
    """Becomes `asked` by Ctrl-C, SIGTERM or SIGHUP; a second Ctrl-C raises KeyboardInterrupt: wait for nothing."""

    def __init__(self) -> None:
        self.asked = False

    def listen(self) -> None:
        """From now on signals come here."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._hear)

    def _hear(self, number: int, _frame: FrameType | None) -> None:
        if self.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked = True


class Command:
    """A program of ours that ends in good order on SIGTERM."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self._command = list(command)
        self._environment = dict(environment)
        self.program: Program | None = None

    def start(self) -> None:
        """Start it; what an earlier one left in its group is ended first."""
        if self.program is not None:
            clear_group(self.program.pid)
        try:
            self.program = spawn(self._command, death_signal=signal.SIGTERM, env=self._environment)
        except OSError as failure:
            raise StartError(f"{self._command[0]} cannot be run: {failure.strerror}") from None

    def running(self) -> bool:
        """Whether it lives."""
        return self.program is not None and self.program.poll() is None

    def how_it_ended(self) -> str:
        """`exit code 1` or `signal 9`."""
        return how_it_ended(self.program) if self.program is not None else "not started"


def stop_together(commands: Sequence[Command], patience: float, *, number: signal.Signals = signal.SIGTERM) -> None:
    """Send `number` to all of them at the same time; kill what has not ended after `patience` seconds."""
    end_all([one.program for one in commands if one.program is not None], number, patience)


@dataclass(slots=True)
class _Watched:
    """`short_lives`: how often in a row it ended soon after its start; `due`: when to start it again, once it ended."""

    name: str
    thing: Keepable
    started_at: float
    short_lives: int = 0
    due: float | None = None

    def pause(self) -> float:
        """None after the first end in a row, then 1, 2, 4, 8, 10, 10 … seconds."""
        return 0.0 if self.short_lives < 2 else min(LONGEST_PAUSE, 2.0 ** (self.short_lives - 2))


class Supervision:
    """Watches over things and starts them again."""

    def __init__(self, stop: StopRequest, say: Callable[[str], None]) -> None:
        self._stop = stop
        self._say = say
        self._watched: list[_Watched] = []

    def keep(self, name: str, thing: Keepable) -> None:
        """Start it now, and again whenever it ends while `watch` runs; raises StartError."""
        thing.start()
        self._watched.append(_Watched(name, thing, time.monotonic()))

    def watch(self) -> None:
        """Until somebody asks to stop."""
        while not self._stop.asked:
            for one in self._watched:
                if not self._stop.asked and not one.thing.running():
                    self._revive(one)
            time.sleep(0.1)

    def _revive(self, one: _Watched) -> None:
        if one.due is not None:
            if time.monotonic() >= one.due:
                self._start(one)
            return
        how = one.thing.how_it_ended()
        one.short_lives = one.short_lives + 1 if time.monotonic() - one.started_at < SHORT_LIFE else 0
        pause = one.pause()
        one.due = time.monotonic() + pause
        if pause:
            self._say(f"{one.name} ended ({how}) soon after its start, starting it again in {pause:.0f} s")
        elif self._start(one):
            self._say(f"{one.name} ended ({how}), started again")

    def _start(self, one: _Watched) -> bool:
        one.started_at = time.monotonic()
        try:
            one.thing.start()
        except StartError as failure:
            one.short_lives = max(2, one.short_lives + 1)
            one.due = time.monotonic() + one.pause()
            if not self._stop.asked:
                self._say(f"{one.name} does not start, next try in {one.pause():.0f} s: {failure}")
            return False
        one.due = None
        return True
