"""The action `http`: requests, outcomes, what is stored, and validation."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks import Webhook

from app.actions import http
from tests.support.action_contexts import DATA_JSON, KEY, NOW, SECRET, a_run, a_tls_target, an_event, perform
from tests.support.http_target import Answer, Call, an_http_target

JSON = ("Content-Type", "application/json")


def sent(fields: dict[str, Any], **changes: Any) -> Call:
    """The received call of a step with these fields."""
    with an_http_target() as server:
        path = fields.pop("path", "/hook")
        outcome = perform({"http": {"url": server.url + path, **fields}}, **changes)
        assert outcome.kind == "done", outcome
        (call,) = server.calls
        return call


def answered(answer: Answer, **fields: Any) -> Any:
    """The outcome of a call with this response."""
    with an_http_target(answer) as server:
        return perform({"http": {"url": server.url, **fields}})


# Requests


def test_the_event_is_sent_with_unchanged_data() -> None:
    call = sent({})
    assert f'"data":{DATA_JSON}' in call.body.decode()
    assert {name: value for name, value in call.json.items() if name != "data"} == {
        "event": "order_placed",
        "distinct_id": "915673412780",
        "phone": "+915673412780",
        "received_at": "2026-11-22T12:00:00.123456Z",
        "run": {"id": "019a0000-0000-7000-8000-000000000002", "workflow": "cart-rescue", "version": 3},
    }


def test_the_time_at_which_the_event_happened_is_sent_if_there_is_one() -> None:
    event = an_event(occurred_at=datetime(2026, 11, 22, 11, 0, tzinfo=UTC))
    call = sent({}, run=a_run(event=event))
    assert call.json["occurred_at"] == "2026-11-22T11:00:00.000000Z"


def test_the_default_method_is_post() -> None:
    assert sent({}).method == "POST"
    assert sent({"method": "PUT"}).method == "PUT"


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_a_call_without_content_has_no_body(method: str) -> None:
    call = sent({"method": method})
    assert call.body == b""
    assert "Content-Type" not in call.headers


def test_json_is_rendered_at_any_depth() -> None:
    call = sent({"json": {"to": "{{ phone }}", "lines": [{"price": "{{ data.price }}", "vip": True, "n": 1.5}]}})
    assert call.json == {"to": "+915673412780", "lines": [{"price": 1999, "vip": True, "n": 1.5}]}
    assert call.headers["Content-Type"] == "application/json"


def test_a_json_of_null_is_a_body() -> None:
    assert sent({"json": None}).body == b"null"


def test_a_body_is_rendered() -> None:
    call = sent({"body": "price={{ data.price }}"})
    assert call.body == b"price=1999"
    assert call.headers["Content-Type"] == "text/plain; charset=utf-8"


def test_a_body_may_have_another_content_type() -> None:
    call = sent({"body": "a=b", "headers": {"content-type": "application/x-www-form-urlencoded"}})
    assert call.headers["Content-Type"] == "application/x-www-form-urlencoded"


def test_headers_and_url_are_rendered() -> None:
    call = sent(
        {"path": "/{{ event }}?to={{ phone | url_encode }}", "headers": {"X-Price": "{{ data.price }}", "N": 7}}
    )
    assert call.path == "/order_placed?to=%2B915673412780"
    assert (call.headers["X-Price"], call.headers["N"]) == ("1999", "7")


def test_the_idempotency_key_is_sent() -> None:
    call = sent({})
    assert call.headers["Idempotency-Key"] == KEY
    assert call.headers["webhook-id"] == f"msg_{KEY}"


@pytest.mark.parametrize("fields", [{}, {"json": {"ü": "{{ phone }}"}}, {"body": "ü"}, {"method": "GET"}])
def test_each_call_is_signed_by_standard_webhooks(fields: dict[str, Any]) -> None:
    call = sent(dict(fields))
    sent_at = call.headers["webhook-timestamp"]
    assert sent_at == str(int(NOW.timestamp()))
    assert Webhook(SECRET).sign(f"msg_{KEY}", NOW, call.body.decode()) == call.headers["webhook-signature"]


def test_the_user_agent_is_signalbox() -> None:
    assert re.fullmatch(r"Signalbox/\S+", sent({}).headers["User-Agent"])


def test_lone_surrogates_do_not_break_the_call() -> None:
    assert sent({"json": {"a": "\ud800"}}).json == {"a": "?"}


# Outcomes


def test_the_output_is_status_headers_and_the_parsed_body() -> None:
    body = b'{"id": "m-1", "big": 12345678901234567890123, "exact": 0.1234567890123456789}'
    output = answered(Answer(201, body, (JSON, ("X-Trace", "t-1")))).output
    assert output["status"] == 201
    assert output["headers"]["x-trace"] == "t-1"
    assert output["body"] == {
        "id": "m-1",
        "big": 12345678901234567890123,
        "exact": Decimal("0.1234567890123456789"),
    }


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"thanks", "thanks"),
        (b"", ""),
        (b'{"a": 1}', {"a": 1}),
        (b"{broken", "{broken"),
        (b"[NaN]", "[NaN]"),
        (b"[" * 5_000, "[" * 5_000),
        (b'["\\u0000", "\\ud800"]', ["\ufffd", "\ufffd"]),
        (b"[1e999999]", ["1e999999"]),
        (b"\xff\x00", "\ufffd\ufffd"),
    ],
)
def test_a_body_that_is_not_json_is_text(body: bytes, expected: Any) -> None:
    assert answered(Answer(200, body, ())).output["body"] == expected


def test_cookies_are_not_in_the_output() -> None:
    assert "set-cookie" not in answered(Answer(headers=(("Set-Cookie", "a=b"),))).output["headers"]


def test_an_endless_body_is_truncated() -> None:
    outcome = answered(Answer(200, b'["' + b"x" * 3_000_000))
    assert outcome.kind == "done"
    assert len(outcome.output["body"]) == 64 * 1024


@pytest.mark.parametrize(
    ("status", "kind", "error_class"),
    [
        (200, "done", None),
        (404, "failed", "http_4xx"),
        (410, "failed", "http_410"),
        (429, "retry", "http_429"),
        (500, "retry", "http_5xx"),
    ],
)
def test_the_status_decides_the_outcome(status: int, kind: str, error_class: str | None) -> None:
    outcome = answered(Answer(status))
    assert (outcome.kind, outcome.error_class) == (kind, error_class)


def test_a_redirect_is_not_followed() -> None:
    with an_http_target() as elsewhere:
        outcome = answered(Answer(302, headers=(("Location", elsewhere.url),)))
    assert outcome.kind == "failed"
    assert elsewhere.url in str(outcome.error)
    assert elsewhere.calls == []


def test_retry_after_is_honoured() -> None:
    assert answered(Answer(503, headers=(("Retry-After", "90"),))).retry_after == 90
    in_a_minute = (("Retry-After", "Sun, 22 Nov 2026 12:31:00 GMT"),)
    assert answered(Answer(429, headers=in_a_minute)).retry_after == 60


def test_a_private_target_fails_and_the_error_names_the_setting() -> None:
    with an_http_target() as server:
        outcome = perform({"http": {"url": server.url}}, "10.0.0.0/8")
    assert (outcome.kind, outcome.error_class) == ("failed", "refused_target")
    assert "127.0.0.1 is a loopback address" in str(outcome.error)
    assert "ALLOWED_PRIVATE_TARGETS" in str(outcome.error)
    assert server.calls == []


def test_a_refused_connection_is_retried() -> None:
    with an_http_target() as server:
        url = server.url
    outcome = perform({"http": {"url": url}})
    assert (outcome.kind, outcome.error_class) == ("retry", "connection")
    assert "cannot connect to 127.0.0.1:" in str(outcome.error)


def test_an_unknown_host_name_is_retried() -> None:
    outcome = perform({"http": {"url": "http://nobody.invalid/"}})
    assert (outcome.kind, outcome.error_class) == ("retry", "dns")


def test_an_untrusted_certificate_is_refused(tmp_path: Path) -> None:
    with a_tls_target(tmp_path) as server:
        outcome = perform({"http": {"url": server.url.replace("http://", "https://")}})
    assert (outcome.kind, outcome.error_class) == ("retry", "tls")
    assert server.calls == []


def test_a_target_that_does_not_respond_times_out() -> None:
    with _speaking(b"", stays_open=True) as url:
        began = time.monotonic()
        outcome = perform({"http": {"url": url}}, timeout=0.3)
    assert (outcome.kind, outcome.error_class) == ("retry", "timeout")
    assert time.monotonic() - began < 2
    assert outcome.request is not None


def test_the_time_out_includes_the_body() -> None:
    with _speaking(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nslow", stays_open=True) as url:
        outcome = perform({"http": {"url": url}}, timeout=0.3)
    assert (outcome.kind, outcome.error_class, outcome.response) == ("retry", "timeout", {"status": 200})


@pytest.mark.parametrize(
    "words",
    [b"", b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\ncut off", b"HTTP/1.1 OK\r\n\r\n"],
)
def test_an_incomplete_response_is_retried(words: bytes) -> None:
    with _speaking(words) as url:
        outcome = perform({"http": {"url": url}})
    assert (outcome.kind, outcome.error_class) == ("retry", "connection")


@contextmanager
def _speaking(words: bytes, *, stays_open: bool = False) -> Iterator[str]:
    """A server that sends `words` to each caller, and then closes the connection or stays silent."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        done = threading.Event()

        def serve() -> None:
            while not done.is_set():
                try:
                    caller, _ = listener.accept()
                except OSError:
                    return
                with caller:
                    caller.recv(65_536)
                    caller.sendall(words)
                    if stays_open:
                        done.wait(5)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
        finally:
            done.set()
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


# Invalid requests


@pytest.mark.parametrize(
    ("url", "error_class"),
    [
        ("{{ data.where }}", "bad_url"),
        ("ftp://example.com/", "bad_url"),
        ("{{ event }}://example.com/", "bad_url"),
        ("http://{{ data.host }}/x", "bad_url"),
        ("http://user:hush@127.0.0.1/", "bad_url"),
        ("http://127.0.0.1:99999/", "bad_url"),
        ("http://127.0.0.1/a b", "bad_url"),
        ("http://[::canary]/", "bad_url"),
        ("http://127.0.0.1/\r\nX-Evil: 1", "bad_url"),
        ("http://" + "a" * 300 + ".example/", "bad_url"),
        ("http://2130706433/", "bad_url"),
        ("unix:///run/secret.sock", "bad_url"),
        ("{{ data.x | divided_by: 0 }}", "template"),
    ],
)
def test_a_url_that_cannot_be_called_fails(url: str, error_class: str) -> None:
    outcome = perform({"http": {"url": url}})
    assert (outcome.kind, outcome.error_class) == ("failed", error_class)


@pytest.mark.parametrize("evil", ["x\r\nX-Evil: 1", "x\ny", "x\x00", "x\x7f"])
def test_a_header_cannot_add_another_one(evil: str) -> None:
    names = {"data": {"evil": evil}}
    with an_http_target() as server:
        outcome = perform({"http": {"url": server.url, "headers": {"X": "{{ data.evil }}"}}}, names=names)
    assert (outcome.kind, outcome.error_class) == ("failed", "bad_header")
    assert outcome.error == "the header X contains a line break or another control character"
    assert server.calls == []


# Stored requests and responses


def test_the_request_is_stored_with_masked_secrets() -> None:
    with an_http_target() as server:
        fields = {
            "url": server.url + "/hook?api_key=hush&to=me&Token=hush",
            "headers": {"Authorization": "Bearer hush", "X-Api-Key": "hush", "Cookie": "hush", "X-Trace": "t-1"},
        }
        kept = perform({"http": fields}).request
    assert kept is not None
    assert "hush" not in json.dumps(kept)
    assert kept["method"] == "POST"
    assert kept["url"] == server.url + "/hook?api_key=***&to=me&Token=***"
    assert kept["headers"]["X-Trace"] == "t-1"
    assert kept["headers"]["Idempotency-Key"] == KEY


def test_the_stored_request_and_response_are_truncated() -> None:
    outcome = answered(Answer(500, b"y" * 10_000), body="x" * 10_000)
    assert outcome.request["body"] == "x" * 4_096
    assert outcome.response["body"] == "y" * 2_048


def test_the_response_is_stored_with_its_duration() -> None:
    kept = answered(Answer(422, b'{"error": "no"}')).response
    assert kept["status"] == 422
    assert kept["body"] == '{"error": "no"}'
    assert 0 <= kept["ms"] < 5_000


# Validation


@pytest.mark.parametrize(
    "fields",
    [
        {"url": "https://example.com/hook"},
        {"url": "{{ data.callback }}", "method": "GET"},
        {"url": "https://example.com/{{ event }}", "json": {"a": ["{{ phone }}"]}, "headers": {"Authorization": "x"}},
        {
            "url": "https://example.com",
            "body": "<x/>",
            "headers": {"Content-Type": "text/xml", "X": 7, "Y": " a\tb \n"},
        },
    ],
)
def test_valid_fields_have_no_errors(fields: dict[str, Any]) -> None:
    assert http.check(fields, "http") == []


@pytest.mark.parametrize(
    ("fields", "path", "message"),
    [
        ("https://example.com", "http", "must be an object"),
        ({}, "http.url", "is required"),
        ({"url": 7}, "http.url", "must be a URL"),
        ({"url": "example.com"}, "http.url", "https://"),
        ({"url": "https://me:hush@example.com"}, "http.url", "credentials"),
        ({"url": "https://example.com/{{ nope }}"}, "http.url", "nope is unknown"),
        ({"url": "https://example.com", "methods": "GET"}, "http.methods", "is unknown"),
        ({"url": "https://example.com", "method": "get"}, "http.method", "must be one of"),
        ({"url": "https://example.com", "method": ["GET"]}, "http.method", "must be one of"),
        ({"url": "https://example.com", "json": 1, "body": "x"}, "http.body", "cannot be combined"),
        ({"url": "https://example.com", "method": "GET", "json": 1}, "http.json", "no body"),
        ({"url": "https://example.com", "json": {"a": ["{{"]}}, "http.json.a[0]", "is not closed"),
        ({"url": "https://example.com", "body": {"a": 1}}, "http.body", "must be text"),
        ({"url": "https://example.com", "headers": "x"}, "http.headers", "must be an object"),
        ({"url": "https://example.com", "headers": {"X": ["a"]}}, "http.headers.X", "must be text"),
        ({"url": "https://example.com", "headers": {"X": "{{ nope }}"}}, "http.headers.X", "nope is unknown"),
        ({"url": "https://example.com", "headers": {"X": "a\nb"}}, "http.headers.X", "a line break or another control"),
        ({"url": "https://example.com", "headers": {"X": "a\x00b"}}, "http.headers.X", "another control character"),
        ({"url": "https://example.com", "headers": {"X": {"mustache": "a\rb"}}}, "http.headers.X", "a line break"),
        ({"url": "https://example.com", "headers": {"X": "x" * 8_001}}, "http.headers.X", "has 8001 characters"),
        ({"url": "https://example.com", "headers": {"X\n": "x"}}, "http.headers.X\n", "is not a header name"),
        ({"url": "https://example.com", "headers": {"a b": "x"}}, "http.headers.a b", "is not a header name"),
    ],
)
def test_an_error_has_its_path(fields: Any, path: str, message: str) -> None:
    ((found_path, found_message),) = http.check(fields, "http")
    assert found_path == path
    assert message in found_message


@pytest.mark.parametrize(
    "name",
    [
        *("Host", "content-length", "Transfer-Encoding", "Connection", "Idempotency-Key", "webhook-signature"),
        *("User-Agent", "Proxy-Authorization", "TE", "Upgrade", "Expect", "Accept-Encoding", "Content-Type"),
    ],
)
def test_reserved_headers_cannot_be_set(name: str) -> None:
    ((found_path, _),) = http.check({"url": "https://example.com", "headers": {name: "x"}}, "http")
    assert found_path == f"http.headers.{name}"
