"""Sets and removes secrets by their names. Values are in no answer."""

from __future__ import annotations

from typing import Any

from app.api.management.access import current
from app.api.management.fields import PageByNameQuery, read_page
from app.api.management.routes import Blueprint, route
from app.api.management.schemas.secrets import (
    NewSecretSchema,
    RemoveSecretQuery,
    SecretPageSchema,
    SecretSchema,
    SecretValueSchema,
)
from app.core.models import SETTINGS_READ, SETTINGS_WRITE
from app.services import secrets
from app.services.secrets import Secret

blueprint = Blueprint("secrets", __name__, description="Secrets: values that workflows and sources read by name.")
_OF_NAME = {"secret": "$response.body#/name"}


@route(blueprint, "GET", "/secrets", SETTINGS_READ, query=PageByNameQuery, answer=SecretPageSchema)
def list_secrets(query: dict[str, Any]) -> Any:
    """List secrets

    By name, with what reads them. `after` is a name.
    """
    access = current()
    return read_page(
        query,
        lambda after, limit: secrets.list_secrets(access.context, access.account_id, after=after or "", limit=limit),
        lambda secret: secret.name,
    )


@route(
    blueprint,
    "POST",
    "/secrets",
    SETTINGS_WRITE,
    body=NewSecretSchema,
    answer=SecretSchema,
    status=201,
    # Its answer is not kept, nor a hash of the values: sent again, it gets a 409.
    takes_key=False,
    links={"show": {"operationId": "show_secret", "parameters": _OF_NAME}},
)
def create_secret(body: dict[str, Any]) -> Any:
    """Create a secret

    409 when the account has it. Workflows and sources read it within seconds.
    """
    access, name = current(), body["name"]
    secrets.set_secret(access.context, access.account_id, name, body["value"], is_new=True)
    return _find(name)


def _find(name: str) -> Secret:
    access = current()
    return secrets.find_secret(access.context, access.account_id, name)


@route(blueprint, "GET", "/secrets/<secret>", SETTINGS_READ, answer=SecretSchema)
def show_secret(secret: str) -> Any:
    """Show a secret

    When it was set, and what reads it. Its value is never shown.
    """
    return _find(secret)


@route(blueprint, "PUT", "/secrets/<secret>", SETTINGS_WRITE, body=SecretValueSchema, answer=SecretSchema)
def set_secret(body: dict[str, Any], secret: str) -> Any:
    """Set the value of a secret"""
    access = current()
    blueprint.check_etag(_find(secret), SecretSchema)
    secrets.set_secret(access.context, access.account_id, secret, body["value"])
    return _find(secret)


@route(blueprint, "DELETE", "/secrets/<secret>", SETTINGS_WRITE, query=RemoveSecretQuery, status=204)
def remove_secret(query: dict[str, Any], secret: str) -> None:
    """Remove a secret

    409 while something reads it, unless `force`.
    """
    access = current()
    blueprint.check_etag(_find(secret), SecretSchema)
    secrets.remove_secret(access.context, access.account_id, secret, force=query["force"])
