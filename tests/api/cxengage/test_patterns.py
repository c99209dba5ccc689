"""Patterns in CxEngage's notation are stored unchecked while off, and are workflows while on."""

from __future__ import annotations

from typing import Any

import pytest

from app.core.concurrency_limit import ConcurrencyLimit
from app.core.errors import Problem
from app.db import messages
from app.services import workflows
from app.services.context import AppContext
from tests.api.cxengage.conftest import Tenant
from tests.support.builders import a_workflow
from tests.support.run_execution import execute_run, rows_of, the_run

WHEN = '(event (= type "hello"))'
THEN = '(send echo message {:message "Hello"})'
PATTERN = {"name": "Greeting", "when": WHEN, "then": THEN}
SCRIPT = {
    "name": "Greeting",
    "code": '(event {:type "hello"})\n(perform echo message {:message "Hello"})',
    "key": "id",
}
SMS = '(send twilio sms {:to-phone-number "+15005550006" :message "Hi"})'
TWILIO = {"account": "AC" + "0a" * 16, "password": "the-token", "from": "+15005550001"}


@pytest.fixture
def tenant(tenant: Tenant) -> Tenant:
    """The tenant, with the key attribute `id`."""
    assert tenant.post("/key-attribute", {"key": "id"}).status_code == 200
    return tenant


def starts_something(tenant: Tenant) -> bool:
    answer = tenant.post("/event", {"id": 7, "type": "hello"})
    assert answer.status_code == 200, answer.data
    return bool(answer.json["contributing?"])


def runs_of(context: AppContext, tenant: Tenant) -> list[str]:
    with context.database.transaction() as connection:
        found = connection.exec_driver_sql(
            "SELECT id::text FROM runs WHERE account_id = %(id)s ORDER BY id", {"id": tenant.account_id}
        )
        return [row.id for row in found]


def version_of(context: AppContext, tenant: Tenant, name: str = "PT1") -> Any:
    found = workflows.find_workflow(context, tenant.account_id, name)
    return found.enabled_version, found.latest_version


def error(answer: Any) -> tuple[int, str]:
    return answer.status_code, answer.json["error"]


# Reading and writing


@pytest.mark.parametrize("body", [PATTERN, SCRIPT])
def test_a_new_pattern_is_off_and_is_stored_with_its_texts(tenant: Tenant, body: dict[str, Any]) -> None:
    shown = {"id": "PT1", "description": "", "status": False, **body}
    made = tenant.post("/patterns", body)
    assert (made.status_code, made.json) == (201, shown)
    assert tenant.get("/patterns/PT1").json == shown
    assert tenant.get("/patterns").json == [shown]
    assert tenant.put("/patterns/PT1", shown).json == shown
    assert starts_something(tenant) is False


def test_a_change_keeps_the_fields_that_it_does_not_name(tenant: Tenant) -> None:
    tenant.post("/patterns", PATTERN)
    changed = tenant.put("/patterns/PT1", {"then": "(seq)"}).json
    assert (changed["then"], changed["when"], changed["name"]) == ("(seq)", WHEN, "Greeting")


def test_null_removes_a_text(tenant: Tenant) -> None:
    tenant.post("/patterns", PATTERN)
    changed = tenant.put("/patterns/PT1", {"when": None, "then": None, "code": SCRIPT["code"], "key": "id"}).json
    assert changed == {"id": "PT1", "description": "", "status": False, **SCRIPT}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({**PATTERN, "code": "x"}, "code: cannot be combined with when or then"),
        ({**PATTERN, "status": "true"}, "status: must be true or false"),
        ({**PATTERN, "when": 5}, "when: must be text"),
        ({**PATTERN, "colour": 5}, "colour: is unknown"),
        ({**PATTERN, "when_text": "x"}, "when_text: is unknown"),
        ({"when": WHEN}, "name: is required"),
    ],
)
def test_invalid_fields_are_reported(tenant: Tenant, body: dict[str, Any], expected: str) -> None:
    assert error(tenant.post("/patterns", body)) == (400, expected)
    assert tenant.get("/patterns").json == []


def test_the_pattern_of_another_tenant_and_a_missing_one_get_the_same_error(tenant: Tenant, stranger: Tenant) -> None:
    tenant.post("/patterns", PATTERN)
    for method, body in (("GET", None), ("PUT", {"status": True}), ("DELETE", None)):
        answer = stranger.call(method, "/patterns/PT1", body)
        assert error(answer) == (404, "there is no pattern PT1")
    assert tenant.get("/patterns/PT1").json["status"] is False


def test_ids_are_never_reused(tenant: Tenant) -> None:
    tenant.post("/patterns", PATTERN)
    assert tenant.delete("/patterns/PT1").status_code == 204
    assert tenant.post("/patterns", PATTERN).json["id"] == "PT2"


# The life of a pattern


@pytest.mark.parametrize("body", [PATTERN, SCRIPT])
def test_from_off_to_on_to_a_run_to_off(context: AppContext, tenant: Tenant, body: dict[str, Any]) -> None:
    tenant.post("/patterns", body)
    on = tenant.put("/patterns/PT1", {"status": True})
    assert (on.status_code, on.json["status"]) == (200, True)
    assert tenant.get("/patterns/PT1").json["status"] is True
    assert starts_something(tenant) is True
    (run,) = runs_of(context, tenant)
    assert execute_run(context, tenant.account_id, run)["status"] == "done"
    (step,) = rows_of(context, "steps", tenant.account_id, run)
    assert step["output"] == {"text": "Hello"}
    assert tenant.put("/patterns/PT1", {"status": False}).json["status"] is False
    assert starts_something(tenant) is False
    assert len(runs_of(context, tenant)) == 1
    assert version_of(context, tenant) == (None, 1)


def test_a_pattern_can_be_created_switched_on(context: AppContext, tenant: Tenant) -> None:
    assert tenant.post("/patterns", {**PATTERN, "status": True}).json["status"] is True
    assert starts_something(tenant) is True


def test_a_changed_text_applies_from_the_next_event(context: AppContext, tenant: Tenant) -> None:
    tenant.post("/patterns", {**PATTERN, "status": True})
    assert tenant.put("/patterns/PT1", {"when": '(event (= type "bye"))'}).status_code == 200
    assert version_of(context, tenant) == (2, 2)
    assert starts_something(tenant) is False


def test_a_changed_name_is_not_a_new_version(context: AppContext, tenant: Tenant) -> None:
    tenant.post("/patterns", {**PATTERN, "status": True})
    before = workflows.find_workflow(context, tenant.account_id, "PT1").updated_at
    tenant.put("/patterns/PT1", {"name": "Another", "status": True})
    assert version_of(context, tenant) == (1, 1)
    assert workflows.find_workflow(context, tenant.account_id, "PT1").updated_at == before


def test_runs_continue_when_the_pattern_is_switched_off(context: AppContext, tenant: Tenant) -> None:
    tenant.post("/patterns", {**PATTERN, "then": f"(seq (delay 5 minutes) {THEN})", "status": True})
    starts_something(tenant)
    (run,) = runs_of(context, tenant)
    tenant.put("/patterns/PT1", {"status": False})
    assert execute_run(context, tenant.account_id, run)["status"] == "running"


def test_deleting_a_pattern_deletes_its_workflow_and_runs(context: AppContext, tenant: Tenant) -> None:
    tenant.post("/patterns", {**PATTERN, "status": True})
    starts_something(tenant)
    assert tenant.delete("/patterns/PT1").status_code == 204
    assert runs_of(context, tenant) == []
    assert starts_something(tenant) is False
    with pytest.raises(Problem):
        workflows.find_workflow(context, tenant.account_id, "PT1")
    assert tenant.get("/patterns/PT1").status_code == 404


def test_deleting_a_pattern_keeps_the_messages_that_it_sent(context: AppContext, tenant: Tenant) -> None:
    tenant.post("/patterns", {**PATTERN, "then": '(send generic message {:body "Hi"})', "status": True})
    starts_something(tenant)
    execute_run(context, tenant.account_id, *runs_of(context, tenant))
    assert tenant.delete("/patterns/PT1").status_code == 204
    with context.database.transaction() as connection:
        kept = messages.find_messages_after(connection, tenant.account_id, 0, 10)
    assert [message.text for message in kept] == ["Hi"]


def test_changes_of_its_workflow_change_the_status(context: AppContext, tenant: Tenant) -> None:
    tenant.post("/patterns", {**PATTERN, "status": True})
    workflows.disable_workflow(context, tenant.account_id, "PT1")
    assert tenant.get("/patterns/PT1").json["status"] is False
    assert tenant.put("/patterns/PT1", {"status": True}).json["status"] is True
    assert starts_something(tenant) is True


def test_a_workflow_with_its_name_that_is_not_its_own_is_unchanged(context: AppContext, tenant: Tenant) -> None:
    workflows.apply_workflow(context, tenant.account_id, a_workflow(name="PT1"))
    answer = tenant.post("/patterns", {**PATTERN, "status": True})
    assert error(answer)[0] == 409
    assert "the workflow PT1 exists" in error(answer)[1]
    assert tenant.get("/patterns").json == []


# Errors

BROKEN = [
    ({"when": '(event (= type "hello")'}, "when, line 1, column 1: "),
    ({"when": '(event\n  (whenever type "hello"))'}, "when, line 2, column 4: "),
    ({"then": "(send fax x {})"}, "then, line 1, column 7: "),
    ({"then": "(send echo message {:message +TM9})"}, "then, line 1, column "),
    ({"then": None}, "then: is required; a pattern that is on needs when and then, or code"),
    ({"when": None}, "when: is required"),
]


@pytest.mark.parametrize(("change", "expected"), BROKEN)
def test_an_invalid_pattern_can_be_stored_but_not_switched_on(
    context: AppContext, tenant: Tenant, change: dict[str, Any], expected: str
) -> None:
    body = {name: text for name, text in {**PATTERN, **change}.items() if text is not None}
    status, message = error(tenant.post("/patterns", {**body, "status": True}))
    assert status == 400
    assert message.startswith(expected)
    assert tenant.get("/patterns").json == []
    made = tenant.post("/patterns", body)
    assert (made.status_code, made.json["status"]) == (201, False)
    path = f"/patterns/{made.json['id']}"
    assert tenant.put(path, {"status": True}).json["error"].startswith(expected)
    assert tenant.get(path).json["status"] is False
    assert workflows.list_workflows(context, tenant.account_id) == []


def test_an_invalid_change_keeps_the_pattern_on_and_unchanged(context: AppContext, tenant: Tenant) -> None:
    tenant.post("/patterns", {**PATTERN, "status": True})
    assert tenant.put("/patterns/PT1", {"when": "(event"}).status_code == 400
    assert tenant.get("/patterns/PT1").json["when"] == WHEN
    assert starts_something(tenant) is True


def test_errors_in_a_script_have_a_position(tenant: Tenant) -> None:
    answer = tenant.post("/patterns", {**SCRIPT, "code": '(event {:type "hello"})\n(perform fax x {})', "status": True})
    assert error(answer)[0] == 400
    assert error(answer)[1].startswith("code, line 2, column 10: ")


def test_a_missing_integration_is_reported_with_the_position(tenant: Tenant) -> None:
    then = f'(seq (send echo message {{:message "twilio"}}) ; twilio\n     {SMS})'
    body = {**PATTERN, "then": then, "status": True}
    assert error(tenant.post("/patterns", body)) == (
        400,
        "then, line 2, column 12: twilio is not set up; use POST …/integrations/twilio",
    )
    tenant.post("/integrations/twilio", TWILIO)
    assert tenant.post("/patterns", body).json["status"] is True


def test_an_invalid_key_is_reported_with_the_field(tenant: Tenant) -> None:
    answer = tenant.post("/patterns", {**SCRIPT, "key": "a b", "status": True})
    assert error(answer) == (400, 'key, line 1, column 1: expected a key of letters, digits, _ and -, found "a b"')


def test_a_pattern_of_when_and_then_with_a_key_cannot_be_switched_on(tenant: Tenant) -> None:
    reason = "key: belongs to code; a pattern of when and then is matched by the key attribute: leave key out"
    assert error(tenant.post("/patterns", {**PATTERN, "key": "cart", "status": True})) == (400, reason)
    assert tenant.post("/patterns", {**PATTERN, "key": "cart"}).status_code == 201
    assert error(tenant.put("/patterns/PT1", {"status": True})) == (400, reason)
    assert tenant.put("/patterns/PT1", {"status": True, "key": None}).json["status"] is True


def test_a_message_without_a_text_cannot_be_switched_on(context: AppContext, tenant: Tenant) -> None:
    tenant.post("/integrations/twilio", TWILIO)
    then = '(send twilio sms {:to-phone-number "+15005550006"})'
    answer = tenant.post("/patterns", {**PATTERN, "name": "Bad payers", "then": then, "status": True})
    assert error(answer) == (400, "then, line 1, column 1: expected :message among the parameters, found none")
    assert workflows.list_workflows(context, tenant.account_id) == []


# Templates


def with_a_template(tenant: Tenant, text: str = "Hi {{id}}") -> None:
    tenant.post("/integrations/twilio", TWILIO)
    assert tenant.post("/templates", {"name": "SMS", "template": text}).json["id"] == "TM1"
    then = '(send twilio sms {:to-phone-number "+15005550006"} (template {:message +TM1}))'
    answer = tenant.post("/patterns", {**PATTERN, "then": then, "status": True})
    assert answer.status_code == 201, answer.data


def test_a_changed_template_applies_from_the_next_run(context: AppContext, tenant: Tenant) -> None:
    with_a_template(tenant)
    assert tenant.put("/templates/TM1", {"template": "Bye {{id}}"}).status_code == 200
    assert version_of(context, tenant) == (2, 2)
    assert "Bye {{id}}" in workflows.find_version(context, tenant.account_id, "PT1", 2)
    starts_something(tenant)
    (run,) = runs_of(context, tenant)
    assert the_run(context, tenant.account_id, run)["version"] == 2


def test_renaming_a_template_changes_no_pattern(context: AppContext, tenant: Tenant) -> None:
    with_a_template(tenant)
    tenant.put("/templates/TM1", {"name": "Another"})
    assert version_of(context, tenant) == (1, 1)


def test_a_template_in_use_cannot_be_deleted(tenant: Tenant) -> None:
    with_a_template(tenant)
    assert error(tenant.delete("/templates/TM1")) == (409, "TM1 is used by PT1; switch it off first")
    tenant.put("/patterns/PT1", {"status": False})
    assert tenant.delete("/templates/TM1").status_code == 204
    assert tenant.put("/patterns/PT1", {"status": True}).status_code == 400


# Patterns of CxEngage's documentation

RETENTION_PATTERN = {
    "name": "Platinum customer gives up",
    "when": """(within 1 hours (all (count 2 (event (and (= customerSegment "platinum") (= type "flcheck"))))
                          (count 1 (event (and (= customerSegment "platinum") (= type "cnclticket"))))))""",
    "then": """(seq (send echo message {:message "Hello"}) (delay 5 minutes)
     (send twilio sms {:to-phone-number *phone-number*} (template {:message +TM1}) (retries 3) (within 30 seconds)
           (success (set sid $call-id)) (failure (send echo message {:message *id*}))))""",
    "status": True,
}
MAINTENANCE = {
    "name": "Maintenance gets dear",
    "code": """(within 30 days (times 4 (event {:product "car" :type "service"})))
(let [total (sum (all $maintenance-cost))]
  (create sendgrid email {:to "dealer@example.com" :subject "Service" :message total})
  (when (> total 5000) (create twilio sms {:to "+15552334444" :message "Call the customer"})))""",
    "key": "id",
    "status": True,
}


def test_a_documented_pattern_runs_from_switching_on_to_its_first_step(context: AppContext, tenant: Tenant) -> None:
    tenant.post("/integrations/twilio", TWILIO)
    tenant.post("/templates", {"name": "SMS", "template": "Dear {{first-name}}"})
    tenant.post("/augments", {"name": "Segments", "type": "file"})
    tenant.post("/augments/AU1/file", b"id,customerSegment\n7,platinum\n", headers={"Content-Type": "text/csv"})
    made = tenant.post("/patterns", RETENTION_PATTERN)
    assert (made.status_code, made.json["status"]) == (201, True), made.data
    sent = [
        tenant.post("/event", {"id": 7, "type": kind, "phone-number": "+15005550006"}).json["contributing?"]
        for kind in ("flcheck", "flcheck", "cnclticket")
    ]
    assert sent == [True, True, True]
    (run,) = runs_of(context, tenant)
    execute_run(context, tenant.account_id, run)
    first, *_ = rows_of(context, "steps", tenant.account_id, run)
    assert (first["action"], first["output"]) == ("log", {"text": "Hello"})


def test_a_script_starts_with_the_fourth_service(context: AppContext, tenant: Tenant) -> None:
    tenant.post("/integrations/twilio", TWILIO)
    status, message = error(tenant.post("/patterns", MAINTENANCE))
    assert (status, message) == (
        400,
        "code, line 3, column 11: sendgrid is not set up; use POST …/integrations/sendgrid",
    )
    tenant.post("/integrations/sendgrid", {"account": "dealer", "password": "SG.x", "from": "shop@example.com"})
    assert tenant.post("/patterns", MAINTENANCE).status_code == 201
    for _ in range(4):
        assert runs_of(context, tenant) == []
        tenant.post("/event", {"id": 7, "product": "car", "type": "service", "maintenance-cost": 1500.50})
    assert len(runs_of(context, tenant)) == 1


def test_an_account_makes_one_change_at_a_time(
    context: AppContext, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = ConcurrencyLimit(1, 0.01)
    monkeypatch.setattr(context.limits, "changes", limit)
    with limit.acquire(tenant.account_id):
        assert tenant.post("/patterns", PATTERN).status_code == 429
        assert tenant.get("/patterns").status_code == 200
    assert tenant.post("/patterns", PATTERN).status_code == 201
