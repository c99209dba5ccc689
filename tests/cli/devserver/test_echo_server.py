"""The listener that shows a newcomer the calls of the example workflow."""

from __future__ import annotations

import http.client
import socket
from contextlib import closing

import pytest

from app.cli.devserver.echo_server import describe_call, listen, visible


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
    assert visible("x" * 80) == "x" * 80
    assert visible("x" * 81) == "x" * 80 + "…"


def test_it_answers_and_tells() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as trial:
        port = trial.getsockname()[1]
    said: list[str] = []
    url = f"http://127.0.0.1:{port}/hello"
    assert listen(url, said.append)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    with closing(connection):
        connection.request("POST", "/hello?x=1", b'{"event": "x"}')
        answer = connection.getresponse()
        assert (answer.status, answer.headers["Content-Type"]) == (200, "application/json")
        assert answer.read() == b'{"received": true}\n'
    assert said == ["call arrived: POST /hello?x=1 event=x"]
    assert not listen(url, said.append)
