"""What is not valid HTTP is refused with a problem document, and its connection is closed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest

from app.core.errors import ProblemType
from tests.support.gunicorn import Gunicorn, running_gunicorn

HOST = b"Host: x\r\n"
CHUNKED = b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gunicorn]:
    with running_gunicorn(tmp_path_factory.mktemp("gunicorn")) as running:
        yield running


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
        (b"GET / HTTP/1.1\r\n" + HOST + b"\r\nGET<script>\r\n\r\n", 400),
    ],
)
def test_what_is_no_request_is_answered_with_a_problem_document(server: Gunicorn, sent: bytes, status: int) -> None:
    head, _, body = server.exchange_all(sent).rpartition(b"\r\n\r\n")
    assert f"HTTP/1.1 {status} ".encode() in head
    assert b"Content-Type: application/problem+json\r\n" in head + b"\r\n"
    assert re.search(rb"\r\nX-Request-Id: [0-9a-f]{32}\r\n", head)
    assert b"\r\nConnection: close" in head
    assert b"\r\nCache-Control: no-store\r\n" in head
    assert b"\r\nX-Content-Type-Options: nosniff\r\n" in head
    problem = json.loads(body)
    kind = ProblemType.of_status(status)
    assert (problem["type"], problem["title"], problem["status"]) == (kind.urn, kind.title, status)
    assert problem["detail"]
    assert b"script" not in head + body
    assert b"secret" not in head + body


def test_only_failures_of_the_app_are_errors_in_the_log(server: Gunicorn) -> None:
    server.exchange(b"POST /unread HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n")
    server.exchange(b"GET /fails HTTP/1.1\r\n" + HOST + b"\r\n")
    written = server.output.read_text()
    entries = [json.loads(line) for line in written.splitlines()]
    errors = [entry for entry in entries if entry["level"] in ("error", "critical")]
    assert errors != []
    assert [entry for entry in errors if f"Error handling request {entry['request_id']}\n" not in entry["event"]] == []
    assert written.count("Traceback") == len(errors)
    # The message of an exception may quote what was sent.
    assert "<secret>" not in written.replace(r"raise RuntimeError(\"<secret>\")", "")


def test_a_refused_client_that_is_still_sending_gets_its_response(server: Gunicorn) -> None:
    answer = server.exchange(b"BREW" * 2_000_000)
    assert answer.startswith(b"HTTP/1.1 414 ")


def test_a_whole_body_arrives(server: Gunicorn) -> None:
    sent = b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\n\r\nhello"
    assert server.exchange(sent).endswith(b"\r\n\r\nhello")
    assert server.exchange(CHUNKED + b"5\r\nhello\r\n0\r\n\r\n").endswith(b"\r\n\r\nhello")


@pytest.mark.parametrize("path", [b"/", b"/unread"])
def test_a_broken_chunk_ends_the_connection(server: Gunicorn, path: bytes) -> None:
    following = b"GET / HTTP/1.1\r\n" + HOST + b"\r\n"
    answer = server.exchange_all(CHUNKED.replace(b"/", path, 1) + b"zz\r\nhello\r\n0\r\n\r\n" + following)
    status, says_so = (b"400 Broken", True) if path == b"/" else (b"401 Unauthorized", False)
    assert re.findall(rb"HTTP/1.1 (.*)\r", answer) == [status]
    assert (b"Connection: close\r\n" in answer) is says_so


@pytest.mark.parametrize(
    "framing", [b"Content-Length: 5\r\n\r\n%shello", b"Transfer-Encoding: chunked\r\n\r\n%s5\r\nhello\r\n0\r\n\r\n"]
)
def test_a_client_that_waits_for_100_continue_gets_it(server: Gunicorn, framing: bytes) -> None:
    head, _, body = (b"POST / HTTP/1.1\r\n" + HOST + b"Expect: 100-continue\r\n" + framing).partition(b"%s")
    with server.connect() as connection:
        connection.sendall(head)
        assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(body + b"GET /count HTTP/1.1\r\nConnection: close\r\n\r\n")
        received = b""
        while part := connection.recv(65536):
            received += part
    assert re.findall(rb"HTTP/1.1 (.*)\r", received) == [b"200 OK", b"200 OK"]
    assert b"\r\n\r\nhelloHTTP" in received


def test_a_client_of_http_1_0_gets_no_100_continue(server: Gunicorn) -> None:
    sent = b"POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello"
    assert server.exchange(sent).startswith(b"HTTP/1.1 200 OK\r\n")
