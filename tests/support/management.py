"""Calls the management API, and makes an account in which each of its routes finds something."""

from __future__ import annotations

import itertools
import json
import os
import threading
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from uuid import UUID

from flask import Flask
from flask.testing import FlaskClient
from werkzeug.serving import WSGIRequestHandler, make_server

from app.core.ids import uuid7
from app.core.models import ACCOUNT_MANAGE, EVENTS_WRITE, OPERATOR, PLANS, VIEWER
from app.db import refusals
from app.db.deliveries import DeliveryFilter
from app.db.refusals import NewRefusal
from app.db.users import UserRow, insert_user
from app.services import accounts, api_keys, deliveries, integrations, secrets, sources, users, workflows
from app.services.context import AppContext
from tests.support.builders import Sender, a_sender, a_workflow, an_event

PREFIX = "/api/v1/manage"
_numbers = itertools.count(1)
METHODS = ("get", "post", "put", "patch", "delete")


@dataclass(frozen=True)
class Manager:
    """An account with a key for the management API."""

    sender: Sender
    token: str
    client: FlaskClient = field(repr=False)

    def call(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        sent = {
            "Authorization": f"Bearer {self.token}",
            **{name.replace("_", "-"): text for name, text in headers.items()},
        }
        return self.client.open(PREFIX + path, method=method, json=body, headers=sent)

    def get(self, path: str, **headers: str) -> Any:
        return self.call("GET", path, **headers)

    def post(self, path: str, body: Any = None, **headers: str) -> Any:
        return self.call("POST", path, body, **headers)

    def tag(self, path: str) -> str:
        """The ETag of what is there now."""
        tag: str = self.get(path).headers["ETag"]
        return tag


def a_manager(context: AppContext, app: Flask, name: str = "acme", *scopes: str) -> Manager:
    """A new account, and a key of it with these scopes (default: ACCOUNT_MANAGE)."""
    client = app.test_client()
    sender = a_sender(context, client, name)
    return Manager(sender, a_key(context, sender, *scopes), client)


def a_key(context: AppContext, sender: Sender, *scopes: str) -> str:
    """A key with these scopes (default: ACCOUNT_MANAGE)."""
    return api_keys.create_key(context, sender.account_id, "manage", scopes or (ACCOUNT_MANAGE,))


class Operation(NamedTuple):
    """A route of the document."""

    method: str
    path: str
    spec: Mapping[str, Any]

    @property
    def name(self) -> str:
        name: str = self.spec["operationId"]
        return name

    @property
    def scope(self) -> str:
        scope: str = self.spec["security"][0]["bearer"][0]
        return scope

    @property
    def scopes(self) -> tuple[str, ...]:
        """All scopes that it needs."""
        return tuple(self.spec["security"][0]["bearer"])

    @property
    def is_of_operator(self) -> bool:
        """Whether it is about all accounts."""
        return self.scope == OPERATOR


def operations(document: Mapping[str, Any], prefix: str = PREFIX) -> Iterator[Operation]:
    """The operations whose path begins with `prefix`."""
    for path, item in document["paths"].items():
        if path.startswith(prefix):
            yield from (Operation(method, path, item[method]) for method in METHODS if method in item)


def fill(context: AppContext, manager: Manager) -> dict[str, str]:
    """Give the account something for each route; the values of the parameters in paths."""
    account_id = manager.sender.account_id
    source = a_workflow(name="greet", on="signed_up", steps=[{"wait": "1h"}])
    workflows.apply_workflow(context, account_id, source)
    workflows.apply_workflow(context, account_id, source.replace("1h", "2h"))
    event = manager.sender.post(an_event(event="signed_up"), idempotency_key="e1").json
    key = api_keys.create_key(context, account_id, "other", ("events:write",))
    return {
        "name": "greet",
        "version": "1",
        "event_id": event["id"],
        "run_id": event["runs"][0],
        "prefix": key[3:11],
        **_fill_sources(context, manager),
        **_fill_settings(context, account_id, UUID(event["runs"][0])),
        **_fill_people(context, account_id),
        "refusal_id": str(_refuse(context, manager)),
    }


def _fill_sources(context: AppContext, manager: Manager) -> dict[str, str]:
    """A source with a delivery that is not mapped."""
    text = "name: shop\nverify: none\nmap: {event: \"'order'\", distinct_id: [body.who], data: body}\n"
    token = sources.apply_source(context, manager.sender.account_id, text).token
    manager.client.post(f"/hooks/{token}", json={"id": 1})
    (delivery,) = deliveries.find_latest_deliveries(context, manager.sender.account_id, DeliveryFilter(), 1)
    return {"source": "shop", "delivery_id": str(delivery.id)}


def _fill_settings(context: AppContext, account_id: int, run_id: UUID) -> dict[str, str]:
    secrets.set_secret(context, account_id, "SHOPIFY", "a value of eight")
    twilio = {"account_sid": f"AC{'0' * 32}", "auth_token": "secret"}
    integrations.set_integration(context, account_id, integrations.find_kind("twilio"), twilio)
    integrations.disable_target(context, account_id, "POST https://example.com/hook", "gone", run_id)
    return {"secret": "SHOPIFY", "kind": "twilio"}


def _fill_people(context: AppContext, account_id: int) -> dict[str, str]:
    """A member, a user without a role for `add_member`, an OAuth client, and another account."""
    account = accounts.find_account(context, str(account_id))
    assert account is not None
    number = next(_numbers)
    member, other = f"member-{os.getpid()}-{number}@example.com", f"other-{os.getpid()}-{number}"
    user = f"user-{os.getpid()}-{number}@example.com"
    with context.database.transaction() as connection:
        now = context.clock()
        for email in (member, user, "new@example.com"):
            # A hash of a password takes its time.
            insert_user(connection, UserRow(uuid7(now), email, False, now, now, None), "no hash")
    users.set_role(context, member, account, VIEWER)
    client_id, _ = api_keys.create_client(context, account_id, "warehouse", (EVENTS_WRITE,))
    accounts.create_account(context, other, PLANS["trial"])
    return {"email": member, "user": user, "client_id": client_id, "slug": other}


def _refuse(context: AppContext, manager: Manager) -> UUID:
    """Keep a refusal of a body that is accepted now."""
    body = json.dumps(an_event(event="late")).encode()
    refused = NewRefusal(
        account_id=manager.sender.account_id,
        id=uuid7(context.clock()),
        refused_at=context.clock(),
        route="/api/v1/cvf-events",
        key_prefix=manager.sender.token[3:11],
        status=422,
        type="validation-failed",
        detail="event: is missing",
        errors=None,
        items=None,
        request_id="r1",
        idempotency_key=None,
        is_webhook_id=False,
        content_type="application/json",
        content_encoding=None,
        body=zlib.compress(body),
        body_bytes=len(body),
        replayable=True,
    )
    with context.database.transaction() as connection:
        refusals.insert_refusals(connection, [refused])
    return refused.id


def example_of(schema: Mapping[str, Any], document: Mapping[str, Any]) -> Any:
    """The example of a schema, put together from those of its fields."""
    if "$ref" in schema:
        return example_of(document["components"]["schemas"][schema["$ref"].rpartition("/")[2]], document)
    if "example" in schema:
        return schema["example"]
    properties = schema.get("properties", {})
    return {
        name: example for name, one in properties.items() if (example := example_of(one, document)) not in (None, {})
    }


def request_of(operation: Operation, document: Mapping[str, Any], values: Mapping[str, str]) -> tuple[str, Any]:
    """The path with its query, and the body, of an operation's example."""
    parameters = [one for one in operation.spec.get("parameters", ()) if "example" in one.get("schema", ())]
    query = "&".join(f"{one['name']}={one['schema']['example']}" for one in parameters)
    body = None
    if "requestBody" in operation.spec:
        body = example_of(operation.spec["requestBody"]["content"]["application/json"]["schema"], document)
    # The document has to be of the workflow or source of the path.
    if operation.name == "change_workflow":
        body["source"] = body["source"].replace("welcome", values["name"])
    if operation.name == "change_source":
        body["source"] = body["source"].replace("store", values["source"])
    if operation.name == "create_account":
        body["slug"] += f"-{os.getpid()}-{next(_numbers)}"
    if operation.name == "create_user":
        body["email"] = f"{os.getpid()}-{next(_numbers)}-{body['email']}"
    return f"{operation.path.format(**values)}?{query}", body


@contextmanager
def served(app: Flask) -> Iterator[str]:
    """The URL of a server with the application, in a thread of this process."""
    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=_Quiet)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Quiet(WSGIRequestHandler):
    def log(self, type: str, message: str, *arguments: object) -> None:
        """Say nothing."""
