"""The plan's rate limit is exact: over threads in one process, over processes with Redis, and after an outage of Redis.

No test depends on how fast the machine is. In Redis the test opens the window itself, with an expiry of ten minutes. In a
process's memory windows last a second; there the responses tell what was counted: `RateLimit-Remaining` is `rate - 1` for the
first event of a window, and each value occurs at most once per window.
"""

from __future__ import annotations

import http.client
import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import chain

import pytest
import redis as redis_client

from app.api.rate_limit import Windows
from app.core.models import PLANS
from app.db.connection import run_sql
from app.services import accounts
from app.services.context import AppContext
from tests.support.builders import EVENTS_PATH, Sender, a_sender, an_event
from tests.support.server import Answer, Redis, Server

OUTAGES = "signalbox_rate_limit_outage_total"
BODY = json.dumps(an_event()).encode()
RATE, POSTS = 100, 130


def burst(
    server: Server, sender: Sender, connections: Sequence[http.client.HTTPConnection], posts: int
) -> list[Answer]:
    """The responses to that many posts, sent by one thread per connection as fast as possible."""
    headers = {"Content-Type": "application/json", **sender.headers()}

    def send(connection: http.client.HTTPConnection, share: int) -> list[Answer]:
        return [
            server.request_on(connection, EVENTS_PATH, method="POST", data=BODY, headers=headers) for _ in range(share)
        ]

    shares = [posts // len(connections) + (number < posts % len(connections)) for number in range(len(connections))]
    with ThreadPoolExecutor(len(connections)) as threads:
        return list(chain.from_iterable(threads.map(send, connections, shares)))


def statuses_of(answers: Sequence[Answer]) -> list[int]:
    return [answer.status_code for answer in answers]


def assert_exact_over_processes(
    context: AppContext, server: Server, redis: Redis, connections: Sequence[http.client.HTTPConnection]
) -> None:
    """A window that has room for RATE - 1 more events accepts exactly that many of a burst."""
    for _ in range(20):
        sender = a_sender(context, server, plan="trial")
        _load_account(server, connections, sender)
        outages = server.metric(OUTAGES)
        with closing(redis_client.Redis.from_url(redis.url)) as client:
            client.set(f"LIMITS:signalbox:rate:{sender.account_id}", 1, ex=600)
        statuses = statuses_of(burst(server, sender, connections, POSTS))
        # On a very busy machine Redis may miss its deadline of 0.25 seconds; then events are accepted uncounted.
        if server.metric(OUTAGES) == outages:
            assert sorted(statuses) == [200] * (RATE - 1) + [429] * (POSTS - RATE + 1)
            return
    pytest.fail("Redis did not respond in time in any of 20 bursts")


def _load_account(server: Server, connections: Sequence[http.client.HTTPConnection], sender: Sender) -> None:
    """Let every process load the account by a request that is not counted: with the id of another account."""
    headers = {"Content-Type": "application/json", **sender.headers(), "x-fb-account-id": "0"}
    for connection in connections:
        assert server.request_on(connection, EVENTS_PATH, method="POST", data=BODY, headers=headers).status_code == 403


@pytest.fixture(scope="module")
def on_both(two_processes: Server) -> Iterator[list[http.client.HTTPConnection]]:
    """Connections to both processes: three to each."""
    with two_processes.connected_to_each(3) as connections:
        yield connections


def test_one_process_accepts_exactly_the_rate_in_each_window(context: AppContext, server: Server) -> None:
    sender = a_sender(context, server, plan="trial")
    accounts.change_plan(context, sender.account_id, PLANS["trial"], 5)
    answers: list[Answer] = []
    with server.connected_to_each(6) as connections:
        while 429 not in statuses_of(answers):
            answers += burst(server, sender, connections, 60)
    remaining = Counter(int(answer.headers["RateLimit-Remaining"]) for answer in answers if answer.status_code == 200)
    windows = remaining[4]
    assert [remaining[value] for value in sorted(remaining, reverse=True)] == sorted(remaining.values(), reverse=True)
    assert set(remaining) == {0, 1, 2, 3, 4}
    assert max(remaining.values()) == windows
    assert all(answer.headers["RateLimit-Remaining"] == "0" for answer in answers if answer.status_code == 429)


def test_two_processes_together_accept_exactly_the_rate(
    context: AppContext, two_processes: Server, redis: Redis, on_both: list[http.client.HTTPConnection]
) -> None:
    assert_exact_over_processes(context, two_processes, redis, on_both)


def test_an_event_after_the_window_opens_the_next(context: AppContext, two_processes: Server, redis: Redis) -> None:
    sender = a_sender(context, two_processes, plan="trial")
    name = f"LIMITS:signalbox:rate:{sender.account_id}"
    with closing(redis_client.Redis.from_url(redis.url)) as client:
        client.set(name, RATE, ex=600)
        assert sender.post(an_event()).status_code == 429
        client.delete(name)
        answer = sender.post(an_event())
        assert (answer.status_code, answer.headers["RateLimit-Remaining"]) == (200, str(RATE - 1))


def test_the_next_window_accepts_events_again(context: AppContext, server: Server) -> None:
    sender = a_sender(context, server, plan="trial")
    accounts.change_plan(context, sender.account_id, PLANS["trial"], 3)
    begun, statuses = time.monotonic(), []
    while time.monotonic() < begun + 2.5:
        statuses.append(sender.post(an_event()).status_code)
        time.sleep(0.02)
    assert 3 < statuses.count(200) <= 3 * (int(time.monotonic() - begun) + 1)


def _set_count(redis: Redis, sender: Sender, count: int) -> None:
    """Open a window of ten minutes in which the account has sent that many events."""
    with closing(redis_client.Redis.from_url(redis.url)) as client:
        client.set(f"LIMITS:signalbox:rate:{sender.account_id}", count, ex=600)


@pytest.mark.parametrize("key", [None, "order-1"], ids=["without a key", "with a key"])
def test_an_event_beyond_the_limit_is_not_stored(
    context: AppContext, two_processes: Server, redis: Redis, key: str | None
) -> None:
    sender = a_sender(context, two_processes, plan="trial")
    _set_count(redis, sender, RATE - 1)
    headers = {} if key is None else {"Idempotency_Key": key}
    accepted = sender.post(an_event(), **headers)
    refused = sender.post(an_event(), **headers)
    assert (accepted.status_code, refused.status_code) == (200, 429)
    assert (accepted.headers["RateLimit-Remaining"], refused.headers["RateLimit-Remaining"]) == ("0", "0")
    assert int(refused.headers["Retry-After"]) > 0
    with context.database.transaction() as connection:
        stored = run_sql(connection, "SELECT id FROM events WHERE account_id = :id", {"id": sender.account_id})
        assert [str(event_id) for (event_id,) in stored] == [accepted.json["id"]]


def test_beyond_the_limit_an_invalid_event_is_429_and_within_it_422(
    context: AppContext, two_processes: Server, redis: Redis
) -> None:
    sender = a_sender(context, two_processes, plan="trial")
    _set_count(redis, sender, RATE - 1)
    answers = [sender.post({"event": 1}) for _ in range(3)]
    assert statuses_of(answers) == [422, 429, 429]
    assert [answer.headers["RateLimit-Remaining"] for answer in answers] == ["0", "0", "0"]


def test_an_account_at_its_limit_does_not_affect_another(context: AppContext, server: Server) -> None:
    acme, globex = a_sender(context, server, "acme", plan="trial"), a_sender(context, server, "globex", plan="trial")
    accounts.change_plan(context, acme.account_id, PLANS["trial"], 1)
    answers = []
    for _ in range(20):
        answers.append(acme.post(an_event()).status_code)
        assert globex.post(an_event()).status_code == 200
    assert 429 in answers


def test_a_burst_is_accepted_and_counted_while_redis_is_down_and_limited_when_it_is_back(
    context: AppContext, two_processes: Server, redis: Redis, on_both: list[http.client.HTTPConnection]
) -> None:
    sender = a_sender(context, two_processes, plan="trial")
    _load_account(two_processes, on_both, sender)
    before = two_processes.metric(OUTAGES)
    redis.kill()
    try:
        assert statuses_of(burst(two_processes, sender, on_both, 250)) == [200] * 250
        assert two_processes.metric(OUTAGES) == before + 250
        answer = sender.post(an_event())
        assert (answer.status_code, answer.headers["RateLimit-Limit"]) == (200, str(RATE))
    finally:
        redis.start()
    _wait_until_counted(context, two_processes, on_both)
    assert_exact_over_processes(context, two_processes, redis, on_both)


def _wait_until_counted(context: AppContext, server: Server, connections: Sequence[http.client.HTTPConnection]) -> None:
    """Processes do not use Redis for a second after it failed."""
    deadline = time.monotonic() + 60
    while True:
        outages = server.metric(OUTAGES)
        burst(server, a_sender(context, server, plan="trial"), connections, len(connections))
        if server.metric(OUTAGES) == outages:
            return
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_an_event_does_not_wait_for_a_redis_that_hangs(
    context: AppContext, two_processes: Server, redis: Redis
) -> None:
    sender = a_sender(context, two_processes, plan="trial")
    redis.pause()
    try:
        begun = time.monotonic()
        assert sender.post(an_event()).status_code == 200
        assert time.monotonic() - begun < 3.0
    finally:
        redis.resume()


def test_counting_in_memory_is_exact_over_threads() -> None:
    windows, interval = Windows(clock=lambda: 0.0), sys.getswitchinterval()
    barrier = threading.Barrier(8)

    def count(_: int) -> list[int]:
        barrier.wait()
        return [windows.count("acme", 1) for _ in range(2_000)]

    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as threads:
            seen = sorted(chain.from_iterable(threads.map(count, range(8))))
    finally:
        sys.setswitchinterval(interval)
    assert seen == list(range(1, 16_001))


def test_a_window_begins_with_its_first_event_and_lasts_a_second() -> None:
    now = [5.7]
    windows = Windows(clock=lambda: now[0])
    counted = []
    for now[0] in (5.7, 6.0, 6.69, 6.7, 7.69, 9.0):
        counted.append(windows.count("acme", 1))
    assert counted == [1, 2, 3, 1, 2, 1]


def test_the_total_of_a_window_is_zero_before_and_after_it() -> None:
    times = iter([0.0, 0.0, 0.5, 1.0])
    windows = Windows(clock=lambda: next(times))
    assert windows.used("acme") == 0
    windows.count("acme", 3)
    assert [windows.used("acme"), windows.used("acme")] == [3, 0]


def test_events_of_a_batch_count_one_by_one() -> None:
    windows = Windows(clock=lambda: 0.0)
    assert [windows.count("acme", 40), windows.count("acme", 40), windows.count("globex", 1)] == [40, 80, 1]
