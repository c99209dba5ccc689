"""`POST /api/v1/cvf-events/batch`: valid events are stored although others are invalid, by the rules of single events."""

from __future__ import annotations

import gzip
import json
from datetime import datetime
from typing import Any
from uuid import UUID

import pytest

from app.core.ids import timestamp_of
from app.services import accounts, api_keys, workflows
from app.services.context import AppContext
from tests.api.conftest import Rows
from tests.support.builders import Sender, a_sender, a_workflow, an_event
from tests.support.server import Server


@pytest.fixture(scope="module")
def shared(context: AppContext, server: Server) -> Sender:
    """A sender for tests that do not mind each other's events."""
    return a_sender(context, server)


def stored(rows: Rows, sender: Sender) -> list[tuple[object, ...]]:
    """Name, subject and data of all that the account has, in the order of acceptance."""
    return rows("SELECT event, distinct_id, data FROM events WHERE account_id = %s ORDER BY id", sender.account_id)


def named(*names: str) -> list[dict[str, Any]]:
    return [an_event(event=name) for name in names]


# What goes in


def test_all_good_events_are_stored_in_their_order(acme: Sender, rows: Rows) -> None:
    answer = acme.post_batch([an_event(event=f"e{number}", data={"n": number}) for number in range(1_500)])
    assert answer.status_code == 200
    assert set(answer.json) == {"accepted", "duplicates", "ids", "errors"}
    assert (answer.json["accepted"], answer.json["duplicates"], answer.json["errors"]) == (1_500, 0, [])
    assert [row[0] for row in stored(rows, acme)] == [f"e{number}" for number in range(1_500)]
    assert answer.json["ids"] == sorted(answer.json["ids"])


def test_ids_and_timestamps_grow_from_item_to_item(acme: Sender, rows: Rows) -> None:
    ids = acme.post_batch(named(*"abcde")).json["ids"]
    found = rows("SELECT id, received_at FROM events WHERE account_id = %s ORDER BY received_at", acme.account_id)
    assert [row[0] for row in found] == ids
    timestamps = [timestamp for _, timestamp in found if isinstance(timestamp, datetime)]
    assert len(set(timestamps)) == 5
    assert timestamps == [timestamp_of(UUID(event_id)) for event_id in ids]


def test_lines_are_accepted_and_blank_lines_do_not_count(acme: Sender, rows: Rows) -> None:
    one, two = (json.dumps(event).encode() for event in named("one", "two"))
    answer = acme.post_lines(b"\r\n" + one + b"\r\n\n  \n \t" + two + b"  ")
    assert (answer.status_code, answer.json["accepted"]) == (200, 2)
    assert [row[0] for row in stored(rows, acme)] == ["one", "two"]


def test_a_byte_order_mark_in_front_of_any_line_is_ignored(acme: Sender, rows: Rows) -> None:
    mark = "\ufeff".encode()
    one, two = (json.dumps(event).encode() for event in named("one", "two"))
    answer = acme.post_lines(mark + one + b"\n" + mark + b" " + two + b"\n" + mark + b"\n")
    assert (answer.status_code, answer.json["accepted"]) == (200, 2)
    assert [row[0] for row in stored(rows, acme)] == ["one", "two"]


@pytest.mark.parametrize("lines", [False, True])
def test_gzip_is_unpacked(acme: Sender, rows: Rows, lines: bool) -> None:
    post = acme.post_lines if lines else acme.post_batch
    text = b"\n".join(json.dumps(event).encode() for event in named("one", "two"))
    answer = post(gzip.compress(text if lines else json.dumps(named("one", "two")).encode()), Content_Encoding="gzip")
    assert answer.status_code == 200
    assert [row[0] for row in stored(rows, acme)] == ["one", "two"]


def test_an_event_of_a_batch_is_stored_as_one_of_its_own(acme: Sender, rows: Rows) -> None:
    odd = an_event(
        event="odd\tname\\N\n",
        distinct_id=12,
        phone="+91 (567) 341-2780",
        campaign={"x": 1.50},
        data={"a\\b": "\\.\n\t"},
    )
    sent = [odd, an_event(distinct_id=...), an_event(phone=...), an_event(data=...), an_event(event="a b")]
    for event in sent:
        assert acme.post(event).status_code == 200
    assert acme.post_batch(sent).json["accepted"] == len(sent)
    columns = "event, distinct_id, phone, data::text, extra::text, decisions, warnings, idempotency_key"
    found = rows(f"SELECT {columns} FROM events WHERE account_id = %s ORDER BY id", acme.account_id)
    assert found[: len(sent)] == found[len(sent) :]
    assert found[0][:2] == ("odd\tname\\N\n", "12")


@pytest.mark.parametrize(
    "number", ["12345678901234567890123", "0.1234567890123456789", "1e400", "-0.0", "1e-400", "0e5"]
)
@pytest.mark.parametrize("field", ["data", "extra"])
def test_numbers_are_stored_exactly(shared: Sender, rows: Rows, number: str, field: str) -> None:
    text = json.dumps([an_event(**{field: {"n": "?"}})]).replace('"?"', number)
    (event_id,) = shared.post_batch(text).json["ids"]
    column = "data" if field == "data" else "extra -> 'extra'"
    question = f"SELECT ({column} ->> 'n')::numeric = %s::numeric FROM events WHERE id = %s"
    assert rows(question, number, event_id) == [(True,)]


# What does not


BAD_ITEMS: list[tuple[str, str, str | None, str]] = [
    ("number", "17", None, "The top level is a number"),
    ("list", "[]", None, "The top level is an array"),
    ("null", "null", None, "The top level is null"),
    ("no name", '{"distinct_id": "1"}', "event", "is missing"),
    ("nobody", '{"event": "x"}', "distinct_id", "one of the two"),
    ("phone", '{"event": "x", "phone": "5673412780"}', "phone", "must begin with +"),
    ("phone number", '{"event": "x", "phone": 5673412780}', "phone", "is a number"),
    ("name", '{"event": "", "distinct_id": "1"}', "event", "has 0 characters"),
    ("long name", json.dumps({"event": "x" * 256, "distinct_id": "1"}), "event", "has 256 characters"),
    ("long subject", json.dumps({"event": "x", "distinct_id": "1" * 256}), "distinct_id", "has 256 characters"),
    ("data", '{"event": "x", "distinct_id": "1", "data": []}', "data", "must be an object"),
    ("data null", '{"event": "x", "distinct_id": "1", "data": null}', "data", "must be an object"),
    ("key", '{"event": "x", "distinct_id": "1", "idempotency_key": "é"}', "idempotency_key", "printable"),
    ("key number", '{"event": "x", "distinct_id": "1", "idempotency_key": 7}', "idempotency_key", "printable"),
    ("empty key", '{"event": "x", "distinct_id": "1", "idempotency_key": ""}', "idempotency_key", "printable"),
    ("NUL", '{"event": "x", "distinct_id": "1", "data": {"a": "\\u0000"}}', "data.a", "NUL"),
    ("NUL in name", '{"event": "x\\u0000", "distinct_id": "1"}', "event", "NUL"),
    ("surrogate", '{"event": "x", "distinct_id": "1", "data": {"a": "\\ud800"}}', "data.a", "surrogate"),
    (
        "number beyond",
        '{"event": "x", "distinct_id": "1", "data": {"a": 1e999999}}',
        "data.a",
        "beyond what can be stored",
    ),
    ("fraction beyond", '{"event": "x", "distinct_id": "1", "data": {"a": 1e-99999}}', "data.a", "beyond what"),
    ("twice", '{"event": "x", "event": "x", "distinct_id": "1"}', None, "event appears twice"),
    (
        "twice inside",
        '{"event": "x", "distinct_id": "1", "data": {"a": [{"b": 1, "\\u0062": 2}]}}',
        None,
        "data.a[0].b",
    ),
    ("NaN", '{"event": "x", "distinct_id": "1", "data": {"a": NaN}}', None, "NaN"),
    ("deep", '{"event": "x", "distinct_id": "1", "data": {"a": ' + "[" * 63 + "]" * 63 + "}}", None, "64 levels"),
]


@pytest.mark.parametrize("lines", [False, True], ids=["array", "lines"])
@pytest.mark.parametrize(("bad", "field", "message"), [row[1:] for row in BAD_ITEMS], ids=[row[0] for row in BAD_ITEMS])
def test_a_bad_item_is_refused_alone(
    local: Sender, rows: Rows, bad: str, field: str | None, message: str, lines: bool
) -> None:
    one, two = (json.dumps(event) for event in named("one", "two"))
    as_lines, as_array = f"{one}\n\n{bad}\n{two}".encode(), f"[{one}, {bad}, {two}]"
    answer = local.post_lines(as_lines) if lines else local.post_batch(as_array)
    assert answer.status_code == 207, answer.text
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.json["accepted"] == 2
    assert [event_id is None for event_id in answer.json["ids"]] == [False, True, False]
    error = answer.json["errors"][0]
    assert list(error) == ["index", "field", "message"]
    assert (error["index"], error["field"]) == (1, field)
    assert message in error["message"]
    assert [row[0] for row in stored(rows, local)] == ["one", "two"]


def test_messages_are_those_of_single_events(local: Sender) -> None:
    bad = {"event": "", "phone": "5673412780", "data": 1}
    alone = local.post(bad).json["errors"]
    together = local.post_batch([an_event(), bad]).json["errors"]
    assert together == [{"index": 1, **error} for error in alone]
    assert len(together) == 3


def test_all_items_bad_is_a_207_that_stores_nothing(local: Sender, rows: Rows) -> None:
    answer = local.post_batch([{}, {}])
    assert (answer.status_code, answer.json["accepted"], answer.json["ids"]) == (207, 0, [None, None])
    assert stored(rows, local) == []


BROKEN_ARRAYS = [
    (b"", "empty"),
    (b" \n", "empty"),
    (b"{}", "an array of events"),
    (b'"x"', "an array of events"),
    (b"[", "line 1, column 2"),
    (b"[{}", "line 1, column 4"),
    (b"[{},\n{} {}]", "line 2, column 4"),
    (b'[{},\n {"a" 1}]', "line 2, column 7"),
    ('[{"é": 1},\n {"é": "é" x}]'.encode(), "line 2, column 12"),
    (b"[{}]]", "line 1, column 5"),
    (b'[{"a": 01}]', "line 1, column"),
    (b'[{"a": "\x01"}]', "line 1, column"),
    (b'[{"a": "\xff"}]', "UTF-8: byte 9"),
    (b"\xef\xbb\xbf\xef\xbb\xbf[]", "line 1, column 1"),
    (b"[" * 100_000, "nested more than 64"),
    (b"[" * 100_000 + b"]" * 100_000, "nested more than 64"),
]


@pytest.mark.parametrize(("body", "message"), BROKEN_ARRAYS, ids=range(len(BROKEN_ARRAYS)))
def test_a_broken_array_is_refused_with_the_position_and_nothing_is_stored(
    local: Sender, body: bytes, message: str
) -> None:
    answer = local.post_batch(body)
    assert answer.status_code == 400
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert message in answer.json["detail"]


def test_nothing_of_a_broken_array_is_stored(local: Sender, rows: Rows) -> None:
    good = json.dumps(an_event())
    assert local.post_batch(f"[{good}, {good}, {{]").status_code == 400
    assert stored(rows, local) == []


def test_a_broken_line_is_refused_alone(local: Sender, rows: Rows) -> None:
    good = json.dumps(an_event()).encode()
    answer = local.post_lines(
        b"\n".join([good, b'{"event": "x",', b'{"event": "\xff"}', 2 * b"\xef\xbb\xbf" + good, good])
    )
    assert answer.status_code == 207
    assert [error["index"] for error in answer.json["errors"]] == [1, 2, 3]
    assert {error["field"] for error in answer.json["errors"]} == {None}
    assert "The event is not JSON" in answer.json["errors"][0]["message"]
    assert "line 1, column 15" in answer.json["errors"][0]["message"]
    assert "not UTF-8" in answer.json["errors"][1]["message"]
    assert len(stored(rows, local)) == 2


@pytest.mark.parametrize("lines", [False, True], ids=["array", "lines"])
def test_an_empty_batch_is_accepted(local: Sender, lines: bool) -> None:
    answer = local.post_lines(b"\n \n") if lines else local.post_batch([])
    assert answer.status_code == 200
    assert answer.json == {"accepted": 0, "duplicates": 0, "ids": [], "errors": []}


# Who may


def test_a_key_is_needed_and_has_to_be_the_accounts_own(local: Sender, globex: Sender, rows: Rows) -> None:
    assert local.post_batch([an_event()], x_limechat_uat="").status_code == 401
    assert local.post_batch([an_event()], x_limechat_uat="sb_00000000_x").status_code == 401
    assert local.post_batch([an_event()], x_fb_account_id=str(globex.account_id)).status_code == 403
    assert stored(rows, local) == stored(rows, globex) == []


def test_a_disabled_account_gets_403_before_the_faults_of_its_batch(context: AppContext, local: Sender) -> None:
    assert local.post_batch([an_event()]).status_code == 200
    accounts.switch_account(context, local.account_id, on=False)
    assert local.post_batch([an_event()]).status_code == 403


# What follows


def test_runs_are_started_with_their_jobs_and_decisions(context: AppContext, acme: Sender, rows: Rows) -> None:
    workflows.apply_workflow(context, acme.account_id, a_workflow(on={"event": "product_view", "where": "data.n > 1"}))
    ids = acme.post_batch([an_event(data={"n": number}) for number in range(4)]).json["ids"]
    runs = rows("SELECT id, event_id, distinct_id, status FROM runs WHERE account_id = %s ORDER BY id", acme.account_id)
    assert [(run[1], *run[2:]) for run in runs] == [(each, "915673412780", "running") for each in ids[2:]]
    jobs = [f"{acme.account_id}:{run[0]}:1" for run in runs]
    assert rows("SELECT count(*) FROM jobs WHERE payload = ANY (%s)", jobs) == [(2,)]
    decisions = rows("SELECT decisions -> 0 FROM events WHERE account_id = %s ORDER BY id", acme.account_id)
    reasons = [(row[0]["started"], row[0]["reason"], row[0].get("run")) for row in decisions]  # type: ignore[index, attr-defined]
    assert reasons == [(False, "the filter is false", None)] * 2 + [(True, "matched", run[0]) for run in runs]


def test_events_that_runs_wait_for_are_announced(context: AppContext, acme: Sender, rows: Rows) -> None:
    steps = [{"wait_for": "paid", "timeout": "1h"}, {"log": "x"}]
    workflows.apply_workflow(context, acme.account_id, a_workflow(steps=steps))
    ids = acme.post_batch(named("paid", "other", "paid")).json["ids"]
    jobs = rows("SELECT payload FROM jobs WHERE kind = 'event' ORDER BY id")
    ours = [job for (job,) in jobs if str(job).startswith(f"{acme.account_id}:")]
    assert ours == [f"{acme.account_id}:{ids[0]}", f"{acme.account_id}:{ids[2]}"]


def test_a_batch_meets_a_workflow_that_was_just_enabled(context: AppContext, acme: Sender, rows: Rows) -> None:
    acme.post_batch([an_event()])
    workflows.apply_workflow(context, acme.account_id, a_workflow())
    acme.post_batch(named("product_view", "product_view"))
    assert rows("SELECT count(*) FROM runs WHERE account_id = %s", acme.account_id) == [(2,)]


def test_a_batch_with_a_key_that_was_just_revoked_stores_nothing(context: AppContext, acme: Sender, rows: Rows) -> None:
    acme.post_batch([an_event()])
    api_keys.revoke_key(context, acme.token.split("_")[1])
    assert acme.post_batch([an_event()]).status_code == 401
    assert len(stored(rows, acme)) == 1
