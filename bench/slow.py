"""500 slow connections through nginx: how long do the senders wait that are not slow?"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from urllib.parse import urlsplit

from bench.measuring import duration, median, p99
from bench.rows import Row, limited
from bench.sending import Sent, post_steadily
from bench.servers import backends, nginx, ours
from bench.single import BODY, PATH, provide

CONNECTIONS = 500
RATE = 100
MAX_P99 = 100.0
# Seconds between two bytes of a slow connection.
PAUSE = 1.0


class SlowSenders:
    """Connections that send a request a byte at a time: every other one its head, the others their body."""

    def __init__(self, port: int, headers: Mapping[str, str]) -> None:
        fields = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        head = f"POST {PATH} HTTP/1.1\r\nHost: 127.0.0.1\r\n{fields}"
        self._port = port
        self._slow_head = (head.encode()[:20], head.encode()[20:])
        self._slow_body = (f"{head}Content-Length: 1000\r\n\r\n".encode(), b" " * 1000)
        self.open = 0
        self.opened = 0

    async def run(self, count: int, stop: asyncio.Event) -> None:
        """Keep `count` connections open until it is stopped: one that nginx closes is replaced."""
        await asyncio.gather(*(self._keep_one(number, stop) for number in range(count)))

    async def _keep_one(self, number: int, stop: asyncio.Event) -> None:
        while not stop.is_set():
            with suppress(OSError):
                await self._send_slowly(*(self._slow_head if number % 2 else self._slow_body), stop)

    async def _send_slowly(self, begin: bytes, rest: bytes, stop: asyncio.Event) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        self.open += 1
        self.opened += 1
        try:
            writer.write(begin)
            for byte in rest:
                with suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), PAUSE)
                if stop.is_set() or reader.at_eof():
                    return
                writer.write(bytes([byte]))
                await writer.drain()
        finally:
            self.open -= 1
            writer.close()


@contextmanager
def slow_senders(port: int, headers: Mapping[str, str], count: int) -> Iterator[SlowSenders]:
    """So many slow connections, in a thread of their own; all are open when the block begins."""
    senders, started = SlowSenders(port, headers), threading.Event()
    loop, stop = asyncio.new_event_loop(), asyncio.Event()

    async def run() -> None:
        running = asyncio.create_task(senders.run(count, stop))
        while senders.open < count:
            await asyncio.sleep(0.05)
        started.set()
        await running

    thread = threading.Thread(target=lambda: loop.run_until_complete(run()), daemon=True)
    thread.start()
    try:
        if not started.wait(60):
            raise TimeoutError(f"only {senders.open} of {count} slow connections are open after a minute")
        yield senders
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)


def slow() -> list[Row]:
    """The 99th percentile of the others, with 500 slow connections."""
    with ExitStack() as stack:
        base = stack.enter_context(backends())
        account, headers = provide(base)
        url, _ = stack.enter_context(ours(base))
        port = stack.enter_context(nginx(base.folder, int(urlsplit(url).port or 0)))

        def post(seconds: float) -> Sent:
            bodies = [json.dumps(BODY).encode()] * int(RATE * seconds)
            return asyncio.run(post_steadily(port, PATH, headers, bodies, rate=RATE))

        warm, alone = post(2), post(5 * duration())
        with slow_senders(port, headers, CONNECTIONS) as senders:
            with_them = post(5 * duration())
            open_at_end, opened = senders.open, senders.opened
        failures = [
            message
            for part, sent in (("alone", alone), ("with them", with_them))
            for message in sent.failures(len(sent.late))
            if message
        ]
        stored = base.stored(account)
    answered = len(warm.late) + len(alone.late) + len(with_them.late)
    if stored != answered:
        failures.append(f"{answered:,} answers were 2xx, but {stored:,} events are stored")
    if open_at_end < CONNECTIONS * 0.9:
        failures.append(f"only {open_at_end} slow connections were open at the end")
    return [
        limited(
            "slow",
            p99(with_them.late.values()),
            MAX_P99,
            unit=f"ms, 99 % within, {RATE} events/s with {CONNECTIONS} slow connections through nginx",
            failures=failures,
            **{
                "p50 ms": round(median(with_them.late.values()), 1),
                "alone p50 ms": round(median(alone.late.values()), 1),
                "alone p99 ms": round(p99(alone.late.values()), 1),
                "slow connections": opened,
            },
        )
    ]
