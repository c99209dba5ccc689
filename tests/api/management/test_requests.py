"""What all routes of the management API have in common: errors, pages, ETags, and requests that are repeated."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from app.api import bearer_limit
from app.core import pacing
from app.core.models import ACCOUNT_MANAGE, OPERATOR
from app.core.work_shares import WorkShares
from app.db import accounts
from app.db.inspection import EventFilter
from app.services import inspection, integrations, request_transactions, retention, secrets, sources, workflows
from app.services.context import AppContext
from app.worker.housekeeping import TASKS
from tests.support.builders import a_workflow, an_event
from tests.support.clocks import Clock
from tests.support.management import Manager, a_key

SOURCE = a_workflow(name="cart", on="cart_updated")


def error_of(answer: Any) -> tuple[int, str]:
    assert answer.content_type == "application/problem+json"
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["X-Request-Id"]
    return answer.status_code, answer.json["type"].removeprefix("urn:signalbox:")


# Errors


def test_an_unknown_path_is_a_problem(manager: Manager) -> None:
    assert error_of(manager.get("/nothing")) == (404, "not-found")
    assert error_of(manager.get("/runs/no-uuid")) == (404, "not-found")


def test_an_unknown_method_is_a_problem(manager: Manager) -> None:
    answer = manager.call("PATCH", "/keys")
    assert error_of(answer) == (405, "method-not-allowed")
    assert answer.headers["Allow"] == "GET, HEAD, POST"


def test_a_body_of_another_media_type_is_a_problem(manager: Manager) -> None:
    headers = {"Authorization": f"Bearer {manager.token}", "Content-Type": "text/plain"}
    answer = manager.client.post("/api/v1/manage/keys", data="{}", headers=headers)
    assert error_of(answer) == (415, "unsupported-media-type")


@pytest.mark.parametrize("body", [b"{", b"\xff", b'{"name": 1, "name": 2}', b'{"name": NaN}'])
def test_a_body_that_is_no_json_is_a_problem(manager: Manager, body: bytes) -> None:
    headers = {"Authorization": f"Bearer {manager.token}", "Content-Type": "application/json"}
    answer = manager.client.post("/api/v1/manage/keys", data=body, headers=headers)
    assert error_of(answer) == (400, "malformed-body")


def test_all_mistakes_of_a_body_are_named(manager: Manager) -> None:
    answer = manager.post("/keys", {"scopes": ["nothing"], "expires_in": "soon", "colour": "red"})
    assert error_of(answer) == (422, "validation-failed")
    assert [one["field"] for one in answer.json["errors"]] == ["scopes.0", "expires_in", "colour"]


def test_a_hundred_mistakes_of_a_body_are_named(manager: Manager) -> None:
    answer = manager.post("/workflow-check", {f"k{number}": 1 for number in range(1_000)})
    assert error_of(answer) == (422, "validation-failed")
    assert len(answer.json["errors"]) == 100


def test_a_body_has_a_thousand_members(manager: Manager) -> None:
    answer = manager.post("/workflow-check", {f"k{number}": 1 for number in range(1_001)})
    assert error_of(answer) == (422, "validation-failed")
    assert answer.json["errors"] == [{"field": "", "message": "has more than 1000 members"}]


def test_what_a_request_takes_comes_out_of_the_share_of_its_account(
    manager: Manager, context: AppContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    shares = WorkShares(Clock())
    monkeypatch.setattr(context.limits.management_requests, "_shares", shares)
    monkeypatch.setattr(pacing, "_end_piece", lambda: 0.001)
    assert manager.get("/keys").status_code == 200
    assert list(shares._left) == [manager.sender.account_id]
    assert manager.sender.account_id not in context.limits.shares._left


def test_a_list_of_events_is_read_without_their_data(
    manager: Manager, context: AppContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    event_id = manager.sender.post(an_event(data={"a": "b"})).json["id"]
    for path in ("/events", "/events?outcome=no-workflow", "/events?data=data.a%20%3D%20b"):
        assert [one["id"] for one in manager.get(path).json["items"]] == [event_id]
    account_id = manager.sender.account_id
    listed = inspection.find_latest_events(context, account_id, EventFilter(), 10, with_data=False)
    monkeypatch.setattr(inspection, "committed_until", lambda context: context.clock() + timedelta(seconds=1))
    since = EventFilter(since=context.clock() - timedelta(hours=1))
    followed, _ = inspection.follow_events(context, account_id, since, None, 10)
    for found in (listed, followed):
        assert [(one.data_json, one.extra_json, one.augmented_json) for one in found] == [("{}", None, None)]


def test_a_mistyped_filter_is_refused(manager: Manager) -> None:
    answer = manager.get("/runs?statsu=failed")
    assert error_of(answer) == (422, "validation-failed")
    assert answer.json["errors"] == [{"field": "statsu", "message": "is unknown"}]


def test_a_nul_in_the_url_is_refused(manager: Manager) -> None:
    assert error_of(manager.get("/workflows/a%00b")) == (400, "malformed-request")
    assert error_of(manager.get("/events?event=a%00b")) == (400, "malformed-request")


def test_requests_are_limited(manager: Manager, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bearer_limit, "MAX_PER_MINUTE", 2)
    assert [manager.get("/keys").status_code for _ in range(2)] == [200, 200]
    answer = manager.get("/keys")
    assert error_of(answer) == (429, "rate-limit-exceeded")
    assert answer.headers["Retry-After"] == "60"


# Bodies


class Watched(io.BytesIO):
    """A body. When it is read, somebody else uses a permit and the account's row."""

    def __init__(self, body: bytes, context: AppContext, account_id: int) -> None:
        super().__init__(body)
        self.context, self.account_id, self.is_read = context, account_id, False

    def read(self, size: int | None = -1) -> bytes:
        if not self.is_read:
            self.is_read = True
            with (
                self.context.limits.management_requests.acquire(self.account_id),
                self.context.database.transaction() as connection,
            ):
                connection.exec_driver_sql(f"SELECT FROM accounts WHERE id = {self.account_id} FOR UPDATE NOWAIT")
        return super().read(size)


@pytest.mark.parametrize(
    ("method", "path", "body", "headers"),
    [
        ("PATCH", "/account", {"time_zone": "Asia/Kolkata"}, {"If-Match": "*"}),
        ("POST", "/keys", {"scopes": ["events:write"]}, {}),
        ("POST", "/keys", {"scopes": ["events:write"]}, {"Idempotency-Key": "k1"}),
        ("POST", "/workflows/greet/enable", {}, {"Idempotency-Key": "k1"}),
    ],
)
def test_a_body_that_is_being_read_holds_nothing(
    context: AppContext,
    manager: Manager,
    values: dict[str, str],
    method: str,
    path: str,
    body: Any,
    headers: dict[str, str],
) -> None:
    text = json.dumps(body).encode()
    stream = Watched(text, manager.client.application.extensions["context"], manager.sender.account_id)
    answer = manager.client.open(
        f"/api/v1/manage{path}",
        method=method,
        headers={"Authorization": f"Bearer {manager.token}", "Content-Type": "application/json", **headers},
        input_stream=stream,
        content_length=len(text),
    )
    assert answer.status_code < 300, answer.text
    assert stream.is_read


# Pages


def test_pages_lead_through_a_whole_list_once(context: AppContext, manager: Manager) -> None:
    for number in range(5):
        manager.sender.post(an_event(event=f"e{number}"))
        workflows.apply_workflow(context, manager.sender.account_id, a_workflow(name=f"w{number}"))
        a_key(context, manager.sender)
    for path, field, count in (("/events", "id", 5), ("/workflows", "name", 5), ("/keys", "prefix", 7)):
        seen, after = [], ""
        while True:
            page = manager.get(f"{path}?limit=2{after}").json
            assert len(page["items"]) <= 2
            seen += [one[field] for one in page["items"]]
            if page["next"] is None:
                break
            after = f"&after={page['next']}"
        assert len(seen) == len(set(seen)) == count


def test_a_page_that_is_exactly_full_is_the_last(manager: Manager) -> None:
    for number in range(2):
        manager.sender.post(an_event(event=f"e{number}"))
    assert manager.get("/events?limit=2").json["next"] is None


@pytest.mark.parametrize("query", ["limit=0", "limit=101", "limit=x", "after=x"])
def test_a_wrong_page_is_refused(manager: Manager, query: str) -> None:
    assert error_of(manager.get(f"/events?{query}")) == (422, "validation-failed")


# ETags


def test_a_change_needs_if_match(manager: Manager, values: dict[str, str]) -> None:
    assert error_of(manager.call("PUT", "/workflows/greet", {"source": SOURCE})) == (428, "precondition-required")


def test_a_change_of_an_older_state_is_refused(context: AppContext, manager: Manager) -> None:
    manager.post("/workflows", {"source": SOURCE})
    tag = manager.tag("/workflows/cart")
    changed = a_workflow(name="cart", on="cart_emptied")
    first = manager.call("PUT", "/workflows/cart", {"source": changed}, If_Match=tag)
    assert (first.status_code, first.json["latest_version"], first.json["enabled_version"]) == (200, 2, 2)
    assert error_of(manager.call("PUT", "/workflows/cart", {"source": SOURCE}, If_Match=tag)) == (
        412,
        "precondition-failed",
    )
    assert first.headers["ETag"] == manager.tag("/workflows/cart")


def test_a_new_version_with_another_name_is_refused(context: AppContext, manager: Manager) -> None:
    manager.post("/workflows", {"source": SOURCE})
    answer = manager.call("PUT", "/workflows/cart", {"source": a_workflow(name="other")}, If_Match="*")
    assert error_of(answer) == (422, "validation-failed")
    (error,) = answer.json["errors"]
    assert (error["field"], error["line"]) == ("name", 1)
    assert error["message"] == "must stay cart: another name is another workflow"


def test_of_two_changes_of_the_same_state_one_is_carried_out(context: AppContext, manager: Manager) -> None:
    manager.post("/workflows", {"source": SOURCE})
    tag = manager.tag("/workflows/cart")
    statuses: list[int] = []

    def change(number: int) -> None:
        body = {"source": a_workflow(name="cart", on=f"cart_{number}")}
        other = Manager(manager.sender, manager.token, manager.client.application.test_client())
        statuses.append(other.call("PUT", "/workflows/cart", body, If_Match=tag).status_code)

    threads = [threading.Thread(target=change, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [200, 412, 412, 412]


@pytest.mark.parametrize(
    ("method", "path", "read", "body", "change"),
    [
        ("PUT", "/accounts/{slug}/plan", "/accounts/{slug}", {"plan": "trial"}, "accounts SET name = 'B' WHERE slug"),
        ("DELETE", "/users/{user}", "/users/{user}", None, "users SET disabled_at = now() WHERE email"),
    ],
)
def test_a_change_of_what_belongs_to_another_account_is_compared_with_the_latest_state(
    context: AppContext,
    manager: Manager,
    values: dict[str, str],
    method: str,
    path: str,
    read: str,
    body: Any,
    change: str,
) -> None:
    operator = Manager(manager.sender, a_key(context, manager.sender, ACCOUNT_MANAGE, OPERATOR), manager.client)
    tag, answers = operator.tag(read.format(**values)), []
    thread = threading.Thread(
        target=lambda: answers.append(operator.call(method, path.format(**values), body, If_Match=tag))
    )
    with context.database.transaction() as connection:
        connection.exec_driver_sql(f"UPDATE {change} = %s", (values["slug" if "slug" in path else "user"],))
        thread.start()
        thread.join(0.5)
        assert thread.is_alive()
    thread.join()
    assert error_of(answers[0]) == (412, "precondition-failed")


TWILIO = integrations.find_kind("twilio")
CHANGES: dict[str, Callable[[AppContext, int], object]] = {
    "integration": lambda context, account: integrations.set_integration(context, account, TWILIO, {"auth_token": "b"}),
    "no integration": lambda context, account: integrations.remove_integration(context, account, TWILIO),
    "retention": lambda context, account: retention.change_retention(context, account, "acme", {"events": None}),
    "secret": lambda context, account: secrets.set_secret(context, account, "SHOPIFY", "another value"),
    "no secret": lambda context, account: secrets.remove_secret(context, account, "SHOPIFY"),
    "workflow": lambda context, account: workflows.apply_workflow(context, account, SOURCE),
    "no source": lambda context, account: sources.delete_source(context, account, "shop"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_the_console_changes_nothing_between_the_check_of_an_etag_and_its_change(
    context: AppContext, manager: Manager, values: dict[str, str], change: Callable[[AppContext, int], object]
) -> None:
    account_id = manager.sender.account_id
    thread = threading.Thread(target=change, args=(context, account_id))
    with context.database.transaction() as connection:
        accounts.lock_account(connection, account_id)
        thread.start()
        thread.join(0.3)
        assert thread.is_alive()
    thread.join()


def test_what_has_not_changed_is_not_sent_again(manager: Manager) -> None:
    manager.post("/workflows", {"source": SOURCE})
    answer = manager.get("/workflows/cart", If_None_Match=manager.tag("/workflows/cart"))
    assert (answer.status_code, answer.data) == (304, b"")


def test_using_a_key_does_not_change_its_etag(context: AppContext, manager: Manager) -> None:
    prefix = manager.token[3:11]
    before = manager.tag(f"/keys/{prefix}")
    with context.database.transaction() as connection:
        connection.exec_driver_sql(f"UPDATE keys SET last_used_at = now() + interval '1h' WHERE prefix = '{prefix}'")
    assert manager.tag(f"/keys/{prefix}") == before


# Requests that are repeated


def test_a_repeated_request_gets_the_same_answer_and_changes_nothing(manager: Manager) -> None:
    body = {"name": "shop", "scopes": ["events:write"]}
    first = manager.post("/keys", body, Idempotency_Key="k1")
    again = manager.post("/keys", body, Idempotency_Key="k1")
    assert (first.status_code, again.status_code) == (201, 201)
    assert (first.data, first.headers["ETag"]) == (again.data, again.headers["ETag"])
    assert ("Idempotency-Replayed" in first.headers, again.headers["Idempotency-Replayed"]) == (False, "true")
    assert [one["name"] for one in manager.get("/keys").json["items"]].count("shop") == 1


def test_the_answer_that_is_kept_and_the_digest_of_its_request_are_encrypted(
    context: AppContext, manager: Manager
) -> None:
    key = manager.post("/keys", {"scopes": ["events:write"]}, Idempotency_Key="k1").json["key"]
    with context.database.transaction() as connection:
        statement = f"SELECT body, request_digest FROM stored_answers WHERE account_id = {manager.sender.account_id}"
        ((stored, digest),) = connection.exec_driver_sql(statement)
    assert key.encode() not in bytes(stored)
    assert key in context.secrets.decrypt(bytes(stored))
    assert len(context.secrets.decrypt(bytes(digest))) == 64


def test_a_key_for_another_request_is_refused(manager: Manager) -> None:
    manager.post("/keys", {"scopes": ["events:write"]}, Idempotency_Key="k1")
    answer = manager.post("/keys", {"scopes": ["events:read"]}, Idempotency_Key="k1")
    assert error_of(answer) == (422, "idempotency-key-reused")
    assert error_of(manager.post("/workflows", {"source": SOURCE}, Idempotency_Key="k1")) == (
        422,
        "idempotency-key-reused",
    )


def test_callers_have_idempotency_keys_of_their_own(context: AppContext, manager: Manager, other: Manager) -> None:
    body = {"scopes": ["events:write"]}
    second = Manager(manager.sender, a_key(context, manager.sender), manager.client)
    keys = {one.post("/keys", body, Idempotency_Key="k1").json["key"] for one in (manager, second, other)}
    assert len(keys) == 3


def test_a_request_that_was_refused_may_be_sent_again_with_its_key(manager: Manager) -> None:
    assert manager.post("/workflows/cart/enable", {}, Idempotency_Key="k1").status_code == 404
    manager.post("/workflows", {"source": SOURCE})
    assert manager.post("/workflows/cart/enable", {}, Idempotency_Key="k1").status_code == 200


def test_what_a_failed_request_has_changed_is_undone(
    context: AppContext, manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*values: Any) -> None:
        raise request_transactions.Problem(request_transactions.ProblemType.CONFLICT, "cannot be kept")

    monkeypatch.setattr(request_transactions.stored_answers, "store_answer", fail)
    assert manager.post("/workflows", {"source": SOURCE}, Idempotency_Key="k1").status_code == 409
    assert manager.get("/workflows").json["items"] == []


def test_a_request_whose_twin_is_being_handled_is_refused(manager: Manager, monkeypatch: pytest.MonkeyPatch) -> None:
    began, may_end = threading.Event(), threading.Event()
    apply = workflows.save_edited

    def slow(*values: Any, **options: Any) -> Any:
        began.set()
        may_end.wait(30)
        return apply(*values, **options)

    monkeypatch.setattr(workflows, "save_edited", slow)
    # Another account's turn would be taken otherwise.
    monkeypatch.setattr(manager.client.application.extensions["context"].limits.management_requests, "_at_once", 2)
    answers: list[Any] = []
    other = Manager(manager.sender, manager.token, manager.client.application.test_client())
    thread = threading.Thread(
        target=lambda: answers.append(other.post("/workflows", {"source": SOURCE}, Idempotency_Key="k1"))
    )
    thread.start()
    began.wait(30)
    refused = manager.post("/workflows", {"source": SOURCE}, Idempotency_Key="k1")
    may_end.set()
    thread.join()
    assert error_of(refused) == (409, "conflict")
    assert answers[0].status_code == 201


def test_a_key_has_the_rule_of_the_receivers(manager: Manager) -> None:
    answers = [manager.post("/keys", {"scopes": ["events:write"]}, Idempotency_Key="order 7") for _ in range(2)]
    assert [answer.headers.get("Idempotency-Replayed") for answer in answers] == [None, "true"]


@pytest.mark.parametrize("key", ["", "ä", "x" * 256])
def test_an_unusable_idempotency_key_is_refused(manager: Manager, key: str) -> None:
    answer = manager.post("/keys", {"scopes": ["events:write"]}, Idempotency_Key=key)
    assert error_of(answer) == (422, "validation-failed")
    message = "must be 1 to 255 printable ASCII characters"
    assert answer.json["errors"] == [{"field": "Idempotency-Key", "message": message}]


def test_answers_are_forgotten_after_a_day(context: AppContext, manager: Manager) -> None:
    from app.db import stored_answers

    body = {"scopes": ["events:write"]}
    first = manager.post("/keys", body, Idempotency_Key="k1").json
    with context.database.transaction() as connection:
        connection.exec_driver_sql(
            "UPDATE stored_answers SET created_at = created_at - interval '24 hours 1 second' "
            f"WHERE account_id = {manager.sender.account_id}"
        )
    assert manager.post("/keys", body, Idempotency_Key="k1").json["key"] != first["key"]
    assert stored_answers.forget_old_answers in TASKS
    with context.database.transaction() as connection:
        connection.exec_driver_sql("UPDATE stored_answers SET created_at = created_at - interval '25 hours'")
        assert stored_answers.forget_old_answers(connection, context.clock()) >= 1


@pytest.mark.parametrize("bound", ["MAX_ANSWERS", "MAX_BYTES"])
def test_so_many_answers_of_an_account_are_kept(
    manager: Manager, other: Manager, monkeypatch: pytest.MonkeyPatch, bound: str
) -> None:
    body = {"scopes": ["events:write"]}
    first = manager.post("/keys", body, Idempotency_Key="k1")
    monkeypatch.setattr(request_transactions.stored_answers, bound, 1)
    refused = manager.post("/keys", body, Idempotency_Key="k2")
    assert (error_of(refused), refused.headers["Retry-After"]) == ((429, "rate-limit-exceeded"), "3600")
    assert len(manager.get("/keys").json["items"]) == 3
    assert manager.post("/keys", body, Idempotency_Key="k1").json == first.json
    assert manager.post("/keys", body).status_code == 201
    assert other.post("/keys", body, Idempotency_Key="k1").status_code == 201
