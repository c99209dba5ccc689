"""What the command line and the console do, over HTTP: following events, simulations, test deliveries, failures, users."""

from __future__ import annotations

import hmac
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from app.core.models import ACCOUNT_MANAGE, OPERATOR
from app.services import inspection, users
from app.services.context import AppContext
from tests.support.builders import a_workflow, an_event
from tests.support.management import Manager, a_key

AT = "2026-11-22T10:0{}:00Z"
SIGNED = """
name: till
secrets: ["{{ secrets.TILL }}"]
verify: {hmac: sha256, header: X-Signature}
map: {event: "'sale'", distinct_id: [body.who], data: body}
"""
STAMPED = (
    "{hmac: sha256, header: X-Signature, timestamp: {header: X-Time}, signed: '{timestamp}.{body}', tolerance: 5m}"
)
REQUEST = 'POST /hooks/x HTTP/1.1\nContent-Type: application/json\n\n{"who": "w1"}\n'


@pytest.fixture
def operator(context: AppContext, other: Manager) -> Manager:
    """A key of another account that may do everything."""
    return replace(other, token=a_key(context, other.sender, ACCOUNT_MANAGE, OPERATOR))


# Following events


def follow(manager: Manager, query: str = "") -> tuple[list[str], str]:
    """The ids that a call returns, and the query to continue."""
    answer = manager.get(f"/events/new?{query}").json
    return [one["id"] for one in answer["items"]], f"after={answer['next']}"


def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let events appear at once: here they are committed before the next request."""
    monkeypatch.setattr(inspection, "committed_until", lambda context: context.clock() + timedelta(seconds=1))


def test_events_are_followed_each_once_and_the_oldest_first(manager: Manager, monkeypatch: pytest.MonkeyPatch) -> None:
    found, after = follow(manager)
    assert found == []
    monkeypatch.setattr(inspection, "committed_until", lambda context: context.clock())
    sent = [manager.sender.post(an_event()).json["id"] for _ in range(3)]
    first, after = follow(manager, f"{after}&limit=2")
    second, after = follow(manager, f"{after}&limit=2")
    assert [first, second] == [sent[:2], sent[2:]]
    assert follow(manager, after)[0] == []
    later = manager.sender.post(an_event()).json["id"]
    assert follow(manager, after)[0] == [later]
    assert follow(manager, "since=2020-01-01T00:00:00Z")[0] == [*sent, later]


def test_events_of_one_moment_are_followed_page_by_page(manager: Manager, monkeypatch: pytest.MonkeyPatch) -> None:
    at_once(monkeypatch)
    headers = {"x-limechat-uat": manager.sender.token, "x-fb-account-id": str(manager.sender.account_id)}
    batch = [an_event(distinct_id=str(number)) for number in range(5)]
    sent = manager.client.post("/api/v1/cvf-events/batch", json=batch, headers=headers).json["ids"]
    found, query = [], "since=2020-01-01T00:00:00Z"
    for _ in range(3):
        page, query = follow(manager, f"{query}&limit=2")
        found += page
    assert found == sent


def test_an_event_appears_when_all_earlier_ones_are_stored(manager: Manager) -> None:
    manager.sender.post(an_event())
    assert follow(manager, "since=2020-01-01T00:00:00Z")[0] == []


def test_others_events_are_not_followed(manager: Manager, other: Manager, monkeypatch: pytest.MonkeyPatch) -> None:
    at_once(monkeypatch)
    other.sender.post(an_event())
    assert follow(manager, "since=2020-01-01T00:00:00Z")[0] == []


# Workflows


def test_a_simulation_says_what_each_event_does(manager: Manager) -> None:
    source = a_workflow(on={"seq": ["viewed", {"none": "bought", "for": "1h"}]})
    events = [{"event": name, "distinct_id": "1", "received_at": AT.format(n)} for n, name in ((1, "x"), (0, "viewed"))]
    answer = manager.post("/workflow-simulate", {"source": source, "events": events})
    assert answer.status_code == 200, answer.text
    steps = answer.json["items"]
    assert [(one["event"], one["contributing"], one["started"]) for one in steps] == [
        (1, True, False),
        (0, False, False),
        (None, False, True),
    ]
    assert (steps[-1]["at"], steps[-1]["used"]) == ("2026-11-22T11:00:00.000000Z", [1])
    assert steps[1]["reason"] == "the workflow does not look at events of this name"


@pytest.mark.parametrize(
    ("event", "message"),
    [
        ({"event": "a"}, "received_at is missing or not text"),
        ({"event": "a", "received_at": AT.format(0), "data": [1]}, "data must be an object"),
    ],
)
def test_a_simulation_names_the_event_that_is_wrong(manager: Manager, event: dict[str, Any], message: str) -> None:
    good = {"event": "a", "distinct_id": "1", "received_at": AT.format(0)}
    answer = manager.post("/workflow-simulate", {"source": a_workflow(on="a"), "events": [good, event]})
    assert answer.json["errors"] == [{"field": "events.1", "message": message}]


def test_the_activity_of_a_workflow_has_its_runs(manager: Manager, values: dict[str, str]) -> None:
    activity = manager.get(f"/workflows/{values['name']}/activity").json
    assert (sum(activity["starts"]), sum(activity["failed"]), activity["on_the_way"]) == (1, 0, 0)
    assert activity["running"] == [{"at": "steps[0]", "runs": 1}]
    assert [one["run_id"] for one in activity["waiting"]] == [values["run_id"]]


def test_failures_are_grouped(context: AppContext, manager: Manager, values: dict[str, str]) -> None:
    with context.database.transaction() as connection:
        connection.exec_driver_sql(
            "UPDATE runs SET status = 'failed', finished_at = now(), error = 'gone', error_class = 'http_5xx' "
            f"WHERE account_id = {manager.sender.account_id}"
        )
    found = manager.get("/runs/failures").json
    (group,) = found["items"]
    assert (group["runs"], group["error_class"], group["run_id"]) == (1, "http_5xx", values["run_id"])
    assert (group["workflows"], found["is_complete"]) == (["greet"], True)
    assert manager.get("/runs/failures?workflow=nothing").json["items"] == []
    minutes = manager.get("/metrics").json["minutes"]
    assert [sum(one[name] for one in minutes) for name in ("events", "starts", "failures")] == [1, 1, 1]


def test_own_events_are_tried_with_answers(manager: Manager) -> None:
    steps = [
        {"id": "ask", "http": {"url": "https://example.com/x", "method": "GET"}},
        {"if": "steps.ask.body.paid == true", "then": []},
    ]
    answers = {"ask": {"status": 200, "body": {"paid": True}}}
    body = {"source": a_workflow(steps=steps), "events": [an_event()], "answers": answers}
    answer = manager.post("/workflow-try", body)
    assert answer.status_code == 200, answer.text
    _, condition = answer.json["events"][0]["run"]["steps"]
    assert condition["values"] == {"steps.ask.body.paid": True}
    refused = manager.post("/workflow-try", {**body, "answers": {"ask": 1}})
    assert [one["field"] for one in refused.json["errors"]] == ["answers"]


# Sources


def test_a_test_delivery_is_signed_and_accepted(manager: Manager) -> None:
    manager.post("/secrets", {"name": "TILL", "value": "a value of eight"})
    manager.post("/sources", {"source": SIGNED})
    answer = manager.post("/sources/till/test", {"request": REQUEST})
    assert answer.status_code == 200, answer.text
    assert (answer.json["result"], len(answer.json["events"])) == ("accepted", 1)
    kept = manager.get(f"/deliveries/{answer.json['id']}").json
    assert (kept["verified"], kept["events"]) == (True, answer.json["events"])
    assert manager.get("/audit?limit=1").json["items"][0]["action"] == "source.test"


def test_a_test_delivery_that_cannot_be_signed_is_refused(manager: Manager) -> None:
    manager.post("/secrets", {"name": "TILL", "value": "a value of eight"})
    verify = "verify: {hmac: sha256, body: signature, token: {body: token}, signed: '{token}'}"
    manager.post("/sources", {"source": SIGNED.replace("verify: {hmac: sha256, header: X-Signature}", verify)})
    for request in (REQUEST, "nothing"):
        refused = manager.post("/sources/till/test", {"request": request})
        assert (refused.status_code, refused.json["errors"][0]["field"]) == (422, "request"), refused.text


def test_a_request_is_tried_as_if_it_had_arrived_at_a_time(manager: Manager) -> None:
    manager.post("/secrets", {"name": "TILL", "value": "a value of eight"})
    source = SIGNED.replace("verify: {hmac: sha256, header: X-Signature}", f"verify: {STAMPED}")
    assert manager.post("/sources", {"source": source}).status_code == 201
    digest = hmac.new(b"a value of eight", b'1767225600.{"who": "w1"}', "sha256").hexdigest()
    signed = REQUEST.replace("\n\n", f"\nX-Time: 1767225600\nX-Signature: {digest}\n\n")
    tried = [
        manager.post("/sources/till/try", {"request": signed, "at": at}).json
        for at in ("2026-01-01T00:01:00Z", "2026-01-01T01:00:00Z", None)
    ]
    assert [one["verified"] for one in tried] == [True, False, False]


def test_a_trial_shows_the_headers_of_a_handshake(manager: Manager) -> None:
    manager.post("/secrets", {"name": "TILL", "value": "a value of eight"})
    source = SIGNED.replace("map:", "handshake: {method: OPTIONS, allow_origin: true}\nmap:")
    made = manager.post("/sources", {"source": source})
    assert made.status_code == 201, made.text
    request = "OPTIONS /hooks/x HTTP/1.1\nWebHook-Request-Origin: example.com\n\n"
    answer = manager.post("/sources/till/try", {"request": request})
    assert answer.json["handshake"]["headers"]["WebHook-Allowed-Origin"] == "example.com", answer.text


# Accounts


def test_an_account_is_created_with_its_settings(operator: Manager) -> None:
    body = {"slug": f"shop-{operator.sender.account_id}", "key_attribute": "phone", "time_zone": "Asia/Kolkata"}
    made = operator.post("/accounts", body)
    assert made.status_code == 201, made.text
    assert (made.json["key_attribute"], made.json["event_attribute"]) == ("phone", "type")
    assert made.json["time_zone"] == "Asia/Kolkata"
    refused = operator.post("/accounts", {"slug": "other", "time_zone": "Mars/Base"})
    assert refused.status_code == 422


def test_the_audit_log_of_all_accounts_has_what_concerns_none(
    context: AppContext, operator: Manager, values: dict[str, str]
) -> None:
    operator.post(f"/users/{values['user']}/disable")
    operator.post(f"/accounts/{values['slug']}/disable")
    found = operator.get("/audit/all?limit=2").json["items"]
    assert [(one["action"], one["account"]) for one in found] == [
        ("account.disable", values["slug"]),
        ("user.disable", None),
    ]
    weak = replace(operator, token=a_key(context, operator.sender, OPERATOR))
    assert weak.get("/audit/all").status_code == 403


# Users


def test_an_operator_resets_a_password_and_all_sessions_end(
    context: AppContext, operator: Manager, values: dict[str, str]
) -> None:
    first = operator.post(f"/users/{values['user']}/password").json["password"]
    assert users.sign_in(context, values["user"], first, "127.0.0.1", "a browser") is not None
    (session,) = operator.get(f"/users/{values['user']}/sessions").json["items"]
    assert (session["address"], session["agent"]) == ("127.0.0.1", "a browser")
    second = operator.post(f"/users/{values['user']}/password").json["password"]
    assert users.sign_in(context, values["user"], first, "127.0.0.1", "a browser") is None
    assert operator.get(f"/users/{values['user']}/sessions").json["items"] == []
    assert users.sign_in(context, values["user"], second, "127.0.0.1", "a browser") is not None
    assert operator.post(f"/users/{values['user']}/sign-out").json == {"ended": 1}


def test_the_sessions_of_a_user_have_pages(context: AppContext, operator: Manager, values: dict[str, str]) -> None:
    password = operator.post(f"/users/{values['user']}/password").json["password"]
    for number in range(3):
        assert users.sign_in(context, values["user"], password, "127.0.0.1", f"browser {number}") is not None
    first = operator.get(f"/users/{values['user']}/sessions?limit=2").json
    assert [session["agent"] for session in first["items"]] == ["browser 2", "browser 1"]
    last = operator.get(f"/users/{values['user']}/sessions?limit=2&after={first['next']}").json
    assert ([session["agent"] for session in last["items"]], last["next"]) == (["browser 0"], None)


def test_the_password_of_an_operator_and_a_weak_key_are_refused(
    context: AppContext, manager: Manager, operator: Manager, values: dict[str, str]
) -> None:
    path = f"/users/{values['user']}/password"
    weak = replace(operator, token=a_key(context, operator.sender, OPERATOR))
    assert (weak.post(path).status_code, manager.post(path).status_code) == (403, 403)
    users.set_operator(context, values["user"], is_operator=True)
    refused = operator.post(path)
    assert (refused.status_code, refused.json["type"]) == (403, "urn:signalbox:forbidden")
