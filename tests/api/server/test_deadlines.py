"""A request arrives, and a response leaves, within BODY_TIMEOUT; no client delays the others."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing

import pytest

from tests.support.gunicorn import Gunicorn, response, responses_while_sending, running_gunicorn

BODY_TIMEOUT = 1.5
HOST = b"Host: x\r\n"
CHUNKED = b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gunicorn]:
    with running_gunicorn(tmp_path_factory.mktemp("gunicorn"), BODY_TIMEOUT=str(BODY_TIMEOUT)) as running:
        yield running


def statuses(received: bytes) -> list[bytes]:
    return re.findall(rb"HTTP/1.1 (.*)\r", received)


@pytest.mark.parametrize("sent", [b"Content-Length: 50\r\n\r\nhello", b"Transfer-Encoding: chunked\r\n\r\n5\r\nhel"])
def test_a_body_that_does_not_arrive_raises_timeouterror_in_the_app(server: Gunicorn, sent: bytes) -> None:
    answer = server.exchange(b"POST / HTTP/1.1\r\n" + HOST + sent)
    assert answer.startswith(b"HTTP/1.1 408 Late\r\n")
    assert b"Connection: close\r\n" in answer


def test_a_body_that_arrives_slowly_is_late_all_the_same(server: Gunicorn) -> None:
    with closing(server.connect()) as connection:
        connection.sendall(b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 500\r\n\r\n")
        for _ in range(int(BODY_TIMEOUT / 0.1) - 2):
            connection.sendall(b"x")
            time.sleep(0.1)
        assert response(connection).startswith(b"HTTP/1.1 408 Late\r\n")


@pytest.mark.parametrize(("path", "status"), [(b"/", b"408 Late"), (b"/unread", b"401 Unauthorized")])
def test_a_body_that_keeps_coming_is_late_all_the_same(server: Gunicorn, path: bytes, status: bytes) -> None:
    with closing(server.connect()) as connection:
        connection.sendall(CHUNKED.replace(b"/", path, 1))
        received = responses_while_sending(connection, b"1;%s\r\nx\r\n" % (b"x" * 1_000))
    assert statuses(received) == [status]


def test_a_body_that_the_app_does_not_read_takes_no_response_away(server: Gunicorn) -> None:
    size = 30_000_000
    sent = b"POST /unread HTTP/1.1\r\n" + HOST + b"Content-Length: %d\r\n\r\n" % size
    answer = server.exchange(sent + b"x" * size)
    assert answer.startswith(b"HTTP/1.1 401 Unauthorized\r\n")
    assert b"Connection: close\r\n" not in answer


def test_a_body_without_end_that_the_app_does_not_read_has_one_response(server: Gunicorn) -> None:
    with closing(server.connect()) as connection:
        connection.sendall(b"POST /unread HTTP/1.1\r\n" + HOST + b"Content-Length: 999999999999\r\n\r\n")
        received = responses_while_sending(connection, b"x" * 1_000_000)
    assert statuses(received) == [b"401 Unauthorized"]


@pytest.mark.parametrize("padding", [b"", b"x" * 19])
def test_a_client_that_sends_many_requests_at_once_lets_others_in_between(server: Gunicorn, padding: bytes) -> None:
    count = b"GET /count HTTP/1.1\r\nHost: x%s\r\n\r\n" % padding
    with closing(server.connect()) as connection, closing(server.connect()) as other:
        other.sendall(count)
        before = int(response(other).rpartition(b"\n")[2])
        connection.sendall(count * 5_000)
        connection.recv(1)
        other.sendall(count)
        after = int(response(other).rpartition(b"\n")[2])
    assert 1 < after - before < 4_000


def test_a_head_that_is_not_finished_is_answered_408(server: Gunicorn) -> None:
    assert server.exchange(b"POST / HTTP/1.1\r\nHos").startswith(b"HTTP/1.1 408 Request timeout\r\n")


def test_a_head_that_begins_right_behind_a_request_has_no_more_time(server: Gunicorn) -> None:
    with closing(server.connect()) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\n" + HOST + b"\r\nGET / HTTP/1.1\r\nHos")
        received = b""
        while part := connection.recv(65536):
            received += part
    assert statuses(received) == [b"200 OK", b"408 Request timeout"]


def test_a_connection_on_which_nothing_comes_is_closed_without_a_word(server: Gunicorn) -> None:
    assert server.exchange(b"") == b""


def test_many_silent_clients_and_clients_that_do_not_hang_up_delay_nobody(server: Gunicorn) -> None:
    with ExitStack() as stack:
        for _ in range(40):
            stack.enter_context(closing(server.connect()))
        for _ in range(5):
            kept = stack.enter_context(closing(server.connect()))
            kept.sendall(b"GET / HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n")
        began = time.monotonic()
        assert server.exchange(b"GET / HTTP/1.1\r\n" + HOST + b"\r\n").startswith(b"HTTP/1.1 200 OK")
        assert time.monotonic() - began < BODY_TIMEOUT


def test_each_request_of_a_kept_connection_has_a_deadline_of_its_own(server: Gunicorn) -> None:
    with closing(server.connect()) as connection:
        for _ in range(3):
            connection.sendall(b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\n\r\nhello")
            assert response(connection).endswith(b"hello")
            time.sleep(BODY_TIMEOUT * 0.7)


def test_nothing_follows_a_response_that_the_client_does_not_take(server: Gunicorn) -> None:
    with closing(server.connect()) as connection:
        connection.sendall(b"GET /large HTTP/1.1\r\n" + HOST + b"\r\n" + b"GET /count HTTP/1.1\r\n" + HOST + b"\r\n")
        time.sleep(BODY_TIMEOUT * 2)
        received = b""
        while part := connection.recv(1_000_000):
            received += part
    assert statuses(received) == [b"200 OK"]
    assert len(received) < 50_000_000
