"""Fixtures for the tests of CxEngage's resources: tenants that call the routes with and without the version."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass
from typing import Any

import pytest
from flask.testing import FlaskClient

from app.core.models import ACCOUNT_MANAGE, EVENTS_WRITE
from app.services import api_keys
from app.services.context import AppContext
from tests.support.builders import Sender, a_sender

_prefixes = itertools.cycle(["/1.0", ""])


@dataclass(frozen=True)
class Tenant:
    """An account with a key that may manage it and send events."""

    account_id: int
    slug: str
    token: str
    client: FlaskClient

    def call(self, method: str, path: str, body: Any = None, **options: Any) -> Any:
        """Call a route below `/tenants/…`, with alternating prefixes; a body is sent as JSON, bytes as they are."""
        headers = {"Authorization": f"Bearer {self.token}", **options.pop("headers", {})}
        if body is not None:
            headers.setdefault("Content-Type", "application/json")
            options["data"] = body if isinstance(body, bytes) else json.dumps(body).encode()
        prefix = options.pop("prefix", None) or next(_prefixes) + "/tenants/" + self.slug
        return self.client.open(prefix + path, method=method, headers=headers, **options)

    def get(self, path: str) -> Any:
        return self.call("GET", path)

    def post(self, path: str, body: Any = None, **options: Any) -> Any:
        return self.call("POST", path, body, **options)

    def put(self, path: str, body: Any) -> Any:
        return self.call("PUT", path, body)

    def delete(self, path: str) -> Any:
        return self.call("DELETE", path)


def a_tenant(context: AppContext, client: FlaskClient, name: str) -> Tenant:
    """A new tenant whose slug starts with `name`."""
    sender = a_sender(context, client, name)
    token = api_keys.create_key(context, sender.account_id, "all", (ACCOUNT_MANAGE, EVENTS_WRITE))
    return Tenant(sender.account_id, sender.slug, token, client)


@pytest.fixture
def tenant(context: AppContext, client: FlaskClient) -> Tenant:
    """The tenant under test; new for each test."""
    return a_tenant(context, client, "acme")


@pytest.fixture
def stranger(context: AppContext, client: FlaskClient) -> Tenant:
    """Another tenant, which must never see data of the first."""
    return a_tenant(context, client, "globex")


@pytest.fixture
def sender(context: AppContext, client: FlaskClient) -> Sender:
    """An account whose key may only send events."""
    return a_sender(context, client, "sender")
