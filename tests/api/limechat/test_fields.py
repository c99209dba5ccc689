"""`POST /api/v1/cvf-events` over real sockets: how each field of an event is read and stored."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.api.conftest import Rows
from tests.api.limechat.conftest import assert_problem, stored
from tests.support.builders import Sender, an_event

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
