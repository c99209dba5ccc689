"""deploy/nginx.conf: what nginx refuses itself is answered in the format of the route, whatever was sent."""

from __future__ import annotations

import json
import re
import socket
import ssl
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from app.core.errors import ProblemType
from bench.servers import free_port, nginx
from tests.support.certificates import a_certificate

HOST = b"Host: x\r\n"
# The location to which others are added.
LOCATION = "        location / {\n            limit_req"
# Each status that nginx answers by itself, and what senders get for it.
STATUSES = {
    400: 400,
    403: 403,
    404: 404,
    405: 405,
    413: 413,
    414: 414,
    421: 400,
    429: 429,
    431: 431,
    494: 431,
    495: 400,
    496: 400,
    497: 400,
    500: 500,
    501: 501,
    502: 503,
    503: 503,
    504: 503,
    505: 505,
}
MALFORMED = [
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(50), 400),
    (b"HELLO\r\n\r\n", 400),
    (b"GET\r\n\r\n", 400),
    (b"GET  HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    (b"get / HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    (b"GET / FTP/1.1\r\n" + HOST + b"\r\n", 400),
    (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    (b"GET x HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    (b"GET ? HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    (b"GET # HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    (b"GET http:// HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    (b"GET http:///a HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    (b"GET http://[::1 HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    (b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    (b"CONNECT a:80 HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    (b"GET /\x00 HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    (b"GET /%00 HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    (b"GET /%zz HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    (b"GET /../.. HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    (b"GET /a b HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    (b"GET / HTTP/1.1\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost:\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: /\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\n" + HOST * 2 + b"\r\n", 400),
    (b"GET / HTTP/1.1\r\n" + HOST + b"X: \x00\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\n" + HOST + b"X y: 1\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: a\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab", 400),
    (b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n", 400),
    (b"POST / HTTP/1.0\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n\r\n", 400),
    (b"TRACE / HTTP/1.1\r\n" + HOST + b"\r\n", 405),
    (b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 99999999\r\n\r\n", 413),
    (b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\nfffffff\r\n" + b"x" * 50_000, 413),
    (b"GET /" + b"x" * 40_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n", 414),
    (b"G" * 40_000, 414),
    (b"GET / HTTP/1.1\r\nX: " + b"y" * 40_000 + b"\r\n\r\n", 431),
    (b"GET / HTTP/1.1\r\n" + HOST + b"X: y\r\n" * 20_000 + b"\r\n", 431),
    (b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: gzip\r\n\r\n", 501),
    (b"GET / HTTP/2.0\r\n" + HOST + b"\r\n", 505),
    (b"GET / HTTP/3.0\r\n\r\n", 505),
    # No web process answers.
    (b"GET / HTTP/1.1\r\n" + HOST + b"\r\n", 503),
]


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """nginx without a web process behind it. `/STATUS` and `/1.0/STATUS` fail with each status."""
    failing = "".join(
        f"location ={prefix}/{status} {{ return {status}; }}\n" for prefix in (" ", " /1.0") for status in STATUSES
    )
    with nginx(tmp_path_factory.mktemp("nginx"), free_port(), {LOCATION: failing + LOCATION}) as running:
        yield running


def _send(port: int, request: bytes, *, context: ssl.SSLContext | None = None) -> tuple[bytes, bytes]:
    """Head and body of the first response, or of all up to the end of the connection."""
    received = b""
    raw = socket.create_connection(("127.0.0.1", port), timeout=20)
    with closing(context.wrap_socket(raw) if context else raw) as connection, suppress(ConnectionError):
        connection.sendall(request)
        while part := connection.recv(65536):
            received += part
            end = re.search(rb"Content-Length: (\d+)\r\n(?:.*\r\n)*?\r\n", received)
            if end and len(received) >= end.end() + int(end[1]):
                break
    head, _, body = received.partition(b"\r\n\r\n")
    return head, body


def _check_problem(head: bytes, body: bytes, status: int) -> None:
    assert head.startswith(f"HTTP/1.1 {status} ".encode())
    problem = json.loads(body)
    assert (problem["type"], problem["title"]) in {
        (kind.urn, kind.title) for kind in ProblemType if kind.status == status
    }
    assert problem["status"] == status
    assert problem["detail"]
    _check_fields(head, b"application/problem+json")


def _check_fields(head: bytes, content_type: bytes) -> None:
    assert b"\r\nContent-Type: " + content_type + b"\r\n" in head
    assert re.search(rb"\r\nX-Request-Id: [0-9a-f]{32}\r\n", head)
    assert b"\r\nCache-Control: no-store\r\n" in head
    assert b"\r\nX-Content-Type-Options: nosniff" in head


@pytest.mark.parametrize(("sent", "status"), MALFORMED)
def test_what_is_malformed_is_answered_by_a_problem_document(port: int, sent: bytes, status: int) -> None:
    _check_problem(*_send(port, sent), status)


@pytest.mark.parametrize(("own", "status"), STATUSES.items())
def test_every_status_of_nginx_becomes_a_problem_document(port: int, own: int, status: int) -> None:
    head, body = _send(port, b"GET /%d HTTP/1.1\r\n" % own + HOST + b"\r\n")
    _check_problem(head, body, status)
    assert (b"\r\nRetry-After: " in head) is (status in (429, 503))


@pytest.mark.parametrize(("own", "status"), STATUSES.items())
def test_every_status_of_nginx_has_cxengage_s_format_on_its_routes(port: int, own: int, status: int) -> None:
    head, body = _send(port, b"GET /1.0/%d HTTP/1.1\r\n" % own + HOST + b"\r\n")
    assert head.startswith(f"HTTP/1.1 {status} ".encode())
    _check_fields(head, b"application/json")
    assert json.loads(body).keys() == {"error"}
    if status == 429:
        assert json.loads(body) == {"error": "Exceeded rate limit"}


@pytest.mark.parametrize(
    "path", [b"/1.0/tenants/t/event", b"/tenants/t/event?a=b", b"/version", b"/token", b"/account"]
)
def test_cxengage_s_senders_are_told_of_an_outage_as_by_cxengage(port: int, path: bytes) -> None:
    head, body = _send(port, b"GET " + path + b" HTTP/1.1\r\n" + HOST + b"\r\n")
    assert head.startswith(b"HTTP/1.1 403 ")
    assert b"\r\nRetry-After: 5" in head
    assert json.loads(body) == {"error": "Timeout ocurred"}


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"POST /1.0/tenants/t/event HTTP/1.1\r\n" + HOST + b"Content-Length: 99999999\r\n\r\n", 413),
        (b"POST /tenants/t/event HTTP/1.1\r\n" + HOST + b"Content-Length: a\r\n\r\n", 400),
        (b"GET /version HTTP/1.1\r\n\r\n", 400),
        (b"GET /token HTTP/1.1\r\nX: " + b"y" * 40_000 + b"\r\n\r\n", 431),
    ],
)
def test_what_is_malformed_is_answered_in_cxengage_s_format_on_its_routes(port: int, sent: bytes, status: int) -> None:
    head, body = _send(port, sent)
    assert head.startswith(f"HTTP/1.1 {status} ".encode())
    assert json.loads(body).keys() == {"error"}


def test_a_path_that_begins_like_one_of_cxengage_s_is_none(port: int) -> None:
    _check_problem(*_send(port, b"GET /1.0x HTTP/1.1\r\n" + HOST + b"\r\n"), 503)


@pytest.mark.parametrize(("sent", "repeated"), [(b"my-id/7", True), (b"<my-id>", False)])
def test_a_refusal_repeats_a_valid_request_id(port: int, sent: bytes, repeated: bool) -> None:
    head, _ = _send(port, b"GET / HTTP/1.1\r\n" + HOST + b"X-Request-Id: " + sent + b"\r\n\r\n")
    assert (b"\r\nX-Request-Id: " + sent in head) is repeated


def test_a_port_for_https_answers_plain_http_and_missing_certificates_with_problem_documents(tmp_path: Path) -> None:
    certificate = a_certificate(tmp_path)
    clients = {"server_name events.example.com;": f"ssl_verify_client on; ssl_client_certificate {certificate};"}
    ours = ssl.create_default_context(cafile=str(certificate))
    ours.check_hostname = False
    with nginx(tmp_path, free_port(), clients, certificate=certificate) as port:
        _check_problem(*_send(port, b"GET / HTTP/1.1\r\n" + HOST + b"\r\n"), 400)
        with_none = _send(port, b"GET / HTTP/1.1\r\n" + HOST + b"\r\n", context=ours)
    _check_problem(*with_none, 400)


def test_nginx_ends_the_connection_of_a_sender_that_stops_without_a_response(tmp_path: Path) -> None:
    sent = b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 10\r\n\r\nab"
    changes = {"client_body_timeout 20s": "client_body_timeout 1s"}
    with nginx(tmp_path, free_port(), changes) as port:
        assert _send(port, sent) == (b"", b"")
