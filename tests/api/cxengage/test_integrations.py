"""Integrations with CxEngage's names: workflows send with them, and no response contains a secret."""

from __future__ import annotations

from typing import Any

import pytest

from app.services import integrations
from app.services.context import AppContext
from tests.api.cxengage.conftest import Tenant

SID, TOKEN = "AC" + "0a" * 16, "the-twilio-token"


def opened(context: AppContext, tenant: Tenant, kind: str) -> Any:
    """The integration as a worker gets it."""
    return integrations.open_integration(context, integrations.find_outbound_config(context, tenant.account_id), kind)


def test_two_integrations_always_exist(tenant: Tenant) -> None:
    assert tenant.get("/integrations").json == [{"id": "echo", "type": "echo"}, {"id": "generic", "type": "generic"}]
    assert tenant.get("/integrations/echo").json == {"id": "echo", "type": "echo"}
    assert tenant.post("/integrations/echo", {}).json == {"id": "echo", "type": "echo"}
    refused = tenant.post("/integrations/echo", {"account": "x"})
    assert (refused.status_code, refused.json) == (400, {"error": "account: is unknown; echo has no fields"})


def test_sms_steps_send_with_twilio(tenant: Tenant, context: AppContext) -> None:
    answer = tenant.post("/integrations/twilio", {"id": "twilio", "type": "twilio", "account": SID, "password": TOKEN})
    assert (answer.status_code, answer.json) == (
        200,
        {"id": "twilio", "type": "twilio", "account": SID, "password": "***"},
    )
    assert opened(context, tenant, "twilio") == {"account_sid": SID, "auth_token": TOKEN}
    assert [one["id"] for one in tenant.get("/integrations").json] == ["echo", "generic", "twilio"]
    assert tenant.get("/integrations/twilio").json == answer.json


def test_fields_that_are_not_named_are_unchanged(tenant: Tenant, context: AppContext) -> None:
    tenant.post("/integrations/twilio", {"account": SID, "password": TOKEN, "from": "+15005550006"})
    assert tenant.post("/integrations/twilio", {"password": "another"}).json["from"] == "+15005550006"
    assert opened(context, tenant, "twilio")["auth_token"] == "another"


def test_a_response_is_a_valid_request(tenant: Tenant, context: AppContext) -> None:
    tenant.post("/integrations/twilio", {"account": SID, "password": TOKEN})
    read = tenant.get("/integrations/twilio").json
    answer = tenant.post("/integrations/twilio", {**read, "from": "+15005550006"})
    assert (answer.status_code, answer.json["from"]) == (200, "+15005550006")
    assert opened(context, tenant, "twilio") == {"account_sid": SID, "auth_token": TOKEN, "from": "+15005550006"}


def test_a_mask_alone_is_not_a_secret(tenant: Tenant) -> None:
    answer = tenant.post("/integrations/twilio", {"account": SID, "password": "***"})
    assert answer.status_code == 400
    assert "password is required" in answer.json["error"]


def test_errors_use_cxengages_names_and_no_secrets(tenant: Tenant) -> None:
    answer = tenant.post("/integrations/twilio", {"account": "nobody", "password": "hush hush"})
    assert answer.status_code == 400
    assert "account must be AC and 32 hexadecimal digits" in answer.json["error"]
    assert "password must be" in answer.json["error"]
    assert "hush" not in answer.json["error"]


@pytest.mark.parametrize(
    ("name", "body", "status", "message"),
    [
        ("salesforce", {"username": "x"}, 404, "there is no integration salesforce; known are echo, generic"),
        ("twilio", {"id": "echo", "account": SID, "password": TOKEN}, 400, "id: must be twilio"),
        ("twilio", {"type": "echo"}, 400, "type: must be twilio"),
        ("twilio", {"account": 5}, 400, "account: must be text"),
        ("twilio", {"id": 5}, 400, "id: must be text"),
        ("twilio", {"account": SID, "password": TOKEN, "colour": "x"}, 400, "colour is unknown"),
        ("twilio", {"account": SID, "auth_token": TOKEN}, 400, "auth_token: is unknown; use account, password"),
    ],
)
def test_other_errors_are_reported(tenant: Tenant, name: str, body: dict[str, Any], status: int, message: str) -> None:
    answer = tenant.post(f"/integrations/{name}", body)
    assert answer.status_code == status
    assert message in answer.json["error"]


def test_another_tenant_sees_no_integration(tenant: Tenant, stranger: Tenant) -> None:
    tenant.post("/integrations/twilio", {"account": SID, "password": TOKEN})
    assert [one["id"] for one in stranger.get("/integrations").json] == ["echo", "generic"]
    missing = [stranger.get(f"/integrations/{name}") for name in ("twilio", "nothing")]
    assert [one.status_code for one in missing] == [404, 404]


def test_secrets_are_encrypted_in_the_database(tenant: Tenant, context: AppContext) -> None:
    tenant.post("/integrations/twilio", {"account": SID, "password": TOKEN})
    with context.database.transaction() as connection:
        stored = connection.exec_driver_sql(
            "SELECT settings FROM integrations WHERE account_id = %(id)s", {"id": tenant.account_id}
        ).scalar_one()
    assert TOKEN.encode() not in bytes(stored)


def test_a_password_is_not_sent_to_another_host(tenant: Tenant) -> None:
    smtp = {"host": "mail.example.com", "from": "shop@example.com", "username": "shop", "password": "of the first"}
    assert tenant.post("/integrations/smtp", smtp).status_code == 200
    for body in ({"host": "mail.example.net"}, {**smtp, "host": "mail.example.net", "password": "***"}):
        refused = tenant.post("/integrations/smtp", body)
        assert (refused.status_code, refused.json) == (400, {"error": "another address needs password again"})
    moved = {"host": "mail.example.net", "password": "of the second"}
    assert tenant.post("/integrations/smtp", moved).json["host"] == "mail.example.net"
