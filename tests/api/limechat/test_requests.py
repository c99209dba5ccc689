"""`POST /api/v1/cvf-events`: requests, their size and their time, over real sockets."""

from __future__ import annotations

import gzip
import json
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.services.context import AppContext
from tests.api.conftest import Rows, settings_of
from tests.api.limechat.conftest import LIMIT, assert_problem, counts, stored
from tests.support.builders import EVENTS_PATH, Sender, a_sender, an_event
from tests.support.server import Server, running_server


@pytest.fixture(scope="module")
def small_server(context: AppContext) -> Iterator[Server]:
    """One with limits that a test reaches soon."""
    with running_server(**settings_of(context), MAX_EVENT_BYTES="2000", BODY_TIMEOUT="1") as running:
        yield running


# The seed's own examples


def the_seeds_requests() -> list[tuple[dict[str, str], str]]:
    """The headers and the body of each curl command, exactly as printed."""
    text = (Path(__file__).parent / "limechat_custom_events.md").read_text("utf-8")
    commands = re.findall(r"^curl (.*?)^```", text, re.DOTALL | re.MULTILINE)
    return [
        (
            dict(re.findall(r"--header '([^:]+): ([^']*)'", command)),
            re.search(r"--data '([^']*)'", command)[1],  # type: ignore[index]
        )
        for command in commands
    ]


@pytest.mark.parametrize(("example", "status"), [(0, 200), (1, 400), (2, 200)])
def test_the_seeds_examples_are_answered_as_printed(shared: Sender, server: Server, example: int, status: int) -> None:
    headers, body = the_seeds_requests()[example]
    filled = {
        name: value.replace("<token>", shared.token).replace("<account_id>", str(shared.account_id))
        for name, value in headers.items()
    }
    assert filled.keys() == {"Content-Type", "x-limechat-uat", "x-fb-account-id"}
    assert server.post(EVENTS_PATH, data=body.encode(), headers=filled).status_code == status


def test_the_seeds_missing_comma_is_pointed_at(shared: Sender) -> None:
    _, body = the_seeds_requests()[1]
    problem = assert_problem(shared.post(body), 400)
    assert "line 9, column 9" in problem["detail"]
    assert body.splitlines()[8][8:].startswith('"currency"')


def test_the_seeds_third_example_is_stored_as_sent(shared: Sender, rows: Rows) -> None:
    _, body = the_seeds_requests()[2]
    assert stored(rows, shared.post(body))["data"] == json.loads(body)["data"]


# Content-Type and Content-Encoding


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json",
        "application/json; charset=utf-8",
        "application/json;charset=UTF-8",
        'application/json; charset="utf-8"',
        "application/json; charset=utf8",
        "application/json; profile=events",
        "Application/JSON",
    ],
)
def test_json_with_any_parameters_is_accepted(shared: Sender, content_type: str) -> None:
    assert shared.post(an_event(), Content_Type=content_type).status_code == 200


@pytest.mark.parametrize(
    "content_type",
    [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/problem+json",
        "application/x-ndjson",
        "json",
        "",
        "application/json; charset=latin-1",
        "application/json; charset=utf-16",
    ],
)
def test_other_media_types_are_refused(shared: Sender, content_type: str) -> None:
    problem = assert_problem(shared.post(an_event(), Content_Type=content_type), 415)
    assert "application/json" in problem["detail"] or "utf-8" in problem["detail"]


def test_a_missing_content_type_is_refused(shared: Sender, server: Server) -> None:
    answer = server.post(EVENTS_PATH, data=json.dumps(an_event()).encode(), headers=shared.headers())
    assert "missing" in assert_problem(answer, 415)["detail"]


@pytest.mark.parametrize("encoding", ["gzip", "GZip"])
def test_gzip_is_unpacked(shared: Sender, rows: Rows, encoding: str) -> None:
    answer = shared.post(gzip.compress(json.dumps(an_event()).encode()), Content_Encoding=encoding)
    assert stored(rows, answer)["data"] == an_event()["data"]


def test_gzip_with_several_members_is_accepted(shared: Sender) -> None:
    body = json.dumps(an_event()).encode()
    assert shared.post(gzip.compress(body[:20]) + gzip.compress(body[20:]), Content_Encoding="gzip").status_code == 200
    each = b"".join(gzip.compress(body[index : index + 1]) for index in range(len(body)))
    assert shared.post(each, Content_Encoding="gzip").status_code == 200
    # Members larger than a piece that is read at a time, with little between them.
    large = [json.dumps({"event": "large", "distinct_id": "1", "data": {"x": os.urandom(60_000).hex()}}).encode()]
    large += [b" ", b" " * 200]
    assert shared.post(b"".join(map(gzip.compress, large)), Content_Encoding="gzip").status_code == 200


def test_the_encoding_identity_is_none(shared: Sender) -> None:
    assert shared.post(an_event(), Content_Encoding="identity").status_code == 200


@pytest.mark.parametrize("encoding", ["br", "deflate", "zstd", "gzip, gzip", "aws-chunked"])
def test_other_encodings_are_refused_with_the_supported_one(shared: Sender, encoding: str) -> None:
    answer = shared.post(an_event(), Content_Encoding=encoding)
    assert_problem(answer, 415)
    assert answer.headers["Accept-Encoding"] == "gzip"


def test_a_chunked_body_is_accepted(shared: Sender, server: Server) -> None:
    body = json.dumps(an_event()).encode()
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:7], body[7:100], body[100:]))
    fields = {**shared.headers(), "Host": "x", "Content-Type": "application/json", "Transfer-Encoding": "chunked"}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    request = f"POST {EVENTS_PATH} HTTP/1.1\r\n{head}\r\n".encode() + chunks + b"0\r\n\r\n"
    assert server.exchange(request).status_code == 200


def test_expect_100_continue_is_answered(shared: Sender, server: Server) -> None:
    body = json.dumps(an_event()).encode()
    fields = {**shared.headers(), "Host": "x", "Content-Type": "application/json", "Expect": "100-continue"}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        client.sendall(f"POST {EVENTS_PATH} HTTP/1.1\r\n{head}Content-Length: {len(body)}\r\n\r\n".encode())
        assert client.recv(100).startswith(b"HTTP/1.1 100 Continue")
        client.sendall(body)
        assert client.recv(100).startswith(b"HTTP/1.1 200 OK")


def test_headers_without_a_space_after_the_colon_are_read(shared: Sender, server: Server) -> None:
    body = json.dumps(an_event()).encode()
    fields = {**shared.headers(), "Host": "x", "Content-Type": "application/json", "Content-Length": str(len(body))}
    head = "".join(f"{name}:{value}\r\n" for name, value in fields.items())
    assert server.exchange(f"POST {EVENTS_PATH} HTTP/1.1\r\n{head}\r\n".encode() + body).status_code == 200


# The size


def a_body_of(size: int) -> bytes:
    """An event whose body has exactly `size` bytes."""
    body = json.dumps(an_event(data={"filler": ""})).encode()
    return body.replace(b'"filler": "', b'"filler": "' + b"x" * (size - len(body)))


def test_a_body_of_exactly_the_limit_is_accepted(shared: Sender) -> None:
    assert len(a_body_of(LIMIT)) == LIMIT
    assert shared.post(a_body_of(LIMIT)).status_code == 200


def test_a_body_of_one_byte_more_is_refused(shared: Sender) -> None:
    assert str(LIMIT) in assert_problem(shared.post(a_body_of(LIMIT + 1)), 413)["detail"]


def test_a_gzip_body_that_unpacks_to_exactly_the_limit_is_accepted(shared: Sender) -> None:
    assert shared.post(gzip.compress(a_body_of(LIMIT)), Content_Encoding="gzip").status_code == 200


def test_a_gzip_body_of_one_byte_more_when_unpacked_is_refused(shared: Sender) -> None:
    assert_problem(shared.post(gzip.compress(a_body_of(LIMIT + 1)), Content_Encoding="gzip"), 413)


def test_a_sender_of_too_much_gets_to_read_the_answer_at_its_end(shared: Sender) -> None:
    assert_problem(shared.post(b"x" * 5_000_000), 413)


def test_a_sender_of_far_too_much_gets_the_answer_before_its_end(shared: Sender, server: Server) -> None:
    fields = {**shared.headers(), "Host": "x", "Content-Type": "application/json", "Content-Length": "50000000"}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    request = f"POST {EVENTS_PATH} HTTP/1.1\r\n{head}\r\n".encode() + b"x" * 50_000_000
    assert_problem(server.exchange(request), 413)


def test_a_sender_that_is_refused_before_its_large_body_is_read_gets_to_read_the_answer(server: Server) -> None:
    headers = {"x-limechat-uat": "wrong", "x-fb-account-id": "1", "Content-Type": "application/json"}
    for size in (LIMIT, 5_000_000):
        assert_problem(server.post(EVENTS_PATH, data=b"x" * size, headers=headers), 401)


def test_the_limit_is_a_setting(context: AppContext, small_server: Server) -> None:
    sender = a_sender(context, small_server)
    assert sender.post(a_body_of(2000)).status_code == 200
    assert_problem(sender.post(a_body_of(2001)), 413)


# Other methods and addresses


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"])
def test_only_post_is_allowed(shared: Sender, server: Server, method: str) -> None:
    answer = server.open(EVENTS_PATH, method=method, headers=shared.headers())
    assert answer.status_code == 405
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert "POST" in answer.headers["Allow"]
    assert answer.headers["X-Request-Id"]
    if method != "HEAD":
        assert_problem(answer, 405)
        assert answer.json["detail"] == "This path takes POST."


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/api/v1/cvf-event",
        "/api/v1/cvf-events/",
        "/API/v1/cvf-events",
        "/api/v1/../v1/cvf-events",
        "/api//v1/cvf-events",
        "/api/v1/cvf-events;x",
        "/api/v1/cvf-events%00",
        "/api/v1/cvf-events%0d%0aX-Injected:%20yes",
        "/%ff%fe",
        "/<script>alert(1)</script>",
        "/static/../../etc/passwd",
    ],
)
def test_other_addresses_are_not_found(shared: Sender, server: Server, path: str) -> None:
    body = json.dumps(an_event()).encode()
    answer = server.post(path, data=body, headers={**shared.headers(), "Content-Type": "application/json"})
    assert_problem(answer, 404)
    assert "/openapi.json" in answer.json["detail"]
    assert "script" not in answer.text
    assert "X-Injected" not in answer.headers


def test_a_query_changes_nothing(shared: Sender, server: Server) -> None:
    body = json.dumps(an_event()).encode()
    headers = {**shared.headers(), "Content-Type": "application/json"}
    assert server.post(EVENTS_PATH + "?x=1&event=other", data=body, headers=headers).json["event"] == "product_view"


# Time-outs


def test_a_body_that_arrives_late_gets_408(context: AppContext, small_server: Server, rows: Rows) -> None:
    sender = a_sender(context, small_server)
    fields = {**sender.headers(), "Host": "x", "Content-Type": "application/json", "Content-Length": "500"}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    answer = small_server.exchange(f"POST {EVENTS_PATH} HTTP/1.1\r\n{head}\r\n{{".encode())
    assert_problem(answer, 408)
    assert answer.headers["Connection"] == "close"
    assert counts(rows, sender) == (0, 0, 0)


def test_a_head_that_arrives_late_gets_408(small_server: Server) -> None:
    assert_problem(small_server.exchange(f"POST {EVENTS_PATH} HTTP/1.1\r\nHost: x\r\n".encode()), 408)
