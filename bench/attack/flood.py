"""What an attacker sends: requests at a steady rate, whether or not earlier ones were answered, from a thread of its own."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# No attack sends for longer, and none has more requests open.
MAX_SECONDS = 300.0
MAX_OPEN = 200


@contextmanager
def flood(
    port: int, request: Callable[[int], bytes], *, rate: float, max_open: int = MAX_OPEN
) -> Iterator[Counter[str]]:
    """Send `request(0)`, `request(1)`, … to 127.0.0.1 until the block ends. Yields how many requests got which status; those
    without an answer count as the name of the exception, those that found `max_open` others open as `not sent`."""
    answers: Counter[str] = Counter()
    stop = threading.Event()
    thread = threading.Thread(
        target=lambda: asyncio.run(_send(port, request, rate, max_open, answers, stop)), name="flood"
    )
    thread.start()
    try:
        yield answers
    finally:
        stop.set()
        thread.join()


async def _send(
    port: int,
    request: Callable[[int], bytes],
    rate: float,
    max_open: int,
    answers: Counter[str],
    stop: threading.Event,
) -> None:
    began, number = time.monotonic(), 0
    idle: list[_Connection] = []
    open_requests: set[asyncio.Task[None]] = set()
    while not stop.is_set() and time.monotonic() - began < MAX_SECONDS:
        # The stop is seen within 0.1 s, also at a low rate.
        await asyncio.sleep(min(0.1, max(0.0, began + number / rate - time.monotonic())))
        if began + number / rate > time.monotonic():
            continue
        if len(open_requests) >= max_open:
            answers["not sent"] += 1
        else:
            task = asyncio.create_task(_post(port, request(number), idle, answers))
            open_requests.add(task)
            task.add_done_callback(open_requests.discard)
        number += 1
    for task in open_requests:
        task.cancel()
    await asyncio.gather(*open_requests, return_exceptions=True)
    for _, writer in idle:
        writer.close()


_Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def _post(port: int, request: bytes, idle: list[_Connection], answers: Counter[str]) -> None:
    connection = idle.pop() if idle else None
    try:
        connection = connection or await asyncio.open_connection("127.0.0.1", port)
        reader, writer = connection
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        await reader.readexactly(int(head.split("content-length:", 1)[1].split("\r\n", 1)[0]))
        answers[head.split(" ", 2)[1]] += 1
        if "connection: close" not in head:
            idle.append(connection)
            connection = None
    except (OSError, EOFError, IndexError) as exc:
        answers[type(exc).__name__] += 1
    finally:
        if connection is not None:
            connection[1].close()
