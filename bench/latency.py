"""How long a sender waits: an open loop of 200 events a second through nginx, with deploy/nginx.conf."""

from __future__ import annotations

import asyncio
import json
from contextlib import ExitStack
from urllib.parse import urlsplit

from bench.measuring import duration, median, p99, tries, without_steal
from bench.rows import Row, limited
from bench.sending import Sent, post_steadily
from bench.servers import backends, nginx, ours
from bench.single import BODY, PATH, provide

RATE = 200
MAX_P50, MAX_P99 = 5.0, 25.0


def latency() -> list[Row]:
    """From the time at which a request is due to the end of its response, medians of the tries."""
    with ExitStack() as stack:
        base = stack.enter_context(backends())
        account, headers = provide(base)
        url, _ = stack.enter_context(ours(base))
        port = stack.enter_context(nginx(base.folder, int(urlsplit(url).port or 0)))
        body = json.dumps(BODY).encode()
        every: list[Sent] = []

        def post(seconds: float) -> Sent:
            bodies = [body] * int(RATE * seconds)
            every.append(asyncio.run(post_steadily(port, PATH, headers, bodies, rate=RATE)))
            return every[-1]

        post(2)
        found = [without_steal(lambda: post(2 * duration())) for _ in range(tries())]
        whole = Sent(refused=[status for one in every for status in one.refused])
        whole.late = dict(enumerate(late for one in every for late in one.late.values()))
        failures = whole.failures(base.stored(account))
    half = median(median(one.late.values()) for one in found)
    almost = median(p99(one.late.values()) for one in found)
    worst = round(max(max(one.late.values()) for one in found), 1)
    unit = f"ms, {RATE} events/s through nginx (open loop), "
    return [
        limited("latency", half, MAX_P50, unit=unit + "in the median", failures=failures, tries=len(found)),
        limited("latency-p99", almost, MAX_P99, unit=unit + "99 % within", failures=failures, slowest=worst),
    ]
