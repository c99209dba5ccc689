"""Child processes: each in a session of its own, ended together with everything that they started."""

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
    """Something could not be started. The text is printed as one line."""


def start_program(command: Sequence[str], *, death_signal: signal.Signals, **options: Any) -> Program:
    """Start `command` in a session of its own, so that Ctrl-C in the terminal reaches only this process.

    On Linux the kernel sends it `death_signal` when the calling thread ends: call this from the main thread. `options` are
    those of Popen; standard input is empty.
    """
    options.setdefault("stdin", subprocess.DEVNULL)
    return subprocess.Popen(list(command), start_new_session=True, preexec_fn=_child_setup(death_signal), **options)


def _child_setup(death_signal: signal.Signals) -> Callable[[], None]:
    """Runs in the new process before the program. A change of user, which resets the death signal, comes before it."""
    parent = os.getpid()

    def set_up() -> None:
        for signal_number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(signal_number, signal.SIG_DFL)
        if _LIBC is not None:
            _LIBC.prctl(_PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)

    return set_up


def exit_reason(program: Program) -> str:
    """`exit code 3` or `signal 9`."""
    code = program.returncode
    return f"signal {-code}" if code < 0 else f"exit code {code}"


def end_all(programs: Sequence[Program], signal_number: signal.Signals, timeout: float) -> None:
    """Send a signal to all programs, wait `timeout` seconds for all of them, then kill the rest and end their groups."""
    for program in programs:
        if program.poll() is None:
            program.send_signal(signal_number)
    deadline = time.monotonic() + timeout
    for program in programs:
        with suppress(subprocess.TimeoutExpired):
            program.wait(max(0.0, deadline - time.monotonic()))
        if program.poll() is None:
            program.kill()
            program.wait()
        end_group(program.pid, timeout=0.0 if signal_number == signal.SIGKILL else 3.0)


def end_group(leader: int, *, timeout: float = 3.0) -> None:
    """End the processes that an ended program left in its group, such as gunicorn's workers."""
    end_processes(lambda: _members(leader), (signal.SIGTERM, timeout), (signal.SIGKILL, 3.0))


def _members(leader: int) -> list[psutil.Process]:
    return [found for found in psutil.process_iter() if _is_alive(found) and _group_of(found.pid) == leader]


def _group_of(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except OSError:
        return None


def _is_alive(process: psutil.Process) -> bool:
    """Whether the process runs and is not a zombie."""
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def end_processes(find: Callable[[], Iterable[psutil.Process]], *steps: tuple[signal.Signals | None, float]) -> bool:
    """Send each signal (None: only wait) and wait its seconds, until `find` finds no process. Returns whether that happened."""
    for signal_number, timeout in steps:
        found = list(find())
        for process in found:
            with suppress(psutil.Error):
                if signal_number is not None:
                    process.send_signal(signal_number)
        deadline = time.monotonic() + timeout
        while found and time.monotonic() < deadline:
            time.sleep(0.05)
            found = list(find())
        if not found:
            return True
    return False
