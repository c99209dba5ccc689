"""`POST /api/v1/cvf-events` as docs/receiving.md promises it, row by row, against a running gunicorn over real sockets."""

from __future__ import annotations

import gzip
import json
import os
import re
import socket
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from app.core.models import EVENTS_WRITE, PLANS
from app.services import accounts, api_keys, workflows
from app.services.context import AppContext
from tests.api.conftest import Rows, settings_of
from tests.support.builders import EVENTS_PATH, Sender, a_sender, a_workflow, an_event
from tests.support.server import Answer, Server, running_server

LIMIT = 512 * 1024


@pytest.fixture(scope="module")
def small_server(context: AppContext) -> Iterator[Server]:
    """One with limits that a test reaches soon."""
    with running_server(**settings_of(context), MAX_EVENT_BYTES="2000", BODY_TIMEOUT="1") as running:
        yield running


@pytest.fixture(scope="module")
def shared(context: AppContext, server: Server) -> Sender:
    """A sender for tests that look only at the answer, or at the one row that it names."""
    return a_sender(context, server, "acme")


def stored(rows: Rows, answer: Answer) -> dict[str, Any]:
    """The row that an answer speaks of."""
    assert answer.status_code == 200, answer.text
    question = "SELECT to_jsonb(events) FROM events WHERE id = %s"
    ((row,),) = rows(question, answer.json["id"])
    assert isinstance(row, dict)
    return row


def assert_problem(answer: Answer, status: int) -> dict[str, Any]:
    """The problem document that an answer is; RFC 9457."""
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    problem: dict[str, Any] = answer.json
    assert {"type", "title", "status", "detail"} <= problem.keys() <= {"type", "title", "status", "detail", "errors"}
    assert problem["status"] == status
    assert all(isinstance(problem[name], str) and problem[name] for name in ("type", "title", "detail"))
    assert answer.headers["X-Request-Id"]
    return problem


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


# distinct_id and phone


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("915673412780", "915673412780"),
        (" padded ", " padded "),
        ("x" * 255, "x" * 255),
        ("😀" * 255, "😀" * 255),
        (915673412780, "915673412780"),
        (0, "0"),
        (-5, "-5"),
        (10**30, "1" + "0" * 30),
        (None, "915673412780"),
        ("", "915673412780"),
        (..., "915673412780"),
    ],
)
def test_the_subject_is_stored(shared: Sender, rows: Rows, sent: Any, kept: str) -> None:
    answer = shared.post(an_event(distinct_id=sent))
    assert stored(rows, answer)["distinct_id"] == kept
    assert answer.json["distinct_id"] == kept


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("+915673412780", "+915673412780"),
        ("+91 56734 12780", "+915673412780"),
        ("+91-56734.12780", "+915673412780"),
        ("+1 (650) 253-0000", "+16502530000"),
        ("+[49] 30 901820", "+4930901820"),
        ("+390236618300", "+390236618300"),
        ("+800 1234 5678", "+80012345678"),
        (None, None),
        ("", None),
        (..., None),
    ],
)
def test_the_phone_number_is_stored_as_e164(shared: Sender, rows: Rows, sent: Any, kept: str | None) -> None:
    assert stored(rows, shared.post(an_event(phone=sent)))["phone"] == kept


def test_an_unassigned_but_possible_number_is_accepted(shared: Sender, rows: Rows) -> None:
    assert stored(rows, shared.post(an_event(phone="+15555555555")))["phone"] == "+15555555555"


@pytest.mark.parametrize(
    "phone",
    [
        "915673412780",
        "00915673412780",
        "5673412780",
        "+",
        "+999123456789",
        "+9156",
        "+9156734127801234567",
        "+91 56734 12780 ext. 5",
        "+91abc",
        "tel:+915673412780",
        "+٩١٥٦٧٣٤١٢٧٨٠",
        "+91 56734/12780",
        "+\u0661\u0662",
        " ",
        "\u200e",
        "++915673412780",
        "+" + "1" * 5000,
        915673412780,
        9.15673412780e11,
        True,
        False,
        [],
        ["+915673412780"],
        {"number": "+915673412780"},
    ],
)
def test_an_invalid_phone_number_is_refused(shared: Sender, phone: Any) -> None:
    problem = assert_problem(shared.post(an_event(phone=phone)), 422)
    assert [error["field"] for error in problem["errors"]] == ["phone"]


@pytest.mark.parametrize("distinct_id", [True, False, 1.5, 1e3, [], {}, ["x"], "x" * 256, 10**255])
def test_an_invalid_identifier_is_refused(shared: Sender, distinct_id: Any) -> None:
    problem = assert_problem(shared.post(an_event(distinct_id=distinct_id)), 422)
    assert [error["field"] for error in problem["errors"]] == ["distinct_id"]


@pytest.mark.parametrize("nobody", [{}, {"distinct_id": None}, {"distinct_id": "", "phone": None}, {"phone": ""}])
def test_an_event_without_a_subject_is_refused(shared: Sender, nobody: dict[str, Any]) -> None:
    problem = assert_problem(shared.post({"event": "product_view", **nobody}), 422)
    assert [error["field"] for error in problem["errors"]] == ["distinct_id"]
    assert "phone" in problem["detail"]


# event, data and the rest


@pytest.mark.parametrize(
    "name",
    [
        "product_view",
        "x",
        "x" * 255,
        "😀" * 255,
        " leading and trailing ",
        "line\nbreak",
        "tab\t\u0001\u007f\u0085\u2028",
        "<script>alert(1)</script>",
        "'; DROP TABLE events; --",
        "$1 %s %(x)s {0} {{ event }} \\x00 \\u0000",
        "\u202e\u05e9\u05dc\u05d5\u05dd\u200f",
        "e\u0301 is not \u00e9",
        "\ufffe\uffff\ufeff",
        "*",
        "null",
    ],
)
def test_the_name_of_an_event_is_stored_exactly(shared: Sender, rows: Rows, name: str) -> None:
    answer = shared.post(an_event(event=name))
    assert stored(rows, answer)["event"] == name
    assert answer.json["event"] == name


@pytest.mark.parametrize("name", ["", "x" * 256, None, 1, 1.5, True, [], {}, ["product_view"]])
def test_an_invalid_name_of_an_event_is_refused(shared: Sender, name: Any) -> None:
    problem = assert_problem(shared.post(an_event(event=name)), 422)
    assert [error["field"] for error in problem["errors"]] == ["event"]


def test_an_event_without_a_name_is_refused(shared: Sender) -> None:
    problem = assert_problem(shared.post(an_event(event=...)), 422)
    assert problem["errors"][0]["field"] == "event"
    assert "missing" in problem["errors"][0]["message"]


def test_spaces_in_a_name_are_answered_with_a_warning(shared: Sender, rows: Rows) -> None:
    answer = shared.post(an_event(event="My Awesome Event"))
    assert len(answer.json["warnings"]) == 1
    assert "event" in answer.json["warnings"][0]
    assert "space" in answer.json["warnings"][0]
    assert stored(rows, answer)["warnings"] == answer.json["warnings"]


@pytest.mark.parametrize(
    ("sent", "kept"),
    [({}, {}), (..., {}), ({"a": None}, {"a": None}), ({"": {"": []}}, {"": {"": []}}), ({"a.b": 1}, {"a.b": 1})],
)
def test_data_is_stored(shared: Sender, rows: Rows, sent: Any, kept: Any) -> None:
    assert stored(rows, shared.post(an_event(data=sent)))["data"] == kept


@pytest.mark.parametrize("data", [None, [], [1], "text", "{}", 1, 1.5, True, False])
def test_data_other_than_an_object_is_refused(shared: Sender, data: Any) -> None:
    problem = assert_problem(shared.post(an_event(data=data)), 422)
    assert [error["field"] for error in problem["errors"]] == ["data"]


NUMBERS = ["12345678901234567890123", "0.1234567890123456789", "1.10", "-0.000000000000000000001", "9007199254740993"]


@pytest.mark.parametrize("number", [*NUMBERS, "1e400", "1e-400", "9" * 5000, "1E5", "123456789.123456789e-30"])
def test_a_number_is_stored_exactly(shared: Sender, rows: Rows, number: str) -> None:
    answer = shared.post(json.dumps(an_event(data={"n": 0})).replace('"n": 0', f'"n": {number}'))
    question = "SELECT (data->>'n')::numeric = %s::numeric, data->>'n' FROM events WHERE id = %s"
    ((equal, text),) = rows(question, number, answer.json["id"])
    assert equal
    if "e" not in number.lower():
        assert text == number


@pytest.mark.parametrize("number", ["1e999999", "-1e131072", "1e-16384", "1e99999999999999999999", "9" * 131_073])
@pytest.mark.parametrize("path", ["data.n", "data.list[1].n", "other"])
def test_a_number_beyond_numeric_is_refused_with_its_path(shared: Sender, number: str, path: str) -> None:
    values = {
        "data.n": {"data": {"n": 0.5}},
        "data.list[1].n": {"data": {"list": [1, {"n": 0.5}]}},
        "other": {"other": 0.5},
    }
    problem = assert_problem(shared.post(json.dumps(an_event(**values[path])).replace("0.5", number)), 422)
    assert [error["field"] for error in problem["errors"]] == [path]


def test_unknown_fields_are_stored_beside_data_and_named(shared: Sender, rows: Rows) -> None:
    answer = shared.post(an_event(source="shop", nested={"price": 1.10, "list": [None]}))
    assert stored(rows, answer)["extra"] == {"source": "shop", "nested": {"price": 1.10, "list": [None]}}
    assert stored(rows, answer)["data"] == an_event()["data"]
    assert len(answer.json["warnings"]) == 1
    assert "nested, source" in answer.json["warnings"][0]


def test_numbers_in_unknown_fields_are_stored_exactly(shared: Sender, rows: Rows) -> None:
    answer = shared.post(json.dumps(an_event(other="?")).replace('"?"', "12345678901234567890.10"))
    assert rows("SELECT extra->>'other' FROM events WHERE id = %s", answer.json["id"]) == [("12345678901234567890.10",)]


@pytest.mark.parametrize(
    "name",
    [
        "",
        "Event",
        "event.name",
        "data.x",
        ".",
        "_schema",
        "__class__",
        "id",
        "account_id",
        '"\\',
        "<b>",
        "😀",
        "a b\n",
        "x" * 9000,
    ],
)
def test_odd_unknown_fields_are_stored_and_change_nothing_else(shared: Sender, rows: Rows, name: str) -> None:
    answer = shared.post(an_event(**{name: {"x": 1}}))
    row = stored(rows, answer)
    assert row["extra"] == {name: {"x": 1}}
    assert (row["event"], row["data"]) == (an_event()["event"], an_event()["data"])
    assert row["account_id"] == shared.account_id
    assert len(answer.json["warnings"]) == 1


def test_a_warning_about_unknown_fields_is_short(shared: Sender) -> None:
    answer = shared.post(an_event(**{f"{number}" + "x" * 20_000: 1 for number in range(25)}))
    assert answer.status_code == 200
    assert len(answer.data) < 4_000


def test_all_faults_are_reported_at_once(shared: Sender) -> None:
    problem = assert_problem(shared.post({"event": "", "phone": 12, "data": [], "distinct_id": True}), 422)
    assert {error["field"] for error in problem["errors"]} == {"event", "phone", "data", "distinct_id"}


# The answer


def test_the_answer_has_exactly_the_promised_members(shared: Sender) -> None:
    answer = shared.post(an_event())
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "application/json"
    assert {name: value for name, value in answer.json.items() if name not in ("id", "received_at")} == {
        "event": "product_view",
        "distinct_id": "915673412780",
        "duplicate": False,
        "contributing": False,
        "runs": [],
        "warnings": [],
    }
    assert list(answer.json) == [
        "id",
        "event",
        "distinct_id",
        "received_at",
        "duplicate",
        "contributing",
        "runs",
        "warnings",
    ]


def test_the_id_is_a_uuid_of_version_7_with_the_time_of_acceptance(shared: Sender) -> None:
    answer = shared.post(an_event()).json
    event_id = UUID(answer["id"])
    assert str(event_id) == answer["id"]
    assert event_id.version == 7
    assert abs((event_id.int >> 80) / 1000 - datetime.now(UTC).timestamp()) < 60


def test_ids_sort_in_the_order_of_receipt(shared: Sender) -> None:
    ids = [shared.post(an_event()).json["id"] for _ in range(20)]
    assert ids == sorted(ids)


def test_received_at_has_microseconds_and_equals_the_column(shared: Sender, rows: Rows) -> None:
    answer = shared.post(an_event())
    timestamp = answer.json["received_at"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", timestamp)
    ((kept,),) = rows("SELECT received_at FROM events WHERE id = %s", answer.json["id"])
    assert kept == datetime.fromisoformat(timestamp)


def test_the_row_exists_when_the_response_arrives(shared: Sender, rows: Rows) -> None:
    row = stored(rows, shared.post(an_event()))
    del row["id"], row["received_at"]
    assert row == {
        "account_id": shared.account_id,
        "event": "product_view",
        "distinct_id": "915673412780",
        "phone": "+915673412780",
        "data": an_event()["data"],
        "extra": None,
        "augmented": None,
        "decisions": None,
        "idempotency_key": None,
        "warnings": None,
        "via": None,
    }


def test_a_workflow_that_waits_for_the_event_is_started_and_named(
    acme: Sender, context: AppContext, rows: Rows
) -> None:
    workflows.apply_workflow(context, acme.account_id, a_workflow())
    answer = acme.post(an_event()).json
    assert answer["contributing"] is True
    (run,) = answer["runs"]
    assert UUID(run).version == 7
    assert rows("SELECT id::text, event_id::text FROM runs WHERE account_id = %s", acme.account_id) == [
        (run, answer["id"])
    ]
    ((decisions,),) = rows("SELECT decisions FROM events WHERE id = %s", answer["id"])
    assert decisions == [{"workflow": "watch", "version": 1, "started": True, "reason": "matched", "run": run}]


def test_names_are_matched_exactly(acme: Sender, context: AppContext) -> None:
    workflows.apply_workflow(context, acme.account_id, a_workflow(on="e\u0301"))
    assert acme.post(an_event(event="\u00e9")).json["runs"] == []
    assert acme.post(an_event(event="e\u0301 ")).json["runs"] == []
    assert len(acme.post(an_event(event="e\u0301")).json["runs"]) == 1


@pytest.mark.parametrize("number", ["12345678901234567890123", "1e400", "-1e400", "9" * 5000, "0.1e-400", "NULL"])
def test_filters_work_on_any_number(acme: Sender, context: AppContext, rows: Rows, number: str) -> None:
    where = "data.price > 10 || data.price * 2 + 1 < 5 || string(data.price) == 'x'"
    workflows.apply_workflow(context, acme.account_id, a_workflow(on={"event": "product_view", "where": where}))
    body = json.dumps(an_event(data={"price": 0.5})).replace("0.5", number.lower())
    answer = acme.post(body)
    assert answer.status_code == 200
    ((decisions,),) = rows("SELECT decisions FROM events WHERE id = %s", answer.json["id"])
    assert [decision["workflow"] for decision in decisions] == ["watch"]


# Idempotency keys


def counts(rows: Rows, sender: Sender) -> tuple[object, ...]:
    """How many events, runs, jobs and idempotency keys a sender's account has."""
    return rows(
        "SELECT (SELECT count(*) FROM events WHERE account_id = %(id)s), "
        "(SELECT count(*) FROM runs WHERE account_id = %(id)s), "
        "(SELECT count(*) FROM idempotency_keys WHERE account_id = %(id)s)".replace("%(id)s", str(sender.account_id))
    )[0]


@pytest.mark.parametrize("header", ["Idempotency_Key", "webhook_id"])
def test_a_repeated_key_gets_the_first_answers_id_and_starts_nothing(
    acme: Sender, context: AppContext, rows: Rows, header: str
) -> None:
    workflows.apply_workflow(context, acme.account_id, a_workflow())
    first = acme.post(an_event(), **{header: "order 1"}).json
    second = acme.post(an_event(), **{header: "order 1"})
    assert second.status_code == 200
    assert second.json == {**first, "duplicate": True, "contributing": False, "runs": []}
    assert counts(rows, acme) == (1, 1, 1)


def test_both_headers_name_the_same_keys(acme: Sender) -> None:
    first = acme.post(an_event(), Idempotency_Key="k").json
    assert acme.post(an_event(), webhook_id="k").json["id"] == first["id"]


def test_of_both_headers_the_idempotency_key_counts(acme: Sender, rows: Rows) -> None:
    answer = acme.post(an_event(), Idempotency_Key="this", webhook_id="that")
    assert stored(rows, answer)["idempotency_key"] == "this"


def test_the_same_key_with_another_body_is_refused(acme: Sender, rows: Rows) -> None:
    first = acme.post(an_event(), Idempotency_Key="k").json
    problem = assert_problem(acme.post(an_event(event="other"), Idempotency_Key="k"), 422)
    assert first["id"] in problem["detail"]
    assert counts(rows, acme) == (1, 0, 1)


def test_the_same_body_is_the_same_packed_or_not(acme: Sender) -> None:
    body = json.dumps(an_event()).encode()
    first = acme.post(body, Idempotency_Key="k").json
    again = acme.post(gzip.compress(body), Idempotency_Key="k", Content_Encoding="gzip").json
    assert (again["id"], again["duplicate"]) == (first["id"], True)


def test_a_refused_event_does_not_use_up_its_key(acme: Sender) -> None:
    assert acme.post(an_event(event=""), Idempotency_Key="k").status_code == 422
    assert acme.post(an_event(), Idempotency_Key="k").json["duplicate"] is False


def test_keys_belong_to_their_account(acme: Sender, globex: Sender) -> None:
    first = acme.post(an_event(), Idempotency_Key="k").json
    other = globex.post(an_event(event="other"), Idempotency_Key="k")
    assert other.json["duplicate"] is False
    assert other.json["id"] != first["id"]


@pytest.mark.parametrize(("days", "remembered"), [(29, True), (31, False)])
def test_keys_are_remembered_30_days(acme: Sender, rows: Rows, days: int, remembered: bool) -> None:
    first = acme.post(an_event(), Idempotency_Key="k").json
    rows(
        "UPDATE idempotency_keys SET received_at = received_at - %s WHERE account_id = %s",
        timedelta(days=days),
        acme.account_id,
    )
    again = acme.post(an_event(), Idempotency_Key="k").json
    assert (again["duplicate"], again["id"] == first["id"]) == (remembered, remembered)


@pytest.mark.parametrize("key", ["k", "k" * 255, "two words", "'; --", "%s $1 \\", '"', "a,b", "~!@#$^&*()"])
def test_a_key_has_1_to_255_printable_characters(acme: Sender, rows: Rows, key: str) -> None:
    assert stored(rows, acme.post(an_event(), Idempotency_Key=key))["idempotency_key"] == key
    assert acme.post(an_event(), Idempotency_Key=key).json["duplicate"] is True


@pytest.mark.parametrize("key", ["", "k" * 256, "é", "tab\tbed"])
def test_any_other_key_is_refused(acme: Sender, key: str) -> None:
    problem = assert_problem(acme.post(an_event(), Idempotency_Key=key), 422)
    assert [error["field"] for error in problem["errors"]] == ["Idempotency-Key"]


# Who may send


def post_with(server: Server, **headers: str) -> Answer:
    """A good event with exactly these headers beside its Content-Type."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return server.post(
        EVENTS_PATH, data=json.dumps(an_event()).encode(), headers={"Content-Type": "application/json", **named}
    )


def test_a_missing_unknown_expired_or_revoked_key_gets_the_same_words(
    context: AppContext, server: Server, acme: Sender
) -> None:
    expired = api_keys.create_key(context, acme.account_id, "old", (EVENTS_WRITE,), timedelta(microseconds=1))
    revoked = api_keys.create_key(context, acme.account_id, "lost", (EVENTS_WRITE,))
    api_keys.revoke_key(context, revoked[3:11])
    account = str(acme.account_id)
    almost = acme.token[:-1] + ("A" if acme.token[-1] != "A" else "B")
    answers = [post_with(server, x_fb_account_id=account)]
    for token in (
        expired,
        revoked,
        almost,
        "",
        "x",
        "sb_",
        "sb_12345678_" + "x" * 43,
        acme.token + "x",
        acme.token[:-1],
    ):
        answers.append(post_with(server, x_fb_account_id=account, x_limechat_uat=token))
    answers.append(post_with(server, x_fb_account_id=account, x_limechat_uat=acme.token.lower()))
    problems = [assert_problem(answer, 401) for answer in answers]
    assert all(problem == problems[0] for problem in problems)
    assert all(answer.headers["WWW-Authenticate"] for answer in answers)


def test_a_key_with_blanks_around_it_is_the_key(server: Server, acme: Sender) -> None:
    answer = post_with(server, x_fb_account_id=f" {acme.account_id} ", x_limechat_uat=f"  {acme.token} ")
    assert answer.status_code == 200


@pytest.mark.parametrize("account", ["0", "-1", "999999999", "01", "+1", "1.0", "acme", "1 OR 1=1", "9" * 400, "١"])
def test_a_key_is_refused_for_another_account(server: Server, acme: Sender, account: str) -> None:
    answer = post_with(server, x_limechat_uat=acme.token, x_fb_account_id=account.encode().decode("latin-1"))
    assert_problem(answer, 403)


def test_the_key_of_another_account_reveals_nothing_about_that_account(
    server: Server, acme: Sender, globex: Sender
) -> None:
    there = post_with(server, x_limechat_uat=acme.token, x_fb_account_id=str(globex.account_id))
    nowhere = post_with(server, x_limechat_uat=acme.token, x_fb_account_id="999999999")
    assert assert_problem(there, 403) == assert_problem(nowhere, 403)


def test_a_missing_account_id_is_reported_to_a_valid_key(server: Server, acme: Sender) -> None:
    problem = assert_problem(post_with(server, x_limechat_uat=acme.token), 422)
    assert [error["field"] for error in problem["errors"]] == ["x-fb-account-id"]


def test_a_missing_account_id_is_not_reported_to_an_invalid_key(server: Server) -> None:
    assert_problem(post_with(server, x_limechat_uat="sb_12345678_" + "x" * 43), 401)


def test_an_invalid_idempotency_key_is_not_reported_to_an_invalid_key(server: Server, acme: Sender) -> None:
    token = "sb_12345678_" + "x" * 43
    answer = post_with(server, x_limechat_uat=token, x_fb_account_id=str(acme.account_id), Idempotency_Key="")
    assert_problem(answer, 401)


def test_a_key_without_the_scope_is_refused(context: AppContext, server: Server, acme: Sender) -> None:
    token = api_keys.create_key(context, acme.account_id, "reader", ("events:read",))
    answer = post_with(server, x_limechat_uat=token, x_fb_account_id=str(acme.account_id))
    assert EVENTS_WRITE in assert_problem(answer, 403)["detail"]


def test_a_disabled_account_is_refused(context: AppContext, acme: Sender, rows: Rows) -> None:
    accounts.switch_account(context, acme.account_id, on=False)
    assert "disabled" in assert_problem(acme.post(an_event()), 403)["detail"]
    assert counts(rows, acme) == (0, 0, 0)


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


# Rate limit fields and request ids (exactness: test_rate_limit.py)


@pytest.fixture(scope="module")
def limited(context: AppContext, server: Server) -> Sender:
    """A sender with a plan that has a rate, so high that it is not reached here."""
    return a_sender(context, server, "acme", plan="standard")


ANSWERS = [
    (200, {}, an_event()),
    (400, {}, b"{"),
    (413, {}, b"x" * (LIMIT + 1)),
    (415, {"Content_Type": "text/plain"}, an_event()),
    (415, {"Content_Encoding": "br"}, an_event()),
    (422, {}, {}),
    (422, {"Idempotency_Key": ""}, an_event()),
]


@pytest.mark.parametrize(
    ("status", "headers", "body"), ANSWERS, ids=[f"{status}-{n}" for n, (status, *_) in enumerate(ANSWERS)]
)
def test_each_response_to_a_limited_sender_has_the_rest_of_the_window(
    limited: Sender, status: int, headers: dict[str, str], body: Any
) -> None:
    answer = limited.post(body, **headers)
    assert answer.status_code == status
    assert answer.headers["RateLimit-Limit"] == "1000"
    assert 900 <= int(answer.headers["RateLimit-Remaining"]) < 1000
    assert answer.headers["RateLimit-Reset"] == "1"
    assert answer.headers["Retry-After"] is None


def test_the_response_to_a_duplicate_has_the_rest_of_the_window(limited: Sender) -> None:
    limited.post(an_event(), Idempotency_Key="k")
    assert limited.post(an_event(), Idempotency_Key="k").headers["RateLimit-Limit"] == "1000"


def test_a_plan_without_a_limit_sends_no_rate_limit_headers(shared: Sender) -> None:
    assert [name for name in shared.post(an_event()).headers if name.lower().startswith("ratelimit")] == []


def test_an_accounts_own_rate_is_the_limit(context: AppContext, server: Server) -> None:
    sender = a_sender(context, server, plan="trial")
    accounts.change_plan(context, sender.account_id, PLANS["trial"], 7)
    assert sender.post(an_event()).headers["RateLimit-Limit"] == "7"


def test_an_event_above_the_rate_gets_429_with_retry_after(context: AppContext, server: Server, rows: Rows) -> None:
    sender = a_sender(context, server, plan="trial")
    accounts.change_plan(context, sender.account_id, PLANS["trial"], 1)
    answers = [sender.post(an_event()) for _ in range(20)]
    refused = [answer for answer in answers if answer.status_code == 429]
    assert refused
    for answer in refused:
        assert_problem(answer, 429)
        assert answer.headers["Retry-After"] == "1"
        assert answer.headers["RateLimit-Limit"] == "1"
        assert answer.headers["RateLimit-Remaining"] == "0"
        assert answer.headers["RateLimit-Reset"] == "1"
    assert counts(rows, sender) == (20 - len(refused), 0, 0)


SANE = ["abc", "0", "x" * 128, "01890a5d-ac96-774b-bcce-b302099a8057", "a.b_c:d/e+f=g-h"]
INSANE = ["", "x" * 129, "two words", "-leading", "<script>", "é", '"', "a;b", "${jndi:ldap://x}", "a,b"]


@pytest.mark.parametrize("body", [an_event(), {}, b"{"], ids=["200", "422", "400"])
@pytest.mark.parametrize("sent", SANE)
def test_a_valid_request_id_is_repeated(shared: Sender, sent: str, body: Any) -> None:
    assert shared.post(body, X_Request_Id=sent).headers.get_all("X-Request-Id") == [sent]


@pytest.mark.parametrize("sent", INSANE)
def test_any_other_request_id_is_replaced(shared: Sender, sent: str) -> None:
    answered = shared.post(an_event(), X_Request_Id=sent).headers["X-Request-Id"]
    assert answered != sent
    assert re.fullmatch(r"[0-9a-f]{32}", answered)


def test_each_request_gets_an_id_of_its_own(shared: Sender) -> None:
    assert shared.post(an_event()).headers["X-Request-Id"] != shared.post(an_event()).headers["X-Request-Id"]


@pytest.mark.parametrize("path", ["/nope", "/health", EVENTS_PATH])
def test_answers_of_all_addresses_carry_the_request_id(server: Server, path: str) -> None:
    assert server.open(path, headers={"X-Request-Id": "mine"}).headers["X-Request-Id"] == "mine"
