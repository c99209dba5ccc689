"""Sources for tests: a source of an account with its token, ready to post to."""

from __future__ import annotations

import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from uuid import UUID

from flask.testing import FlaskClient

from app.core.api_keys import make_source_token
from app.core.ids import now, uuid7
from app.core.models import Key
from app.db import api_keys, sources
from app.db.document_versions import NewVersion
from app.services.context import AppContext

if TYPE_CHECKING:
    from tests.support.server import Server

SECRET = "a secret of the shop"
# A source of its own kind: of each order `who` is the person and `id` the dedupe id; signed by hex HMAC-SHA256 of the body.
DOCUMENT: Mapping[str, Any] = {
    "name": "shop",
    "secrets": [SECRET],
    "verify": {"hmac": "sha256", "header": "x-signature"},
    "events": [{"each": "body.orders[]"}],
    "map": {"event": "'order'", "distinct_id": "item.who", "data": "item", "dedupe": "item.id"},
}


@dataclass(frozen=True)
class ASource:
    """A source and its token."""

    account_id: int
    id: UUID
    token: str
    client: FlaskClient | Server = field(repr=False)

    def post(self, body: Any, *, secret: str = SECRET, query: str = "", **headers: str) -> Any:
        """Post a signed body: bytes as they are, or an order, or a list of orders."""
        raw = body if isinstance(body, bytes) else a_body(*(body if isinstance(body, list) else [body]))
        sent = {
            "Content-Type": "application/json",
            "X-Signature": hmac.digest(secret.encode(), raw, "sha256").hex(),
            **{name.replace("_", "-"): value for name, value in headers.items()},
        }
        return self.client.post(f"/hooks/{self.token}{query}", data=raw, headers=sent)


def a_source(context: AppContext, client: FlaskClient | Server, account_id: int, **changes: Any) -> ASource:
    """A new source of an account: DOCUMENT with `changes`; a change to `...` leaves a part out."""
    source_id = uuid7(now())
    apply_version(context, account_id, source_id, 1, **changes)
    return ASource(account_id, source_id, a_token(context, account_id, source_id), client)


def a_token(context: AppContext, account_id: int, source_id: UUID) -> str:
    """A new token of a source."""
    token, prefix, digest = make_source_token()
    with context.database.transaction() as connection:
        key = Key(prefix, digest, (f"source:{source_id}",), None)
        api_keys.insert_key(connection, account_id, key, "source", now())
    return token


def apply_version(context: AppContext, account_id: int, source_id: UUID, version: int, **changes: Any) -> None:
    """Save a version of a source: DOCUMENT with `changes`."""
    document = {name: part for name, part in {**DOCUMENT, **changes}.items() if part is not ...}
    new = NewVersion(source_id, document["name"], version, json.dumps(document), document)
    with context.database.transaction() as connection:
        sources.save_version(connection, account_id, new, now())


def a_body(*orders: Any) -> bytes:
    """A body for DOCUMENT."""
    return json.dumps({"orders": orders}).encode()


def an_order(number: int, **changes: Any) -> dict[str, Any]:
    """An order with an id of its own."""
    return {"id": f"order-{number}", "who": f"buyer {number}", "price": 12.50, **changes}
