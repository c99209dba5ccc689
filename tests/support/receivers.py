"""An account in which each documented operation of the receivers finds something, and the requests of their examples."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from app.core.models import ACCOUNT_MANAGE, EVENTS_READ, EVENTS_WRITE
from app.services import api_keys, message_stream
from app.services.context import AppContext
from tests.support.builders import Sender
from tests.support.management import PREFIX, Operation, operations
from tests.support.sources import a_source

FORM = "application/x-www-form-urlencoded"
IDS = {"patterns": "PT1", "templates": "TM1", "listeners": "LI1", "augments": "AU1", "integrations": "twilio"}


@dataclass(frozen=True)
class Receivers:
    """The sender, with what authenticates its requests."""

    sender: Sender
    token: str
    client_id: str
    client_secret: str
    source_token: str
    ticket: str

    def values(self, path: str) -> dict[str, str]:
        """The parameters of a path."""
        name = IDS.get(path.split("/")[3], "") if path.startswith("/tenants/{tenant}/") else ""
        return {"tenant": self.sender.slug, "name": name, "token": self.source_token}

    def call(self, operation: Operation) -> Any:
        """Send the example of an operation."""
        headers: dict[str, str] = {}
        options: dict[str, Any] = {}
        schemes = {scheme for one in operation.spec["security"] for scheme in one}
        if "limechat" in schemes:
            headers |= self.sender.headers()
        if "bearer" in schemes:
            headers["Authorization"] = f"Bearer {self.token}"
        if "client" in schemes:
            options["auth"] = (self.client_id, self.client_secret)
        for media_type, content in operation.spec.get("requestBody", {"content": {}})["content"].items():
            if "example" in content:
                headers["Content-Type"], options["data"] = media_type, _encoded(media_type, content["example"])
                break
        query = "?ticket=" + self.ticket if operation.path.endswith("/stream") else ""
        path = operation.path.format(**self.values(operation.path))
        return self.sender.client.open(path + query, method=operation.method.upper(), headers=headers, **options)


def fill_receivers(context: AppContext, sender: Sender, document: Mapping[str, Any]) -> Receivers:
    """Give the account a resource of each kind, as the examples make them, a source, a client and a ticket."""
    account_id = sender.account_id
    token = api_keys.create_key(context, account_id, "all", (EVENTS_WRITE, EVENTS_READ, ACCOUNT_MANAGE))
    client_id, secret = api_keys.create_client(context, account_id, "client")
    source = a_source(context, sender.client, account_id, verify="none")
    prefix = token[3:11]
    ticket = message_stream.make_ticket(context, account_id, prefix).ticket
    found = Receivers(sender, token, client_id, secret, source.token, ticket)
    for operation in receiver_operations(document):
        if operation.name.startswith(("create_cxengage", "set_cxengage", "put_augment")):
            answer = found.call(operation)
            assert answer.status_code in (200, 201), answer.text
    return found


def receiver_operations(document: Mapping[str, Any]) -> list[Operation]:
    """The operations that are not of the management API."""
    return [one for one in operations(document, "") if not one.path.startswith(PREFIX)]


def _encoded(media_type: str, example: Any) -> str:
    if isinstance(example, str):
        return example
    return urlencode(example) if media_type == FORM else json.dumps(example)
