"""Resolves the names of a worker's calls, in threads of their own; names that hang delay only the calls of their account."""

from __future__ import annotations

import asyncio
import socket
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from aiohttp.abc import AbstractResolver, ResolveResult
from cachetools import TTLCache

from app.actions.action_context import calling_account

# The name servers of a tenant may hang, and a look-up cannot be ended: each keeps its thread.
_THREADS, _PER_ACCOUNT = 64, 4
# Seconds for which a result is used again.
_TTL = 10.0
_MAX_CACHED = 10_000


class NameResolver(AbstractResolver):
    """The system's resolver. Use it in one event loop."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="dns")
        self._permits: dict[int, asyncio.Semaphore] = {}
        self._found: TTLCache[tuple[str, int, int], list[ResolveResult]] = TTLCache(_MAX_CACHED, _TTL)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """The addresses of a name. An account looks up a few names at a time. Raises OSError."""
        permits = self._permits.setdefault(calling_account.get(), asyncio.Semaphore(_PER_ACCOUNT))
        key = (host, port, int(family))
        if (known := self._found.get(key)) is not None:
            return known
        await permits.acquire()
        # Another call may have found it meanwhile.
        if (known := self._found.get(key)) is not None:
            permits.release()
            return known
        loop = asyncio.get_running_loop()

        def keep(job: Future[list[ResolveResult]]) -> None:
            if not job.cancelled() and job.exception() is None:
                self._found[key] = job.result()
            permits.release()

        def end(job: Future[list[ResolveResult]]) -> None:
            # A loop that has been closed raises: nobody waits any more.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(keep, job)

        try:
            job = self._threads.submit(_look_up, host, port, family)
        except RuntimeError:
            permits.release()
            raise
        job.add_done_callback(end)
        return await asyncio.wrap_future(job)

    async def close(self) -> None:
        """End the threads that do not hang."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _look_up(host: str, port: int, family: int) -> list[ResolveResult]:
    try:
        found: list[Any] = socket.getaddrinfo(
            host, port, family=family, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG
        )
    except UnicodeError:
        raise OSError(f"{host} is not a host name") from None
    return [
        ResolveResult(
            hostname=host,
            host=str(address[0]),
            port=port,
            family=kind,
            proto=socket.IPPROTO_TCP,
            flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
        )
        for kind, _, _, _, address in found
        if kind in (socket.AF_INET, socket.AF_INET6)
    ]
