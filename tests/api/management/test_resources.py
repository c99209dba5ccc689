"""What is special about resources of the management API: secrets that are never shown, and long work that is done in parts."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest

from app.api.management import runs as run_routes
from app.api.management import workflow_trial
from app.core.models import EVENTS_READ, EVENTS_WRITE, KEYS_MANAGE
from app.services import event_search, integrations, runs, workflow_activity, workflows
from app.services.context import AppContext
from tests.support.blocks import execute_due_jobs
from tests.support.builders import a_workflow, an_event
from tests.support.management import Manager, a_key

SOURCE = "name: till\nverify: none\nmap: {event: \"'sale'\", distinct_id: [body.who], data: body}\n"
VALUE = "correct horse battery staple"


def dump(context: AppContext, account_id: int, *tables: str) -> str:
    """All rows of an account in these tables, as text."""
    with context.database.transaction() as connection:
        return " ".join(
            str(
                connection.exec_driver_sql(
                    f"SELECT jsonb_agg(t) FROM {table} AS t WHERE account_id = {account_id}"
                ).scalar()
            )
            for table in tables
        )


def all_items(manager: Manager, path: str) -> list[Any]:
    """The items of all pages of a list."""
    found, after = [], ""
    while True:
        page = manager.get(f"{path}limit=1{after}").json
        found += page["items"]
        if page["next"] is None:
            return found
        after = f"&after={page['next']}"


# Secrets


def test_the_value_of_a_secret_is_in_no_answer_and_in_no_other_table(context: AppContext, manager: Manager) -> None:
    answers = [
        manager.post("/secrets", {"name": "SHOPIFY", "value": VALUE}, Idempotency_Key="k1"),
        manager.call("PUT", "/secrets/SHOPIFY", {"value": VALUE + "!"}, If_Match=manager.tag("/secrets/SHOPIFY")),
        manager.get("/secrets"),
        manager.get("/audit"),
    ]
    assert [answer.status_code for answer in answers] == [201, 200, 200, 200]
    assert [entry["action"] for entry in answers[-1].json["items"][:2]] == ["secret.set", "secret.set"]
    kept = dump(context, manager.sender.account_id, "secrets", "audit_log", "stored_answers")
    assert all(VALUE not in text for text in (kept, *(answer.text for answer in answers)))


def test_a_secret_is_created_once(manager: Manager) -> None:
    body = {"name": "SHOPIFY", "value": VALUE}
    assert [manager.post("/secrets", body).status_code for _ in range(2)] == [201, 409]


def test_a_secret_that_is_read_is_only_removed_by_force(manager: Manager) -> None:
    manager.post("/secrets", {"name": "SHOPIFY", "value": VALUE})
    source = SOURCE.replace(
        "verify: none", 'secrets: ["{{ secrets.SHOPIFY }}"]\nverify: {hmac: sha256, header: x-sign}'
    )
    assert manager.post("/sources", {"source": source}).status_code == 201
    assert manager.get("/secrets/SHOPIFY").json["used_by"] == ["source till"]
    assert manager.call("DELETE", "/secrets/SHOPIFY", If_Match="*").status_code == 409
    assert manager.call("DELETE", "/secrets/SHOPIFY?force=true", If_Match="*").status_code == 204


def test_the_secrets_of_an_integration_are_masked(context: AppContext, manager: Manager) -> None:
    made = manager.post("/integrations", {"kind": "sendgrid", "fields": {"api_key": f"SG.{'x' * 20}"}})
    assert made.json["fields"] == {"api_key": "***"}
    changed = manager.call("PATCH", "/integrations/sendgrid", {"fields": {"from": "a@example.com"}}, If_Match="*")
    assert changed.json["fields"] == {"api_key": "***", "from": "a@example.com"}
    assert "x" * 20 not in dump(context, manager.sender.account_id, "integrations", "audit_log", "stored_answers")
    sent_back = manager.call("PATCH", "/integrations/sendgrid", {"fields": changed.json["fields"]}, If_Match="*")
    assert (sent_back.status_code, sent_back.json["detail"]) == (
        422,
        "api_key must be an API key (SG.…) that may send mail",
    )


def test_a_client_gets_its_secret_once_and_at_most_the_scopes_of_the_key(context: AppContext, manager: Manager) -> None:
    made = manager.post("/clients", {"name": "w", "scopes": ["events:write"]}).json
    assert "secret" not in manager.get(f"/clients/{made['id']}").json
    assert made["secret"] not in manager.get("/clients").text
    assert manager.post("/clients", {"scopes": ["operator"]}).status_code == 422
    weak = replace(manager, token=a_key(context, manager.sender, KEYS_MANAGE, EVENTS_READ))
    refused = weak.post("/clients", {"scopes": [EVENTS_READ, EVENTS_WRITE]})
    assert refused.json["errors"] == [{"field": "scopes", "message": "the calling key lacks events:write"}]
    assert weak.post("/clients", {"scopes": [EVENTS_READ]}).status_code == 201


# Sources and deliveries


def test_the_token_of_a_source_works_and_is_shown_once(manager: Manager) -> None:
    made = manager.post("/sources", {"source": SOURCE}).json
    assert manager.client.post(made["path"], json={"who": "asha"}).json["result"] == "accepted"
    rotated = manager.post("/sources/till/rotate", {"overlap": "0"}).json
    assert rotated["old_until"] is None
    shown = manager.get("/sources/till").text + manager.get("/sources").text + manager.get("/audit").text
    assert made["token"] not in shown and rotated["token"] not in shown
    assert manager.client.post(rotated["path"], json={"who": "asha"}).status_code == 200


def test_a_delivery_is_downloaded_byte_for_byte(manager: Manager) -> None:
    path = manager.post("/sources", {"source": SOURCE}).json["path"]
    body = b'{"who":  "asha", "total": 1.10}\r\n'
    manager.client.post(path, data=body, headers={"Content-Type": "application/json"})
    (delivery,) = manager.get("/deliveries").json["items"]
    answer = manager.get(f"/deliveries/{delivery['id']}/body")
    assert (answer.data, answer.content_type) == (body, "application/octet-stream")


def test_deliveries_are_mapped_again_in_parts(manager: Manager, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.ingest.sources.delivery_replay.MAX_REPLAYED", 2)
    path = manager.post("/sources", {"source": SOURCE.replace("body.who", "body.person")}).json["path"]
    for number in range(3):
        manager.client.post(path, json={"who": f"asha {number}"})
    body = {"source": SOURCE}
    assert manager.call("PUT", "/sources/till", body, If_Match=manager.tag("/sources/till")).status_code == 200
    plan = manager.get("/sources/till/replay").json
    assert (plan["count"], plan["is_cut"]) == (2, True)
    first = manager.post("/sources/till/replay").json
    second = manager.post("/sources/till/replay", {"after": first["next"]}).json
    assert [(one["mapped"], one["next"] is None) for one in (first, second)] == [(2, False), (1, True)]
    assert manager.get("/sources/till/replay").json == {"count": 0, "is_cut": False, "problems": []}


def test_deliveries_that_cannot_be_mapped_do_not_hide_later_ones(
    manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.ingest.sources.delivery_replay.MAX_REPLAYED", 2)
    path = manager.post("/sources", {"source": SOURCE.replace("body.who", "body.person")}).json["path"]
    for body in ({}, {}, {"who": "asha"}):
        manager.client.post(path, json=body)
    manager.call("PUT", "/sources/till", {"source": SOURCE}, If_Match="*")
    after: dict[str, str] = {}
    mapped = 0
    while after is not None:
        answer = manager.post("/sources/till/replay", after).json
        mapped += answer["mapped"]
        after = None if answer["next"] is None else {"after": answer["next"]}
    assert mapped == 1
    assert manager.get("/sources/till/replay").json["count"] == 2
    since = {"since": "2126-01-01T00:00:00Z"}
    assert manager.post("/sources/till/replay", since).json["done"] == 0


def test_a_disabled_source_maps_nothing_again(manager: Manager) -> None:
    manager.post("/sources", {"source": SOURCE})
    manager.post("/sources/till/disable")
    refused = manager.post("/sources/till/replay")
    assert (refused.status_code, refused.json["detail"]) == (409, "the source till is disabled; enable it first")


# Workflows and sources


@pytest.mark.parametrize(("path", "source"), [("/workflows", a_workflow(name="cart")), ("/sources", SOURCE)])
def test_a_name_that_exists_and_a_version_that_does_not_are_answered_alike(
    manager: Manager, path: str, source: str
) -> None:
    first, second = (manager.post(path, {"source": source}) for _ in range(2))
    assert (first.status_code, second.status_code) == (201, 409)
    assert "already" in second.json["detail"]
    name = first.json["name"]
    answers = [manager.get(f"{path}/{name}/versions/{version}") for version in (0, 2, 10**12)]
    details = [(answer.status_code, answer.json["detail"]) for answer in answers]
    assert details == [(404, f"{name} has the versions 1 to 1")] * 3


def test_a_workflow_with_too_many_runs_for_one_request_stays(manager: Manager, monkeypatch: pytest.MonkeyPatch) -> None:
    manager.post(
        "/workflows", {"source": a_workflow(name="cart", on="cart_updated", steps=[{"wait": "1h"}]), "enable": True}
    )
    manager.sender.post(an_event(event="cart_updated"))
    monkeypatch.setattr(workflow_activity, "MAX_CANCELLED", 0)
    monkeypatch.setattr(workflow_activity, "MAX_DELETED", 0)
    cancelled = manager.post("/workflows/cart/disable", {"cancel_runs": True})
    deleted = manager.call("DELETE", "/workflows/cart", If_Match="*")
    assert (cancelled.status_code, deleted.status_code) == (409, 409)
    assert manager.get("/workflows/cart").json["enabled_version"] == 1
    assert manager.post("/workflows/cart/disable", {"cancel_runs": False}).json["cancelled_runs"] == 0


def test_a_workflow_with_too_much_progress_for_one_request_stays(
    manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager.post("/workflows", {"source": a_workflow(name="cart", on={"seq": ["cart_updated", "order_placed"]})})
    for number in range(2):
        manager.sender.post(an_event(event="cart_updated", distinct_id=str(number)))
    monkeypatch.setattr(workflow_activity, "MAX_DELETED", 1)
    refused = manager.call("DELETE", "/workflows/cart", If_Match="*")
    assert (refused.status_code, manager.get("/workflows/cart").json["enabled_version"]) == (409, 1)
    monkeypatch.setattr(workflow_activity, "MAX_DELETED", 2)
    assert manager.call("DELETE", "/workflows/cart", If_Match="*").status_code == 204


def test_a_document_is_tried_on_a_delivery_without_storing_anything(context: AppContext, manager: Manager) -> None:
    path = manager.post("/sources", {"source": SOURCE}).json["path"]
    manager.client.post(path, json={"person": "asha"})
    (delivery,) = manager.get("/deliveries?result=waiting").json["items"]
    tried = manager.post(
        f"/deliveries/{delivery['id']}/try", {"source": SOURCE.replace("body.who", "body.person")}
    ).json
    assert [event["distinct_id"] for event in tried["events"]] == ["asha"]
    assert manager.get("/events").json["items"] == []


# Runs in bulk, events, trials


def test_many_runs_are_counted_before_they_are_cancelled(
    context: AppContext, manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "MAX_PLANNED", 2)
    workflows.apply_workflow(context, manager.sender.account_id, a_workflow(steps=[{"wait": "1h"}]))
    for number in range(3):
        manager.sender.post(an_event(distinct_id=str(number)))
    assert manager.post("/runs/cancel", {}).json == {"count": 2, "has_more": True, "changed": 0}
    assert len(manager.get("/runs?status=running").json["items"]) == 3
    assert manager.post("/runs/cancel", {"dry_run": False}).json == {"count": 2, "has_more": True, "changed": 2}
    assert manager.post("/runs/cancel", {"dry_run": False}).json == {"count": 1, "has_more": False, "changed": 1}
    assert manager.get("/audit").json["items"][0]["action"] == "run.cancel"


def test_of_a_long_run_so_many_steps_and_blocks_are_shown(
    context: AppContext, manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = [[{"log": "x"}, {"log": "y"}], [{"log": "z"}]]
    workflows.apply_workflow(
        context, manager.sender.account_id, a_workflow(steps=[{"log": "a"}, {"log": "b"}, {"par": blocks}])
    )
    run_id = manager.sender.post(an_event()).json["runs"][0]
    execute_due_jobs(context, manager.sender, run_id)
    shown = {}
    for limit in (2, 4, 5, 7, 1_000):
        monkeypatch.setattr(run_routes, "MAX_STEPS", limit)
        run = manager.get(f"/runs/{run_id}").json
        steps = [step["path"] for step in run["steps"]]
        shown[limit] = (steps, len(run["attempts"]), [len(block["steps"]) for block in run["blocks"]])
    assert shown == {
        2: (["steps[1]", "steps[2]"], 2, []),
        4: (["steps[0]", "steps[1]", "steps[2]"], 2, []),
        5: (["steps[0]", "steps[1]", "steps[2]"], 2, [1]),
        7: (["steps[0]", "steps[1]", "steps[2]"], 2, [2]),
        1_000: (["steps[0]", "steps[1]", "steps[2]"], 2, [2, 1]),
    }


def test_a_search_goes_on_where_it_has_stopped_looking(manager: Manager, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_search.event_search, "MAX_LOOKED_AT", 1)
    for total in (5, 6, 5):
        manager.sender.post(an_event(data={"total": total}))
    found = all_items(manager, "/events?data=data.total%20%3D%205&")
    assert len(found) == 2
    assert all_items(manager, "/events?outcome=started&") == []


def test_a_backtest_continues_after_the_last_subject(manager: Manager, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(3):
        manager.sender.post(an_event(distinct_id=str(number)))
    body = {"source": a_workflow(), "since": "2020-01-01T00:00:00Z"}
    whole = manager.post("/workflow-backtest", body).json
    assert (whole["subjects"], whole["starts"], whole["next"]) == (3, 3, None)
    rest = manager.post("/workflow-backtest", {**body, "after": "0"}).json
    assert (rest["subjects"], rest["starts"]) == (2, 2)
    monkeypatch.setattr(workflow_trial, "_BACKTEST_SECONDS", -1.0)
    assert manager.post("/workflow-backtest", body).json["next"] == ""


def test_a_trial_shows_what_a_step_would_send(manager: Manager) -> None:
    steps = [{"http": {"url": "https://example.com/x", "json": {"who": "{{ distinct_id }}"}}}]
    body = {"source": a_workflow(steps=steps), "events": [an_event(distinct_id="7")]}
    tried = manager.post("/workflow-try", body).json
    (step,) = tried["events"][0]["run"]["steps"]
    assert '"who":"7"' in json.dumps(step["request"]).replace(" ", "").replace("\\", "")
    assert manager.get("/runs").json["items"] == []


def test_answers_of_what_changes_nothing_are_not_kept(context: AppContext, manager: Manager) -> None:
    body = {"source": a_workflow(), "events": [an_event()]}
    manager.post("/workflow-try", body, Idempotency_Key="k1")
    manager.post("/subject/erase", {"subject": "915673412780"}, Idempotency_Key="k2")
    assert dump(context, manager.sender.account_id, "stored_answers") == "None"


# Subjects, members, accounts


def test_an_erasure_is_requested_once_and_shows_how_far_it_has_come(manager: Manager) -> None:
    manager.sender.post(an_event(distinct_id="asha/1"))
    assert manager.get("/subject?subject=asha/1").json["events"] == 1
    assert len(manager.get("/subject/timeline?subject=asha/1").json["items"]) == 1
    assert [manager.post("/subject/erase", {"subject": "asha/1"}).json["is_new"] for _ in range(2)] == [True, False]
    unfinished = manager.get("/erasures/unfinished")
    assert [one["is_running"] for one in unfinished.json["items"]] == [False]
    assert "asha" not in unfinished.text
    assert manager.get("/erasures").json["items"] == []


def test_the_last_owner_stays(manager: Manager, values: dict[str, str]) -> None:
    path = f"/members/{values['email']}"
    assert manager.call("PATCH", path, {"role": "owner"}, If_Match=manager.tag(path)).json["role"] == "owner"
    manager.post("/members", {"email": "new@example.com", "role": "viewer"})
    assert manager.call("DELETE", path, If_Match=manager.tag(path)).status_code == 409


def test_a_changed_account_has_another_etag(manager: Manager) -> None:
    tag = manager.tag("/account")
    body = {"time_zone": "Asia/Kolkata"}
    assert manager.call("PATCH", "/account", body, If_Match=tag).json["time_zone"] == "Asia/Kolkata"
    assert manager.call("PATCH", "/account", body, If_Match=tag).status_code == 412
    assert manager.call("PATCH", "/account", {"time_zone": "Mars/Base"}, If_Match="*").status_code == 422


def test_retention_is_changed_by_kind(manager: Manager) -> None:
    changed = manager.call("PATCH", "/account/retention", {"keep": {"events": "400d"}}, If_Match="*").json["items"]
    assert {one["kind"]: one["keep"] for one in changed}["events"] == "400d"
    refused = manager.call("PATCH", "/account/retention", {"keep": {"nothing": "1d", "runs": "soon"}}, If_Match="*")
    assert [one["field"] for one in refused.json["errors"]] == ["keep.nothing", "keep.runs"]


def test_the_pages_of_the_targets_are_the_list(context: AppContext, manager: Manager, values: dict[str, str]) -> None:
    for number in range(2):
        target = f"https://{number}.example.com/{'long' * 200}"
        integrations.disable_target(context, manager.sender.account_id, target, "gone", UUID(values["run_id"]))
    # At the same time: the targets decide what is on a page.
    with context.database.transaction() as connection:
        statement = "UPDATE disabled_targets SET disabled_at = now() WHERE account_id = %s"
        connection.exec_driver_sql(statement, (manager.sender.account_id,))
    found = all_items(manager, "/targets?")
    assert len({one["target"] for one in found}) == len(found) == 3


@pytest.mark.parametrize(
    "at", ["0001-01-01T00:00:00%2B23:00", "9999-12-31T23:59:59-23:00", "2026-11-29T18:00:00", "soon"]
)
def test_a_time_that_no_target_can_have_is_no_cursor(manager: Manager, at: str) -> None:
    answer = manager.get(f"/targets?after={at},x")
    assert answer.status_code == 422
    assert answer.json["errors"] == [{"field": "after", "message": "is no `next` of this list"}]


def test_a_refusal_is_replayed_once(manager: Manager, values: dict[str, str]) -> None:
    path = f"/refusals/{values['refusal_id']}"
    assert json.loads(manager.get(f"{path}/body").data)["event"] == "late"
    first, second = (manager.post(f"{path}/replay").json for _ in range(2))
    assert (first["stored"], second["stored"]) == (1, 0)
    assert first["events"] == second["events"]


def test_the_metrics_count_what_came_in_the_last_hour(manager: Manager) -> None:
    manager.sender.post(an_event())
    found = manager.get("/metrics").json
    assert (found["events"], len(found["minutes"])) == (1, 60)
