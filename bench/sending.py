"""An open loop: each request is sent when it is due, whether or not earlier ones were answered; latency counts from then.

wrk waits for each response before it sends again, so a server that stops for a second receives nothing in the meantime. Real
senders do not wait.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field


@dataclass
class Sent:
    """By number: when each request was due (monotonic seconds), milliseconds from then to its whole answer; and the
    statuses that were no 2xx."""

    due: dict[int, float] = field(default_factory=dict)
    late: dict[int, float] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)

    def failures(self, stored: int) -> list[str]:
        """Messages about errors, and about a number of stored events that differs from the responses."""
        found = []
        if self.refused:
            found.append(f"{len(self.refused)} requests failed: {', '.join(sorted(set(self.refused)))}")
        if stored != len(self.late):
            found.append(f"{len(self.late):,} answers were 2xx, but {stored:,} events are stored")
        return found


async def post_steadily(
    port: int, path: str, headers: Mapping[str, str], bodies: Iterable[bytes], *, rate: float
) -> Sent:
    """Post the bodies to 127.0.0.1 at a steady rate, over as many kept connections as it takes. A request without a response
    after a minute counts as refused."""
    lines = [f"POST {path} HTTP/1.1", "Host: 127.0.0.1", *(f"{name}: {value}" for name, value in headers.items())]
    head = "\r\n".join(lines).encode()
    sent, idle = Sent(), list[_Connection]()
    began, posts = time.monotonic() + 0.1, list[asyncio.Task[None]]()
    for number, body in enumerate(bodies):
        sent.due[number] = began + number / rate
        await asyncio.sleep(max(0.0, sent.due[number] - time.monotonic()))
        request = b"%b\r\nContent-Length: %d\r\n\r\n%b" % (head, len(body), body)
        posts.append(asyncio.create_task(_post(port, request, number, idle, sent)))
    await asyncio.gather(*posts)
    for _, writer in idle:
        writer.close()
    return sent


_Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def _post(port: int, request: bytes, number: int, idle: list[_Connection], sent: Sent) -> None:
    try:
        async with asyncio.timeout(60):
            reader, writer = idle.pop() if idle else await asyncio.open_connection("127.0.0.1", port)
            writer.write(request)
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
            length = head.split("content-length:", 1)[1].split("\r\n", 1)[0]
            await reader.readexactly(int(length))
    except (OSError, EOFError, IndexError) as exc:
        sent.refused.append(type(exc).__name__)
        return
    status = head.split(" ", 2)[1]
    if status.startswith("2"):
        sent.late[number] = (time.monotonic() - sent.due[number]) * 1000
    else:
        sent.refused.append(status)
    if "connection: close" in head:
        writer.close()
    else:
        idle.append((reader, writer))
