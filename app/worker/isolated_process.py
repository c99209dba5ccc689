"""The child process in which `isolation.py` executes jobs alone: one line of JSON for each job on standard input, one with the
answer on standard output. It ends with its standard input, which ends with the worker.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import resource
import signal
import sys
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from app.actions import http_session
from app.core import config, log_config
from app.core.log_config import describe_exception
from app.services.context import AppContext
from app.worker.executor import RunExecutor
from app.worker.handlers import call_handler, make_handlers
from app.worker.isolation import TimeSliceOver

# Bytes of data, in addition to many times the largest event. A job that needs more gets a MemoryError, which ends this process
# before the machine has no memory left.
MAX_MEMORY = 1024 * 1024 * 1024
_EVENTS_IN_MEMORY = 32
# From -1000 to 1000: among processes that need the same, the kernel kills this one first.
_OOM_SCORE_ADJUSTMENT = 300
_PR_SET_PDEATHSIG = 1
_OUT_OF_MEMORY = 4


def main() -> None:
    """Execute jobs until standard input ends. SIGTERM and SIGINT are for the worker, which ends this process."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    # Nothing else may write to standard output.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    settings = config.from_environment()
    log_config.configure(settings)
    _prepare_to_die(MAX_MEMORY + _EVENTS_IN_MEMORY * settings.max_event_bytes)
    asyncio.run(_serve(AppContext(settings), answers))


def _prepare_to_die(max_memory: int) -> None:
    """Limit the memory (bytes), be killed before the worker when there is none left, and end with the worker."""
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    soft = max_memory if hard == resource.RLIM_INFINITY else min(max_memory, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        with suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text(str(_OOM_SCORE_ADJUSTMENT))


async def _serve(context: AppContext, answers: TextIO) -> None:
    jobs: asyncio.Queue[str] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    threading.Thread(target=_read_jobs, args=(loop, jobs), daemon=True).start()
    with ThreadPoolExecutor(2, thread_name_prefix="postgres") as threads:
        async with http_session.open_session(context.settings) as session:
            executor = RunExecutor(context, session, threads, alone=True)
            handlers = make_handlers(executor)
            _write(answers, {})
            while True:
                job = json.loads(await jobs.get())
                try:
                    await call_handler(handlers, job["kind"], job["payload"])
                except TimeSliceOver:
                    _write(answers, {"is_over": False})
                except MemoryError:
                    os._exit(_OUT_OF_MEMORY)
                except Exception as exc:
                    _write(answers, {"error": describe_exception(exc)})
                else:
                    _write(answers, {"is_over": True})


def _read_jobs(loop: asyncio.AbstractEventLoop, jobs: asyncio.Queue[str]) -> None:
    """In a thread of its own, so that the end of the worker always ends this process."""
    for line in sys.stdin:
        loop.call_soon_threadsafe(jobs.put_nowait, line)
    os._exit(0)


def _write(answers: TextIO, answer: Mapping[str, Any]) -> None:
    answers.write(json.dumps(answer) + "\n")
    answers.flush()


if __name__ == "__main__":
    main()
