"""Calls to the APIs behind augments: within half a second, over connections that are used again."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

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
