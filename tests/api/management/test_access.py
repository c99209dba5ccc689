"""Who may call which route of the management API: the tests read the document, so that a new route cannot be forgotten."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask

from app.core.models import (
    ACCOUNT_MANAGE,
    ACCOUNT_SCOPES,
    CLIENT_SCOPES,
    EDITOR,
    EVENTS_READ,
    EVENTS_WRITE,
    KEYS_MANAGE,
    OPERATOR,
    OWNER,
    USERS_MANAGE,
    VIEWER,
    WORKFLOWS_READ,
)
from app.services import accounts, api_keys
from app.services.context import AppContext
from tests.api.management.test_document import DOCUMENT, OPERATIONS
from tests.support.builders import a_workflow, an_event
from tests.support.management import PREFIX, Manager, Operation, a_key, a_manager, request_of

# Every table with rows of accounts.
TABLES = """
SELECT relname FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid
WHERE relkind IN ('r', 'p') AND NOT relispartition AND relnamespace = 'public'::regnamespace AND attname = 'account_id'
"""
# What answers for another account must not have of `fill`.
OWN = ("event_id", "run_id", "prefix", "delivery_id", "refusal_id", "client_id", "email")


def _name(operation: Operation) -> str:
    return operation.name


def call(manager: Manager, operation: Operation, values: dict[str, str], token: str, query: str = "") -> Any:
    """Call an operation with its example and a key."""
    path, body = request_of(operation, DOCUMENT, values)
    headers = {"Authorization": f"Bearer {token}", "If-Match": "*"}
    return manager.client.open(f"{path}{query}", method=operation.method.upper(), json=body, headers=headers)


def rows(context: AppContext, account_id: int) -> dict[str, str]:
    """The account, and what each table has of it; not when keys were used."""
    with context.database.transaction() as connection:
        tables = connection.execute(sa.text(TABLES)).scalars()
        selects = [
            f"SELECT '{table}', string_agg((to_jsonb(t) - 'last_used_at')::text, ',' ORDER BY to_jsonb(t)::text) "
            f"FROM {table} AS t WHERE {column} = :account"
            for table, column in [("accounts", "id"), *((table, "account_id") for table in tables)]
        ]
        found = connection.execute(sa.text(" UNION ALL ".join(selects)), {"account": account_id})
        return {str(table): str(text) for table, text in found}


@pytest.mark.parametrize("operation", OPERATIONS, ids=_name)
def test_without_a_key_nothing_is_answered(manager: Manager, values: dict[str, str], operation: Operation) -> None:
    for token in ("", "sb_nothing", an_altered(manager.token)):
        answer = call(manager, operation, values, token)
        assert answer.status_code == 401
        assert answer.content_type == "application/problem+json"
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")


def an_altered(token: str) -> str:
    """A key with the prefix of another."""
    return token[:12] + ("A" * (len(token) - 12))


@pytest.mark.parametrize("operation", OPERATIONS, ids=_name)
def test_a_key_needs_the_scope_of_the_operation(
    context: AppContext, manager: Manager, values: dict[str, str], operation: Operation
) -> None:
    scope = operation.scope
    others = a_key(context, manager.sender, *(one for one in ACCOUNT_SCOPES if one not in (scope, ACCOUNT_MANAGE)))
    before = rows(context, manager.sender.account_id)
    refused = call(manager, operation, values, others)
    assert (refused.status_code, refused.json["type"]) == (403, "urn:signalbox:missing-scope")
    assert rows(context, manager.sender.account_id) == before
    allowed = call(manager, operation, values, a_key(context, manager.sender, *operation.scopes))
    assert allowed.status_code not in (401, 403, 500, 503), allowed.text


@pytest.mark.parametrize("operation", OPERATIONS, ids=_name)
def test_the_key_of_another_account_finds_and_changes_nothing(
    context: AppContext, manager: Manager, other: Manager, values: dict[str, str], operation: Operation
) -> None:
    before = rows(context, manager.sender.account_id)
    query = f"&account={manager.sender.slug}"
    refused = call(manager, operation, values, other.token, query)
    assert (refused.status_code, refused.json["type"]) == (403, "urn:signalbox:account-mismatch")
    # With what its path, query and body name, which the first account has.
    answer = call(manager, operation, values, other.token)
    if operation.is_of_operator or "{" in operation.path:
        assert answer.status_code == (403 if operation.is_of_operator else 404)
    else:
        assert [name for name in OWN if values[name] in answer.text] == []
    assert rows(context, manager.sender.account_id) == before


@pytest.mark.parametrize("operation", OPERATIONS, ids=_name)
def test_an_operator_names_the_account(
    context: AppContext, manager: Manager, other: Manager, values: dict[str, str], operation: Operation
) -> None:
    operator = a_key(context, other.sender, ACCOUNT_MANAGE, OPERATOR)
    answer = call(manager, operation, values, operator, f"&account={manager.sender.account_id}")
    assert answer.status_code not in (401, 403, 500, 503), answer.text
    if "{" in operation.path:
        assert answer.status_code != 404


def test_an_operator_needs_the_scope_of_the_operation_too(
    context: AppContext, manager: Manager, other: Manager
) -> None:
    operator = Manager(other.sender, a_key(context, other.sender, OPERATOR, WORKFLOWS_READ), other.client)
    query = f"?account={manager.sender.slug}"
    assert operator.get(f"/workflows{query}").status_code == 200
    assert operator.get(f"/runs{query}").json["type"] == "urn:signalbox:missing-scope"
    assert operator.get("/workflows?account=no-such-account").status_code == 404


def test_stored_events_are_tried_with_the_scope_events_read_only(
    context: AppContext, manager: Manager, values: dict[str, str]
) -> None:
    source = {"source": a_workflow(on="signed_up")}
    trial, backtest = {**source, "event_id": values["event_id"]}, {**source, "since": "2020-01-01T00:00:00Z"}
    weak = replace(manager, token=a_key(context, manager.sender, WORKFLOWS_READ))
    both = replace(manager, token=a_key(context, manager.sender, WORKFLOWS_READ, EVENTS_READ))
    assert weak.post("/workflow-try", {**source, "events": [an_event()]}).status_code == 200
    for path, body in (("/workflow-try", trial), ("/workflow-backtest", backtest)):
        refused = weak.post(path, body)
        assert (refused.status_code, refused.json["type"]) == (403, "urn:signalbox:missing-scope")
        assert both.post(path, body).status_code == 200


def test_the_keys_of_senders_manage_nothing(manager: Manager) -> None:
    sender = Manager(manager.sender, manager.sender.token, manager.client)
    for operation in OPERATIONS:
        if operation.scope != EVENTS_WRITE:
            path = re.sub(r"{\w+}", "xxxx", operation.path.removeprefix(PREFIX))
            assert sender.call(operation.method.upper(), path).status_code in (403, 404)


def test_a_key_grants_only_what_it_has(context: AppContext, manager: Manager) -> None:
    weak = Manager(manager.sender, a_key(context, manager.sender, KEYS_MANAGE, WORKFLOWS_READ), manager.client)
    refused = weak.post("/keys", {"scopes": [WORKFLOWS_READ, "workflows:write", ACCOUNT_MANAGE]})
    assert refused.status_code == 422
    message = "the calling key lacks account:manage, workflows:write"
    assert refused.json["errors"] == [{"field": "scopes", "message": message}]
    assert weak.post("/keys", {"scopes": [WORKFLOWS_READ]}).status_code == 201


def a_client(context: AppContext, manager: Manager, *scopes: str) -> Manager:
    """The account's manager with the token of a new client with these scopes (default: those of a client)."""
    client_id, secret = api_keys.create_client(context, manager.sender.account_id, "partner", scopes or CLIENT_SCOPES)
    client = api_keys.authenticate_client(context, client_id, secret)
    assert client is not None
    token = api_keys.issue_token(context, client, secret, client.scopes)
    assert token is not None
    return replace(manager, token=token.text)


def test_a_key_that_expires_creates_nothing_that_lives_longer(context: AppContext, manager: Manager) -> None:
    scopes = (KEYS_MANAGE, EVENTS_READ)
    token = api_keys.create_key(context, manager.sender.account_id, "short", scopes, timedelta(hours=1))
    short = replace(manager, token=token)
    own = short.get(f"/keys/{token[3:11]}").json["expires_at"]
    made = [short.post("/keys", {"scopes": [EVENTS_READ], **more}).json for more in ({}, {"expires_in": "90d"})]
    assert [one["expires_at"] for one in made] == [own, own]
    assert short.post("/keys", {"scopes": [EVENTS_READ], "expires_in": "1m"}).json["expires_at"] < own
    for caller in (short, a_client(context, manager, *scopes)):
        assert caller.post("/clients", {"scopes": [EVENTS_READ]}).status_code == 403
    assert a_client(context, manager, *scopes).post("/keys", {"scopes": [EVENTS_READ]}).json["expires_at"] is not None


def test_roles_above_viewer_are_given_with_account_manage_only(
    context: AppContext, manager: Manager, values: dict[str, str]
) -> None:
    weak = replace(manager, token=a_key(context, manager.sender, USERS_MANAGE))
    path = f"/members/{values['email']}"
    for role in (OWNER, EDITOR):
        assert weak.call("PATCH", path, {"role": role}, If_Match="*").status_code == 403
        assert weak.post("/members", {"email": "new@example.com", "role": role}).status_code == 403
    assert weak.call("PATCH", path, {"role": VIEWER}, If_Match="*").status_code == 200
    assert manager.call("PATCH", path, {"role": EDITOR}, If_Match="*").status_code == 200


def test_the_scope_account_manage_of_a_client_grants_nothing_here(context: AppContext, manager: Manager) -> None:
    client = a_client(context, manager)
    assert client.get("/events").status_code == 200
    for path in ("/keys", "/workflows", "/members", "/account", "/secrets"):
        answer = client.get(path)
        assert (answer.status_code, answer.json["type"]) == (403, "urn:signalbox:missing-scope")


def test_a_client_cannot_grant_account_manage(context: AppContext, manager: Manager) -> None:
    client = a_client(context, manager, ACCOUNT_MANAGE, KEYS_MANAGE)
    assert client.post("/keys", {"scopes": [ACCOUNT_MANAGE]}).status_code == 422
    # Its token expires, and what expires cannot create clients, which do not.
    assert client.post("/clients", {"scopes": [ACCOUNT_MANAGE]}).status_code == 403


def test_nobody_gets_the_scope_operator_over_http(context: AppContext, app: Flask) -> None:
    operator = a_manager(context, app, "acme", ACCOUNT_MANAGE, OPERATOR)
    assert operator.post("/keys", {"scopes": [OPERATOR]}).status_code == 422


def test_a_revoked_key_is_refused(context: AppContext, manager: Manager) -> None:
    token = a_key(context, manager.sender)
    used = Manager(manager.sender, token, manager.client)
    assert used.get("/keys").status_code == 200
    api_keys.revoke_key(context, token[3:11])
    context_accounts = manager.client.application.extensions["accounts"]
    context_accounts.find_by_id(manager.sender.account_id)
    assert used.get("/keys").status_code == 401


def test_the_keys_of_a_disabled_account_manage_it_and_add_no_events(
    context: AppContext, manager: Manager, values: dict[str, str]
) -> None:
    accounts.switch_account(context, manager.sender.account_id, on=False)
    assert manager.get(f"/events/{values['event_id']}").status_code == 200
    assert manager.call("PATCH", "/account", {"name": "Acme"}, If_Match="*").status_code == 200
    assert manager.post("/subject/erase", {"subject": "1"}).status_code == 200
    (refused,) = manager.post(f"/refusals/{values['refusal_id']}/replay").json["refused"]
    assert refused["type"] == "account-disabled"
    replayed = manager.post(f"/sources/{values['source']}/replay").json
    assert (replayed["mapped"], [one["reason"] for one in replayed["failures"]]) == (
        0,
        ["The account is disabled and takes no events."],
    )
    assert manager.sender.post(an_event()).status_code == 403
