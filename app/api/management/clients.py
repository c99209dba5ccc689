"""Creates OAuth clients, whose access tokens may do at most what the calling key may do, and revokes them."""

from __future__ import annotations

from typing import Any

from app.api.management.access import check_granted, current
from app.api.management.fields import PageByNameQuery, read_page
from app.api.management.routes import Blueprint, route
from app.api.management.schemas.clients import ClientPageSchema, ClientSchema, CreatedClientSchema, NewClientSchema
from app.core.errors import Problem, ProblemType
from app.core.models import KEYS_MANAGE
from app.db.api_keys import ClientRow
from app.services import api_keys

blueprint = Blueprint("clients", __name__, description="OAuth clients: they exchange a secret for access tokens.")
_OF_ID = {"client_id": "$response.body#/id"}


@route(blueprint, "GET", "/clients", KEYS_MANAGE, query=PageByNameQuery, answer=ClientPageSchema)
def list_clients(query: dict[str, Any]) -> Any:
    """List OAuth clients

    The oldest first, with those that are revoked. `after` is the id of a client.
    """
    access = current()
    return read_page(
        query,
        lambda after, limit: api_keys.list_clients(access.context, access.account_id, after=after, limit=limit),
        lambda client: client.id,
    )


@route(
    blueprint,
    "POST",
    "/clients",
    KEYS_MANAGE,
    body=NewClientSchema,
    answer=CreatedClientSchema,
    status=201,
    links={"show": {"operationId": "show_client", "parameters": _OF_ID}},
)
def create_client(body: dict[str, Any]) -> Any:
    """Create an OAuth client

    Its tokens have at most the scopes of the calling key, which must not expire. The answer is the only one that has its secret.
    """
    access, scopes = current(), tuple(dict.fromkeys(body["scopes"]))
    if access.expires_at is not None:
        raise Problem(ProblemType.FORBIDDEN, "Clients do not expire, so a key that expires cannot create one.")
    check_granted(access, scopes)
    client_id, secret = api_keys.create_client(access.context, access.account_id, body["name"], scopes)
    row = api_keys.find_client(access.context, access.account_id, client_id)
    blueprint.set_etag(_state_of(row))
    return {**{name: getattr(row, name) for name in ClientSchema().fields}, "secret": secret}


def _state_of(row: ClientRow) -> list[Any]:
    """What the ETag is made of: using a client does not change it."""
    return [row.id, row.revoked_at]


@route(blueprint, "GET", "/clients/<string(minlength=4):client_id>", KEYS_MANAGE, answer=ClientSchema)
def show_client(client_id: str) -> Any:
    """Show an OAuth client"""
    access = current()
    row = api_keys.find_client(access.context, access.account_id, client_id)
    blueprint.set_etag(_state_of(row))
    return row


@route(blueprint, "DELETE", "/clients/<string(minlength=4):client_id>", KEYS_MANAGE, status=204)
def revoke_client(client_id: str) -> None:
    """Revoke an OAuth client

    With its tokens, which stop working within five seconds. It stays in the list.
    """
    access = current()
    row = api_keys.find_client(access.context, access.account_id, client_id)
    blueprint.check_etag(_state_of(row))
    api_keys.revoke_client(access.context, row.id)
