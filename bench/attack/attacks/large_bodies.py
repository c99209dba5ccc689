"""Four senders post bodies that take as long as possible to parse: each unpacks to half a megabyte, a batch to 10 MB."""

from __future__ import annotations

import gzip
import itertools
from collections.abc import Iterator
from contextlib import contextmanager

from bench.attack.stage import Attack, Stage

SENDERS = 4
EVENTS, BATCH = "/api/v1/cvf-events", "/api/v1/cvf-events/batch"
_HEAD, _END = b'{"event":"x","distinct_id":"1","data":{"l":[', b"]}}"


def _lists(item: bytes, count: int) -> bytes:
    return _HEAD + b",".join([item] * count) + _END


def _members(count: int) -> bytes:
    return b",".join(b'"k%d":{}' % number for number in range(count))


BODIES = (
    (EVENTS, _lists(b"[]", 170_000)),
    (EVENTS, _lists(b'{"a":1}', 60_000)),
    (EVENTS, _lists(b"1e5", 130_000)),
    (EVENTS, _lists(b"1.2345678901234567", 27_000)),
    (EVENTS, _lists(b'[""]', 100_000)),
    (EVENTS, _lists(b"1", 250_000)[:-3] + b",1e999999]}}"),
    (EVENTS, _lists(b'"a"', 130_000)[:-3] + b",NaN]}}"),
    (EVENTS, b'{"event":"x","distinct_id":"1","data":{' + _members(40_000) + b"}}"),
    (EVENTS, b'{"event":"x","distinct_id":"1",' + _members(40_000) + b"}"),
    (EVENTS, _lists(b"{}", 160_000)[:-3] + b',{"a":1,"a":2}]}}'),
    (EVENTS, _lists(b"{}", 160_000)[:-3] + b',"\\u0000"]}}'),
    (EVENTS, _lists(b"{}", 160_000)[:-3] + b"," + b"[" * 70 + b"]" * 70 + _END),
    (BATCH, b"[" + b",".join([_lists(b"{}", 160_000)] * 20) + b"]"),
    (BATCH, b"[" + _lists(b"[]", 3_300_000) + b"]"),
    (BATCH, b"[" + b",".join([_lists(b"1.5", 25_000)] * 90) + b"]"),
)


@contextmanager
def large_bodies(stage: Stage) -> Iterator[None]:
    """Post one after the other, as fast as they are answered."""
    requests = [
        stage.attacker.request(path, gzip.compress(body), headers={"Content-Encoding": "gzip"}) for path, body in BODIES
    ]
    following = itertools.cycle(requests)
    with stage.flood(lambda number: next(following), rate=200, max_open=SENDERS):
        yield


ATTACK = Attack(
    large_bodies,
    sends=f"{SENDERS} senders, gzip bodies that unpack to 0.5 MB of tiny values, repeated names, deep nesting; batches of 10 MB",
    bound="bodies are unpacked and parsed in pieces of 1 ms, one at a time, other requests run in between",
)
