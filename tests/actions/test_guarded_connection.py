"""Blocking HTTP calls: only to allowed addresses, verified, and ended from another thread."""

from __future__ import annotations

import http.client
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from yarl import URL

from app.actions.address_guard import RefusedTarget
from app.actions.guarded_connection import GuardedConnection
from tests.support.action_contexts import a_tls_target
from tests.support.certificates import a_certificate
from tests.support.http_target import Answer, an_http_target

HERE = (ip_network("127.0.0.0/8"), ip_network("::1/128"))
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def a_connection(
    url: str, allowed: tuple[Any, ...] = HERE, tls: ssl.SSLContext | None = None, seconds: float = 2.0
) -> GuardedConnection:
    return GuardedConnection(URL(url), seconds, allowed, lambda: tls or ssl.create_default_context())


def get(connection: GuardedConnection, url: str, max_bytes: int = 1_000) -> tuple[int, bytes]:
    with closing(connection):
        return connection.get(URL(url), {}, max_bytes)


@contextmanager
def a_server(*handlers: Callable[[socket.socket], None]) -> Iterator[str]:
    """A server that hands one connection to each handler; the URL of it."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        for handle in handlers:
            accepted, _ = listener.accept()
            with accepted, suppress(OSError):
                handle(accepted)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    with listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
        thread.join(10)


def answer_once(connection: socket.socket) -> None:
    connection.recv(10_000)
    connection.sendall(ANSWER)


def answer_twice(connection: socket.socket) -> None:
    answer_once(connection)
    answer_once(connection)


def drip(connection: socket.socket) -> None:
    """Send one byte of a header that never ends, again and again."""
    connection.recv(10_000)
    connection.sendall(b"HTTP/1.1 200 OK\r\nX: ")
    while True:
        connection.sendall(b"x")
        time.sleep(0.02)


def test_the_status_and_the_beginning_of_the_body_are_returned() -> None:
    with an_http_target(Answer(status=201, body=b"0123456789")) as server:
        assert get(a_connection(server.url), server.url, 4) == (201, b"0123")


def test_the_request_names_its_host_and_the_query() -> None:
    with an_http_target() as server:
        url = f"http://user:secret@127.0.0.1:{server.server_port}/a?b=c"
        get(a_connection(url), url)
    (call,) = server.calls
    assert (call.path, call.headers["Host"]) == ("/a?b=c", f"127.0.0.1:{server.server_port}")
    assert call.headers["Authorization"] == "Basic dXNlcjpzZWNyZXQ="


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "0.0.0.0", "2130706433"])
def test_a_private_address_is_not_called_whatever_its_name(host: str) -> None:
    with an_http_target() as server:
        url = f"http://{host}:{server.server_port}/"
        with pytest.raises(RefusedTarget):
            get(a_connection(url, allowed=()), url)
    assert server.calls == []


def test_the_connected_address_is_the_checked_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name server that answers otherwise the second time is not queried a second time."""
    queried: list[str] = []
    real = socket.getaddrinfo

    def rebinding(host: Any, *arguments: Any, **options: Any) -> Any:
        queried.append(host)
        return real("192.0.2.1" if len(queried) == 1 else "127.0.0.1", *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    with an_http_target() as server:
        url = f"http://rebinding.example:{server.server_port}/"
        with pytest.raises(RefusedTarget, match=r"192\.0\.2\.1"):
            get(a_connection(url, allowed=()), url)
    assert queried == ["rebinding.example"]


def test_an_address_that_refuses_is_followed_by_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    real = socket.getaddrinfo

    def two(host: Any, port: Any, **options: Any) -> Any:
        return real("127.0.0.2", port, **options) + real("127.0.0.1", port, **options)

    with an_http_target() as server:
        monkeypatch.setattr(socket, "getaddrinfo", two)
        url = f"http://two.example:{server.server_port}/"
        assert get(a_connection(url), url) == (200, b"{}")


def test_a_certificate_that_nobody_vouches_for_is_refused(tmp_path: Path) -> None:
    with a_tls_target(tmp_path) as server:
        url = server.url.replace("http:", "https:")
        with pytest.raises(ssl.SSLCertVerificationError):
            get(a_connection(url), url)
    assert server.calls == []


def test_a_certificate_has_to_be_for_the_name_that_is_called(tmp_path: Path) -> None:
    with a_tls_target(tmp_path) as server:
        trusting = ssl.create_default_context(cafile=str(a_certificate_of(tmp_path)))
        right = server.url.replace("http:", "https:")
        assert get(a_connection(right, tls=trusting), right) == (200, b"{}")
        other = right.replace("127.0.0.1", "localhost")
        with pytest.raises(ssl.SSLCertVerificationError):
            get(a_connection(other, tls=trusting), other)


def a_certificate_of(folder: Path) -> Path:
    """The file that `a_secure_destination` has made."""
    file = folder / "127.0.0.1.pem"
    return file if file.exists() else a_certificate(folder)


def test_a_connection_is_used_again() -> None:
    with a_server(answer_twice) as url:
        connection = a_connection(url)
        with closing(connection):
            assert connection.get(URL(url), {}, 10) == (200, b"ok")
            assert connection.is_reusable()
            assert connection.get(URL(url), {}, 10) == (200, b"ok")


def test_a_connection_that_the_server_has_closed_meanwhile_is_opened_again() -> None:
    with a_server(answer_once, answer_once) as url:
        connection = a_connection(url)
        with closing(connection):
            assert connection.get(URL(url), {}, 10) == (200, b"ok")
            time.sleep(0.05)
            assert connection.get(URL(url), {}, 10) == (200, b"ok")


def test_a_connection_with_an_unread_body_is_not_used_again() -> None:
    with an_http_target(Answer(body=b"x" * 100)) as server:
        connection = a_connection(server.url)
        assert connection.get(URL(server.url), {}, 10) == (200, b"x" * 10)
        assert not connection.is_reusable()


def test_a_call_to_a_server_that_sends_byte_by_byte_can_be_aborted() -> None:
    failures: list[BaseException] = []

    def call() -> None:
        try:
            get(connection, url)
        except (OSError, http.client.HTTPException) as exc:
            failures.append(exc)

    with a_server(drip) as url:
        connection = a_connection(url)
        thread = threading.Thread(target=call)
        thread.start()
        time.sleep(0.2)
        connection.abort()
        thread.join(5)
        assert not thread.is_alive()
    assert len(failures) == 1


def test_a_call_that_was_aborted_before_it_was_connected_fails() -> None:
    with an_http_target() as server:
        connection = a_connection(server.url)
        connection.abort()
        with pytest.raises(TimeoutError):
            get(connection, server.url)
    assert server.calls == []


def test_an_aborted_call_tries_no_further_address(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        opened = []

        def open_and_abort(*arguments: Any) -> socket.socket:
            opened.append(arguments)
            connection.abort()
            return socket.socket()

        address = (socket.AF_INET, socket.SOCK_STREAM, 6, "", silent.getsockname())
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [address] * 5)
        monkeypatch.setattr("app.actions.guarded_connection.open_socket", open_and_abort)
        connection = a_connection("http://many.example/")
        with pytest.raises(TimeoutError):
            get(connection, "http://many.example/")
    assert len(opened) == 1


# The TLS context is made in another thread: the event loop goes on.
TLS_SCRIPT = """
import gevent.monkey
gevent.monkey.patch_all()
import ssl
from app.actions import guarded_connection

get_ident = gevent.monkey.get_original("_thread", "get_ident")
main, made_by = get_ident(), []
ssl.create_default_context = lambda: made_by.append(get_ident())
guarded_connection.tls_context()
guarded_connection.tls_context()
assert len(made_by) == 1 and made_by[0] != main, made_by
"""


def test_the_certificates_are_read_once_and_beside_the_event_loop() -> None:
    subprocess.run([sys.executable, "-c", TLS_SCRIPT], timeout=60, check=True)


# 48 calls of one account, whose names hang; then one of another account, and one for gevent's own threads.
NAMES_SCRIPT = """
from gevent import monkey
monkey.patch_all()
import socket
import gevent
from yarl import URL
from app.actions.guarded_connection import GuardedConnection
real, gate, asked = monkey.get_original("socket", "getaddrinfo"), monkey.get_original("_thread", "allocate_lock")(), []
def look_up(host, *arguments, **options):
    if host.startswith("hang") and not options.get("flags"):
        asked.append(host)
        with gate:
            raise OSError("no such name")
    return real(host, *arguments, **options)
monkey.saved["socket"]["getaddrinfo"] = look_up
def connect(name):
    try:
        GuardedConnection(URL(f"http://{name}/"), 1.0, (), None).connect()
    except OSError as exc:
        return type(exc).__name__
gate.acquire()
hanging = [gevent.spawn(connect, f"hang{number}.invalid") for number in range(48)]
with gevent.Timeout(20):
    while len(asked) < 48:
        gevent.sleep(0.01)
    assert connect("localhost") == "RefusedTarget"
    assert socket.getaddrinfo("localhost", 80)
gate.release()
gevent.joinall(hanging, raise_error=True)
"""


def test_names_that_hang_do_not_use_up_the_threads_of_a_web_process() -> None:
    subprocess.run([sys.executable, "-c", NAMES_SCRIPT], timeout=60, check=True)
