"""Calls to the APIs behind augments: within half a second, over connections that are used again."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import partial

import pytest

from app.ingest.enrichment_api import ApiClient, ApiError, ApiQuery
from tests.support.action_contexts import the_settings

ANSWER = b'HTTP/1.1 200 OK\r\nContent-Length: 17\r\n\r\n{"known": "well"}'


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
        with pytest.raises(ApiError, match=r"did not answer within 0\.5 seconds"):
            client.query(ApiQuery(1, url, "key", "a"))
        assert 0.4 < time.monotonic() - began < 1.5
        assert left.wait(5)


def test_calls_share_a_connection() -> None:
    requests: list[bytes] = []

    def answer(connection: socket.socket) -> None:
        with connection:
            while request := connection.recv(10_000):
                requests.append(request.partition(b"\r\n")[0])
                connection.sendall(ANSWER)

    with a_server(answer) as url, closing(ApiClient(the_settings("127.0.0.0/8"))) as client:
        answers = [client.query(ApiQuery(1, url, "key", value)).value for value in ("a", "b", "a")]
    assert answers == [{"known": "well"}] * 3
    assert requests == [b"GET /?key=a HTTP/1.1", b"GET /?key=b HTTP/1.1"]


def test_an_abandoned_call_keeps_its_permit_until_its_thread_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    resolved, started = threading.Event(), []

    def resolve(*arguments: object, **_: object) -> list[object]:
        started.append(arguments)
        resolved.wait(20)
        raise OSError("no such name")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)

    def query(server: str, value: int) -> str:
        with pytest.raises(ApiError) as caught:
            client.query(ApiQuery(1, f"http://{server}.example/", "key", str(value)))
        return str(caught.value)

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
        with pytest.raises(ApiError) as caught:
            client.query(ApiQuery(1, "http://127.0.0.1:9/", "key", str(value)))
        return str(caught.value)

    ended = threading.Event()
    with closing(ApiClient(the_settings())) as client, ThreadPoolExecutor(16) as callers:
        monkeypatch.setattr(client, "_threads", ThreadPoolExecutor(1))
        client._threads.submit(ended.wait, 20)
        for _ in range(2):
            assert set(callers.map(query, range(16))) == {"127.0.0.1:9 did not answer within 0.5 seconds"}
        ended.set()
