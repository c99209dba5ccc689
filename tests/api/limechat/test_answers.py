"""`POST /api/v1/cvf-events`: the answer and its headers, over real sockets."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from app.core.models import PLANS
from app.services import accounts, workflows
from app.services.context import AppContext
from tests.api.conftest import Rows
from tests.api.limechat.conftest import LIMIT, assert_problem, counts, stored
from tests.support.builders import EVENTS_PATH, Sender, a_sender, a_workflow, an_event
from tests.support.server import Server

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
        "occurred_at": None,
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
