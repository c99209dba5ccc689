"""Programs that we start: tied to our life, each in a group of its own, ended with everything that they started.

Comes in: a command line. Goes out: a running `Popen`, and in words how it ended.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any

import psutil

Program = subprocess.Popen[bytes]

_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
_PR_SET_PDEATHSIG = 1


class StartError(Exception):
    """Something could not be started; the text is the line that people read."""


def spawn(command: Sequence[str], *, death_signal: signal.Signals, **options: Any) -> Program:
    """Start `command` in a session of its own, so that the terminal's Ctrl-C reaches only us.

    On Linux the kernel sends it `death_signal` when the thread that called this ends, however it ends: call it from
    the main thread. `options` are those of Popen; standard input is empty.
    """
    options.setdefault("stdin", subprocess.DEVNULL)
    return subprocess.Popen(
        list(command),
        start_new_session=True,
        preexec_fn=_tied_to_us(death_signal),
        **options,
    )


def _tied_to_us(death_signal: signal.Signals) -> Callable[[], None]:
    """What the new process does before it becomes the program; after the change of user, which would undo it."""
    us = os.getpid()

    def before_the_program_runs() -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        if _LIBC is not None:
            _LIBC.prctl(_PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0)
        if os.getppid() != us:
            os._exit(1)

    return before_the_program_runs


def how_it_ended(program: Program) -> str:
    """`exit code 3` or `signal 9`."""
    code = program.returncode
    return f"signal {-code}" if code < 0 else f"exit code {code}"


def end_all(programs: Sequence[Program], number: signal.Signals, patience: float) -> None:
    """Send `number` to all at once, give them `patience` seconds together, kill what is left and their groups."""
    for program in programs:
        if program.poll() is None:
            program.send_signal(number)
    deadline = time.monotonic() + patience
    for program in programs:
        with suppress(subprocess.TimeoutExpired):
            program.wait(max(0.0, deadline - time.monotonic()))
        if program.poll() is None:
            program.kill()
            program.wait()
        clear_group(program.pid, patience=0.0 if number == signal.SIGKILL else 3.0)


def clear_group(leader: int, *, patience: float = 3.0) -> None:
    """End what a program that is gone has left running in its group, such as gunicorn's workers."""
    end_processes(lambda: _members(leader), (signal.SIGTERM, patience), (signal.SIGKILL, 3.0))


def _members(leader: int) -> list[psutil.Process]:
    return [one for one in psutil.process_iter() if _is_alive(one) and _group_of(one.pid) == leader]


def _group_of(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except OSError:
        return None


def _is_alive(process: psutil.Process) -> bool:
    """Whether it still runs; what only waits for its parent to look at it (a zombie) does not."""
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def end_processes(find: Callable[[], Iterable[psutil.Process]], *steps: tuple[signal.Signals | None, float]) -> bool:
    """Send each signal (None: only wait) in turn until `find` finds nothing within its seconds; True: all are gone."""
    for number, patience in steps:
        found = list(find())
        for process in found:
            with suppress(psutil.Error):
                if number is not None:
                    process.send_signal(number)
        deadline = time.monotonic() + patience
        while found and time.monotonic() < deadline:
            time.sleep(0.05)
            found = list(find())
        if not found:
            return True
    return False
