"""As many augments as an account may have, each with an API that answers late and with as much as it may."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache

from app.ingest.enrichment_budget import API_SECONDS, MAX_ADDED_BYTES
from app.services.cxengage import augments
from app.services.cxengage.crud import MAX_AUGMENTS
from bench.attack.stage import Attack, Stage

SENT = 100
# Seconds until an API answers: within its time, so that no circuit opens.
LATE = 0.8 * API_SECONDS
# Servers, since each is called 16 times at a time.
_HOSTS = ("127.0.0.1", "127.0.0.2", "127.0.0.3")
_ANSWER_BYTES = 60_000


@contextmanager
def augment_apis(stage: Stage) -> Iterator[None]:
    """Every event of the attacker asks all of its APIs."""
    with _late_apis() as port:
        for number in range(MAX_AUGMENTS):
            url = f"http://{_HOSTS[number % len(_HOSTS)]}:{port}/{number}"
            values = {"name": f"API {number}", "description": "", "type": "api", "url": url, "in_options": False}
            augments.create_augment(stage.context, stage.attacker.account, values)
        headers = {"Authorization": f"Bearer {stage.attacker.headers['x-limechat-uat']}"}
        path = f"/1.0/tenants/{stage.attacker.slug}/event"

        def request(number: int) -> bytes:
            return stage.attacker.request(path, {"key": str(number)}, headers=headers)

        with stage.flood(request, rate=SENT):
            yield
    _look_at_events(stage)


def _look_at_events(stage: Stage) -> None:
    with stage.context.database.transaction() as connection:
        events, enriched, size = connection.exec_driver_sql(
            "SELECT count(*), count(augmented), coalesce(max(octet_length(augmented::text)), 0) FROM events "
            "WHERE account_id = %(account)s",
            {"account": stage.attacker.account},
        ).one()
    stage.note(f"{events:,} events, {enriched:,} of them enriched, with at most {size:,} bytes")
    # Postgres' spelling has spaces.
    if size > 1.1 * MAX_ADDED_BYTES:
        stage.fail(f"augments added {size:,} bytes to one event")


@contextmanager
def _late_apis() -> Iterator[int]:
    """APIs on loopback addresses that end with the block; their port."""
    started, port = threading.Event(), [0]
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()

    async def serve() -> None:
        server = await asyncio.start_server(_answer, _HOSTS[0], 0)
        port[0] = server.sockets[0].getsockname()[1]
        others = [await asyncio.start_server(_answer, host, port[0]) for host in _HOSTS[1:]]
        started.set()
        await stop.wait()
        for each in (server, *others):
            each.close()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()), name="late APIs")
    thread.start()
    try:
        if not started.wait(10):
            raise RuntimeError("the APIs did not start")
        yield port[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()


@cache
def _response(name: str) -> bytes:
    body = json.dumps({"key-attr": None, "attributes": {f"field{name}": "x" * _ANSWER_BYTES}}).encode()
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError, EOFError, asyncio.CancelledError):
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            length = int(head.lower().partition("content-length:")[2].partition("\r\n")[0] or 0)
            await reader.readexactly(length)
            await asyncio.sleep(LATE)
            writer.write(_response(head.split(" ", 2)[1].strip("/")))
            await writer.drain()
    writer.close()


ATTACK = Attack(
    augment_apis,
    sends=f"{SENT} events a second that {MAX_AUGMENTS} APIs enrich, each with {_ANSWER_BYTES:,} bytes after {LATE:g} s",
    bound=f"{API_SECONDS:g} s and {MAX_ADDED_BYTES // 1024} KiB for all augments of an event; 48 calls of an account",
)
