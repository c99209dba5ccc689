"""The server that prints the calls of the example workflow."""

from __future__ import annotations

import http.client
import socket
from contextlib import closing

import pytest

from app.cli.devserver.echo_server import describe_call, short, start_echo_server


@pytest.mark.parametrize(
    ("body", "line"),
    [
        (b'{"event": "x", "distinct_id": "1"}', "call arrived: POST /hello event=x distinct_id=1"),
        (
            b'{"event": "a\\n\\u001b[2Jb", "distinct_id": 7}',
            r"call arrived: POST /hello event=a\n\x1b[2Jb distinct_id=7",
        ),
        (b'{"other": 1}', "call arrived: POST /hello"),
        (b"[1]", "call arrived: POST /hello"),
        (b"\xff", "call arrived: POST /hello"),
        (b"[" * 100_000, "call arrived: POST /hello"),
        (b"", "call arrived: POST /hello"),
    ],
)
def test_a_call_is_one_line(body: bytes, line: str) -> None:
    assert describe_call("POST", "/hello", body) == line


def test_long_values_are_cut() -> None:
    assert short("x" * 80) == "x" * 80
    assert short("x" * 81) == "x" * 79 + "…"


def test_a_call_is_printed_and_gets_a_response() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as trial:
        port = trial.getsockname()[1]
    lines: list[str] = []
    url = f"http://127.0.0.1:{port}/hello"
    assert start_echo_server(url, lines.append)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    with closing(connection):
        connection.request("POST", "/hello?x=1", b'{"event": "x"}')
        response = connection.getresponse()
        assert (response.status, response.headers["Content-Type"]) == (200, "application/json")
        assert response.read() == b'{"received": true}\n'
    assert lines == ["call arrived: POST /hello?x=1 event=x"]
    assert not start_echo_server(url, lines.append)
