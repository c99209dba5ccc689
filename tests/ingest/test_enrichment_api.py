"""Calls to the APIs behind augments: within half a second, over connections that are used again."""

from __future__ import annotations

import gc
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import partial

import pytest

from app.core import pacing
from app.core.exact_json import ExactObject
from app.ingest import enrichment_budget
from app.ingest.enrichment_api import ApiClient, ApiError, ApiQuery, event_body, lookup_query
from app.ingest.enrichment_budget import ApiBudget
from tests.support.action_contexts import the_settings
from tests.support.http_target import Answer, an_http_target

ANSWER = b'HTTP/1.1 200 OK\r\nContent-Length: 17\r\n\r\n{"known": "well"}'


def answer_of(client: ApiClient, url: str, value: str = "a") -> ExactObject | ApiError:
    """The answer to a GET of account 1, for an event of its own."""
    (answer,) = client.query([lookup_query(1, url, "key", value)], ApiBudget())
    return answer


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """More time, for calls that a busy machine delays."""
    monkeypatch.setattr(enrichment_budget, "API_SECONDS", 20.0)


@contextmanager
def a_server(handle: Callable[[socket.socket], None]) -> Iterator[str]:
    """A server that hands its first connection to `handle`; its URL."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=lambda: handle(listener.accept()[0]), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
        thread.join(10)


def test_a_server_that_sends_byte_by_byte_is_left_after_half_a_second() -> None:
    left = threading.Event()

    def drip(connection: socket.socket) -> None:
        with connection:
            try:
                connection.sendall(b"HTTP/1.1 200 OK\r\nX: ")
                while True:
                    connection.sendall(b"x")
                    time.sleep(0.02)
            except OSError:
                left.set()

    with a_server(drip) as url, closing(ApiClient(the_settings("127.0.0.0/8"))) as client:
        began = time.monotonic()
        assert "did not answer within 0.5 seconds" in str(answer_of(client, url))
        assert 0.4 < time.monotonic() - began < 1.5
        assert left.wait(5)


@pytest.mark.usefixtures("patient")
def test_calls_share_a_connection() -> None:
    requests: list[bytes] = []

    def answer(connection: socket.socket) -> None:
        with connection:
            while request := connection.recv(10_000):
                requests.append(request.partition(b"\r\n")[0])
                connection.sendall(ANSWER)

    with a_server(answer) as url, closing(ApiClient(the_settings("127.0.0.0/8"))) as client:
        answers = [answer_of(client, url, value) for value in ("a", "b", "a")]
    assert answers == [ExactObject({"known": "well"}, {"known": '"well"'})] * 3
    assert requests == [b"GET /?key=a HTTP/1.1", b"GET /?key=b HTTP/1.1"]


def test_an_abandoned_call_keeps_its_permit_until_its_thread_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    resolved, started = threading.Event(), []

    def resolve(*arguments: object, **_: object) -> list[object]:
        started.append(arguments)
        resolved.wait(20)
        raise OSError("no such name")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)

    def query(server: str, value: int) -> str:
        return str(answer_of(client, f"http://{server}.example/", str(value)))

    with closing(ApiClient(the_settings())) as client, ThreadPoolExecutor(16) as threads:
        for server in ("a", "b", "c"):
            answers = set(threads.map(partial(query, server), range(16)))
            assert answers == {f"{server}.example:80 did not answer within 0.5 seconds"}
        assert "at a time" in query("d", 0)
        resolved.set()
        assert len(started) == 48
        deadline = time.monotonic() + 10
        while "at a time" in (answer := query("d", 0)) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert answer == "d.example:80 cannot be reached, or closed the connection"


def test_a_call_that_got_no_thread_in_time_releases_its_permit(monkeypatch: pytest.MonkeyPatch) -> None:
    def query(value: int) -> str:
        return str(answer_of(client, "http://127.0.0.1:9/", str(value)))

    ended = threading.Event()
    with closing(ApiClient(the_settings())) as client, ThreadPoolExecutor(16) as callers:
        monkeypatch.setattr(client, "_threads", ThreadPoolExecutor(1))
        client._threads.submit(ended.wait, 20)
        for _ in range(2):
            assert set(callers.map(query, range(16))) == {"127.0.0.1:9 did not answer within 0.5 seconds"}
        ended.set()


@pytest.mark.usefixtures("patient")
def test_the_calls_of_one_event_run_side_by_side() -> None:
    all_there = threading.Barrier(5)
    with (
        an_http_target(Answer(body=b'{"known": "well"}')) as crm,
        closing(ApiClient(the_settings("127.0.0.0/8"))) as client,
    ):
        # A server that answers when five calls wait for it.
        crm.before_answer = lambda _: void(all_there.wait(10))
        queries = [lookup_query(1, crm.url, "key", str(number)) for number in range(5)]
        answers = client.query(queries, ApiBudget())
    assert [answer.value for answer in answers if isinstance(answer, ExactObject)] == [{"known": "well"}] * 5


def void(_: object) -> None:
    pass


def test_all_calls_of_one_event_share_a_deadline() -> None:
    ended = threading.Event()
    with (
        an_http_target() as hanging,
        an_http_target() as healthy,
        closing(ApiClient(the_settings("127.0.0.0/8"))) as client,
    ):
        hanging.before_answer = lambda _: void(ended.wait(20))
        budget = ApiBudget()
        slow = client.query([lookup_query(1, hanging.url, "key", str(number)) for number in range(160)], budget)
        (late,) = client.query([lookup_query(1, healthy.url, "key", "a")], budget)
        ended.set()
    # As many as one server is called at a time.
    assert len(hanging.calls) <= 16
    assert healthy.calls == []
    assert str(late) == "no time was left for it"
    reasons = {str(answer).partition(" ")[2] for answer in slow}
    assert reasons == {"did not answer within 0.5 seconds", "has reached its limit of 16 calls at a time"}


def _count_in_memory(name: str) -> int:
    return sum(type(each).__name__ == name for each in gc.get_objects())


def test_calls_leave_nothing_to_the_garbage_collector() -> None:
    ended = threading.Event()
    gc.collect()
    before = _count_in_memory("_Call")
    gc.disable()
    try:
        with an_http_target() as hanging, closing(ApiClient(the_settings("127.0.0.0/8"))) as client:
            hanging.before_answer = lambda _: void(ended.wait(20))
            queries = [
                lookup_query(1, url, "key", "a") for url in (hanging.url, "http://127.0.0.1:9/", "http://10.0.0.1/")
            ]
            assert all(isinstance(answer, ApiError) for answer in client.query(queries, ApiBudget()))
            ended.set()
            deadline = time.monotonic() + 10
            while (left := _count_in_memory("_Call")) > before and time.monotonic() < deadline:
                time.sleep(0.02)
    finally:
        gc.enable()
    assert left <= before


def test_a_call_that_had_little_time_says_nothing_about_its_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(enrichment_budget, "API_SECONDS", 0.05)
    ended = threading.Event()
    with an_http_target() as slow, closing(ApiClient(the_settings("127.0.0.0/8"))) as client:
        slow.before_answer = lambda _: void(ended.wait(20))
        answers = [answer_of(client, slow.url, str(number)) for number in range(8)]
        ended.set()
    assert not any("calls are paused" in str(answer) for answer in answers)


@pytest.mark.usefixtures("patient")
def test_an_event_that_is_built_again_asks_no_api_twice() -> None:
    budget = ApiBudget()
    with an_http_target(Answer(status=500)) as crm, closing(ApiClient(the_settings("127.0.0.0/8"))) as client:
        query = ApiQuery(1, crm.url, event_body("a", '{"key":"a"}'))
        answers = [client.query([query], budget) for _ in range(2)]
    assert len(crm.calls) == 1
    assert answers[0] == answers[1]


@pytest.mark.usefixtures("patient")
def test_the_answers_for_one_event_have_a_size_together() -> None:
    body = json.dumps({"a": "x" * 60_000}).encode()
    with an_http_target(Answer(body=body)) as crm, closing(ApiClient(the_settings("127.0.0.0/8"))) as client:
        answers = client.query([lookup_query(1, crm.url, "key", str(number)) for number in range(6)], ApiBudget())
    assert [isinstance(answer, ExactObject) for answer in answers] == [True] * 4 + [False] * 2
    assert str(answers[-1]) == "the APIs answered with more than 262144 bytes together"


@pytest.mark.usefixtures("patient")
def test_a_url_that_fails_does_not_pause_another_one_of_its_server() -> None:
    with an_http_target() as server, closing(ApiClient(the_settings("127.0.0.0/8"))) as client:
        server.answers = [Answer(status=500)]
        bad = [str(answer_of(client, f"{server.url}/bad/secret", str(number))) for number in range(6)]
        server.answers = [Answer(body=b'{"known": "well"}')]
        good = answer_of(client, f"{server.url}/good")
    assert bad[4].endswith("answered 500")
    assert "calls are paused" in bad[5]
    assert "secret" not in bad[5]
    assert isinstance(good, ExactObject)


@pytest.mark.usefixtures("patient")
def test_others_run_before_each_call_of_an_event_and_each_of_its_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[int] = []
    monkeypatch.setattr(pacing, "_PIECE", -1.0)
    monkeypatch.setattr(pacing, "yield_to_others", lambda: pauses.append(1))
    with an_http_target() as target, closing(ApiClient(the_settings("127.0.0.0/8"))) as client:
        client.query([ApiQuery(1, f"{target.url}/{number}") for number in range(10)], ApiBudget())
    assert len(pauses) >= 2 * 10
