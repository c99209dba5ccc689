"""gunicorn with our worker, spoken to through raw sockets: what is no request, or does not arrive, is told so."""

from __future__ import annotations

import json
import os
import re
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import gevent
import pytest

from app.api.server.gunicorn_worker import PatientSocket

ROOT = Path(__file__).resolve().parents[3]
BODY_TIMEOUT = 1.5
ECHO = """
import itertools

TURNS = itertools.count(1)

def app(environ, start_response):
    if environ["PATH_INFO"] == "/fails":
        raise RuntimeError("<secret>")
    if environ["PATH_INFO"] == "/unread":
        body, status = b"unread", "401 Unauthorized"
    elif environ["PATH_INFO"] == "/turn":
        body, status = b"%d" % next(TURNS), "200 OK"
    else:
        try:
            body, status = environ["wsgi.input"].read(1_000_000), "200 OK"
        except TimeoutError:
            body, status = b"late", "408 Late"
        except OSError:
            body, status = b"broken", "400 Broken"
    start_response(status, [("Content-Length", str(len(body)))])
    return [body]
"""
HOST = b"Host: x\r\n"
CHUNKED = b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n"


class Server:
    """A gunicorn with the echo app."""

    def __init__(self, folder: Path, body_timeout: float = BODY_TIMEOUT) -> None:
        (folder / "echo.py").write_text(ECHO)
        with closing(socket.socket()) as trial:
            trial.bind(("127.0.0.1", 0))
            self.port = int(trial.getsockname()[1])
        settings = {"PORT": str(self.port), "BODY_TIMEOUT": str(body_timeout)}
        self.output = folder / "output"
        with self.output.open("wb") as output:
            self.program = subprocess.Popen(
                [sys.executable, "-m", "gunicorn", "-c", str(ROOT / "deploy/gunicorn.conf.py"), "echo:app"],
                cwd=folder,
                env={**os.environ, "PYTHONPATH": str(ROOT), **settings},
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def connect(self) -> socket.socket:
        deadline = time.monotonic() + 20
        while True:
            try:
                return socket.create_connection(("127.0.0.1", self.port), timeout=20)
            except OSError:
                assert self.program.poll() is None, self.output.read_text()
                assert time.monotonic() < deadline
                time.sleep(0.05)

    def tell(self, sent: bytes) -> bytes:
        """All that it answers before it hangs up, or the first answer on a connection that it keeps."""
        with closing(self.connect()) as connection:
            connection.sendall(sent)
            return heard(connection)


def heard_while_telling(connection: socket.socket, part: bytes) -> bytes:
    """All that it answers to one who sends this part again and again for as long as the connection is there."""
    answer, sent = b"", 0
    connection.setblocking(False)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with suppress(BlockingIOError, BrokenPipeError, ConnectionResetError):
            part = part[(sent := connection.send(part)) :] + part[:sent]
        if select.select([connection], [], [], 0 if sent else 0.01)[0]:
            try:
                if not (came := connection.recv(65536)):
                    return answer
            except ConnectionResetError:
                return answer
            answer += came
        sent = 0
    raise AssertionError("it is heard out for ever")


def heard(connection: socket.socket) -> bytes:
    answer = b""
    while part := connection.recv(65536):
        answer += part
        length = re.search(rb"Content-Length: (\d+)\r\n(?:.*\r\n)*?\r\n", answer)
        if length and b"Connection: keep-alive" in answer and len(answer) >= length.end() + int(length[1]):
            break
    return answer


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    made = Server(tmp_path_factory.mktemp("gunicorn"))
    yield made
    made.program.terminate()
    made.program.wait(30)


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"\x16\x03\x01<script>\r\n\r\n", 400),
        (b"HELLO<script>\r\n\r\n", 400),
        (b"get<script> / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/3.0\r\n\r\n", 505),
        (b"GET / HTTP/1.1\nHost: <script>\n\n", 400),
        (b"GET /" + b"<script>" * 1_000 + b" HTTP/1.1\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\n<script>\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n<script>: 1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nX: <script>\0\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nX: 1\r\n <script>\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nX: " + b"<script>" * 1_200 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\n" + b"X: <script>\r\n" * 100 + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\n" + (b"X: " + b"<script>" * 1_000 + b"\r\n") * 100 + b"\r\n", 431),
        (b"POST / HTTP/1.1\r\nContent-Length: <script>\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", 400),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: <script>\r\n\r\n", 501),
        (b"POST / HTTP/1.1\r\nExpect: <script>\r\n\r\n", 417),
        (b"GET /fails HTTP/1.1\r\n" + HOST + b"\r\n", 500),
    ],
)
def test_what_is_no_request_is_answered_with_a_problem_document(server: Server, sent: bytes, status: int) -> None:
    head, _, body = server.tell(sent).partition(b"\r\n\r\n")
    assert head.startswith(f"HTTP/1.1 {status} ".encode())
    assert b"Content-Type: application/problem+json\r\n" in head + b"\r\n"
    assert re.search(rb"\r\nX-Request-Id: [0-9a-f]{32}\r\n", head)
    problem = json.loads(body)
    assert (problem["type"], problem["status"]) == ("about:blank", status)
    assert problem["title"]
    assert problem["detail"]
    assert b"script" not in head + body
    assert b"secret" not in head + body


def test_a_whole_body_arrives(server: Server) -> None:
    assert server.tell(b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\n\r\nhello").endswith(b"\r\n\r\nhello")
    assert server.tell(CHUNKED + b"5\r\nhello\r\n0\r\n\r\n").endswith(b"\r\n\r\nhello")


@pytest.mark.parametrize("sent", [b"Content-Length: 50\r\n\r\nhello", b"Transfer-Encoding: chunked\r\n\r\n5\r\nhel"])
def test_a_body_that_does_not_arrive_raises_timeouterror_in_the_app(server: Server, sent: bytes) -> None:
    answer = server.tell(b"POST / HTTP/1.1\r\n" + HOST + sent)
    assert answer.startswith(b"HTTP/1.1 408 Late\r\n")
    assert b"Connection: close\r\n" in answer


def test_a_body_that_drips_is_late_all_the_same(server: Server) -> None:
    with closing(server.connect()) as connection:
        connection.sendall(b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 500\r\n\r\n")
        for _ in range(int(BODY_TIMEOUT / 0.1) - 2):
            connection.sendall(b"x")
            time.sleep(0.1)
        assert heard(connection).startswith(b"HTTP/1.1 408 Late\r\n")


@pytest.mark.parametrize(("path", "status"), [(b"/", b"408 Late"), (b"/unread", b"401 Unauthorized")])
def test_a_body_that_keeps_coming_is_late_all_the_same(server: Server, path: bytes, status: bytes) -> None:
    with closing(server.connect()) as connection:
        connection.sendall(CHUNKED.replace(b"/", path, 1))
        assert re.findall(rb"HTTP/1.1 (.*)\r", heard_while_telling(connection, b"1;%s\r\nx\r\n" % (b"x" * 4_000))) == [
            status
        ]


def test_a_body_that_nobody_reads_takes_no_answer_away(server: Server) -> None:
    size = 30_000_000
    sent = b"POST /unread HTTP/1.1\r\n" + HOST + b"Content-Length: %d\r\n\r\n" % size
    answer = server.tell(sent + b"x" * size)
    assert answer.startswith(b"HTTP/1.1 401 Unauthorized\r\n")
    assert b"Connection: keep-alive\r\n" in answer


def test_a_body_without_end_that_nobody_reads_has_one_answer(server: Server) -> None:
    with closing(server.connect()) as connection:
        connection.sendall(b"POST /unread HTTP/1.1\r\n" + HOST + b"Content-Length: 999999999999\r\n\r\n")
        answer = heard_while_telling(connection, b"x" * 1_000_000)
    assert re.findall(rb"HTTP/1.1 (.*)\r", answer) == [b"401 Unauthorized"]


@pytest.mark.parametrize("colon", [b":", b": "])
def test_one_who_sends_many_requests_at_once_lets_others_in_between(server: Server, colon: bytes) -> None:
    turn = b"GET /turn HTTP/1.1\r\nHost" + colon + b"x\r\n\r\n"
    with closing(server.connect()) as connection, closing(server.connect()) as other:
        other.sendall(turn)
        before = int(heard(other).rpartition(b"\n")[2])
        connection.sendall(turn * 5_000)
        connection.recv(1)
        other.sendall(turn)
        after = int(heard(other).rpartition(b"\n")[2])
    assert 1 < after - before < 4_000


def test_a_broken_chunk_raises_oserror_in_the_app_and_ends_the_connection(server: Server) -> None:
    answer = server.tell(CHUNKED + b"zz\r\nhello\r\n0\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400 Broken\r\n")
    assert b"Connection: close\r\n" in answer


def test_a_head_that_is_not_finished_is_answered_408(server: Server) -> None:
    assert server.tell(b"POST / HTTP/1.1\r\nHos").startswith(b"HTTP/1.1 408 Request time-out\r\n")


def test_a_head_that_is_begun_right_behind_a_request_has_no_more_time(server: Server) -> None:
    with closing(server.connect()) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\n" + HOST + b"\r\nGET / HTTP/1.1\r\nHos")
        answer = b""
        while part := connection.recv(65536):
            answer += part
    assert re.findall(rb"HTTP/1.1 (\d+)", answer) == [b"200", b"408"]


def test_a_connection_on_which_nothing_comes_is_closed_without_a_word(server: Server) -> None:
    assert server.tell(b"") == b""


def test_nothing_of_this_but_our_own_failure_is_an_error_in_the_log(server: Server) -> None:
    server.tell(b"POST /unread HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n")
    errors = [line for line in server.output.read_text().splitlines() if "[ERROR]" in line or "[CRITICAL]" in line]
    assert [line for line in errors if "Error handling request" not in line] == []


@pytest.fixture(scope="module")
def threaded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    made = Server(tmp_path_factory.mktemp("gunicorn"))
    yield made
    made.program.terminate()
    made.program.wait(30)


def test_many_who_say_nothing_or_do_not_hang_up_hold_up_nobody(threaded: Server) -> None:
    with ExitStack() as stack:
        for _ in range(40):
            stack.enter_context(closing(threaded.connect()))
        for _ in range(5):
            stays = stack.enter_context(closing(threaded.connect()))
            stays.sendall(b"GET / HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n")
        began = time.monotonic()
        assert threaded.tell(b"GET / HTTP/1.1\r\n" + HOST + b"\r\n").startswith(b"HTTP/1.1 200 OK")
        assert time.monotonic() - began < BODY_TIMEOUT


def test_each_request_of_a_kept_connection_has_a_deadline_of_its_own(threaded: Server) -> None:
    with closing(threaded.connect()) as connection:
        for _ in range(3):
            connection.sendall(b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\n\r\nhello")
            assert heard(connection).endswith(b"hello")
            time.sleep(BODY_TIMEOUT * 0.7)


def test_nothing_follows_an_answer_that_broke_off() -> None:
    ours, client = socket.socketpair()
    with closing(client), closing(PatientSocket(ours, patience=20, keepalive=20)) as connection:
        sender = gevent.spawn(connection.sendall, b"x" * 50_000_000)
        gevent.sleep(0)
        assert not sender.ready()
        sender.kill()
        with pytest.raises(BrokenPipeError):
            connection.sendall(b"HTTP/1.1 500 Internal error\r\n")
        client.settimeout(20)
        while part := client.recv(1_000_000):
            assert b"HTTP" not in part


def test_stopping_does_not_wait_for_connections_without_a_request(tmp_path: Path) -> None:
    server = Server(tmp_path)
    assert server.tell(b"GET / HTTP/1.1\r\n" + HOST + b"\r\n")
    with closing(server.connect()), closing(server.connect()) as kept:
        kept.sendall(b"GET / HTTP/1.1\r\n" + HOST + b"\r\n")
        heard(kept)
        time.sleep(0.2)
        server.program.terminate()
        assert server.program.wait(15) == 0
    assert "[ERROR]" not in server.output.read_text()


def until_refused(server: Server) -> None:
    """Wait until nobody can connect any more: its processes know that they are to stop."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", server.port), timeout=20).close()
        except OSError:
            return
        time.sleep(0.02)
    raise AssertionError("it still takes connections")


def test_a_request_that_is_on_its_way_when_stopping_is_answered_and_told_that_it_is_the_last(tmp_path: Path) -> None:
    server = Server(tmp_path, body_timeout=20)
    with closing(server.connect()) as sender:
        sender.sendall(b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\n\r\nhel")
        # Its turn has come, since that of one who came later has.
        assert server.tell(b"GET / HTTP/1.1\r\n" + HOST + b"\r\n")
        server.program.terminate()
        until_refused(server)
        sender.sendall(b"lo")
        answer = heard(sender)
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\r\nConnection: close\r\n" in answer
    assert answer.endswith(b"hello")
    assert server.program.wait(15) == 0


def test_more_than_one_process_without_redis_is_refused(tmp_path: Path) -> None:
    (tmp_path / "echo.py").write_text(ECHO)
    done = subprocess.run(
        [sys.executable, "-m", "gunicorn", "-c", str(ROOT / "deploy/gunicorn.conf.py"), "echo:app"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "WEB_CONCURRENCY": "2", "BIND": "unix:" + str(tmp_path / "socket")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("Refused to start 2 web processes without REDIS_URL")
    assert "Traceback" not in done.stderr
