"""Creates API keys with at most the scopes of the calling key, and revokes them."""

from __future__ import annotations

from typing import Any

from app.api.management.access import check_granted, current
from app.api.management.fields import PageByNameQuery, read_page
from app.api.management.routes import Blueprint, route
from app.api.management.schemas.api_keys import CreatedKeySchema, KeyPageSchema, KeySchema, NewKeySchema
from app.core.api_keys import prefix_of
from app.core.durations import read_duration
from app.core.models import KEYS_MANAGE
from app.db.api_keys import KeyRow
from app.services import api_keys

blueprint = Blueprint("api_keys", __name__, description="API keys: shown once, stored as a hash.")
_OF_NEW_KEY = {"prefix": "$response.body#/prefix"}


@route(blueprint, "GET", "/keys", KEYS_MANAGE, query=PageByNameQuery, answer=KeyPageSchema)
def list_keys(query: dict[str, Any]) -> Any:
    """List API keys

    The oldest first, with those that are revoked or have expired. `after` is the prefix of a key.
    """
    access = current()
    return read_page(
        query,
        lambda after, limit: api_keys.list_keys(access.context, access.account_id, after=after, limit=limit),
        lambda key: key.prefix,
    )


@route(
    blueprint,
    "POST",
    "/keys",
    KEYS_MANAGE,
    body=NewKeySchema,
    answer=CreatedKeySchema,
    status=201,
    links={
        "show": {"operationId": "show_key", "parameters": _OF_NEW_KEY},
        "revoke": {
            "operationId": "revoke_key",
            "parameters": {**_OF_NEW_KEY, "header.If-Match": "$response.header.ETag"},
        },
    },
)
def create_key(body: dict[str, Any]) -> Any:
    """Create an API key

    It has at most the scopes of the calling key, and ends at the latest when that does.
    The answer is the only one that has the key itself.
    """
    access, scopes = current(), tuple(dict.fromkeys(body["scopes"]))
    check_granted(access, scopes)
    lifetime = body["expires_in"] and read_duration(body["expires_in"])
    text = api_keys.create_key(access.context, access.account_id, body["name"], scopes, lifetime, access.expires_at)
    row = api_keys.find_key(access.context, access.account_id, prefix_of(text))
    blueprint.set_etag(_state_of(row))
    return {**KeySchema().dump(row), **_times(row), "key": text}


def _times(row: KeyRow) -> dict[str, Any]:
    names = ("created_at", "expires_at", "revoked_at", "last_used_at")
    return {name: getattr(row, name) for name in names}


@route(blueprint, "GET", "/keys/<string(length=8):prefix>", KEYS_MANAGE, answer=KeySchema)
def show_key(prefix: str) -> Any:
    """Show an API key"""
    access = current()
    row = api_keys.find_key(access.context, access.account_id, prefix)
    blueprint.set_etag(_state_of(row))
    return row


def _state_of(row: KeyRow) -> list[Any]:
    """What the ETag is made of: using a key does not change it."""
    return [row.prefix, row.revoked_at]


@route(blueprint, "DELETE", "/keys/<string(length=8):prefix>", KEYS_MANAGE, status=204)
def revoke_key(prefix: str) -> None:
    """Revoke an API key

    It stops working within five seconds. It stays in the list.
    """
    access = current()
    row = api_keys.find_key(access.context, access.account_id, prefix)
    blueprint.check_etag(_state_of(row))
    api_keys.revoke_key(access.context, prefix, access.account_id)
