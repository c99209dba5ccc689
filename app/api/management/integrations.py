"""Sets up credentials for providers. Their secrets are in no answer."""

from __future__ import annotations

from typing import Any

from app.api.management.access import current
from app.api.management.fields import PageByNameQuery, read_page
from app.api.management.routes import Blueprint, route
from app.api.management.schemas.integrations import (
    IntegrationFieldsSchema,
    IntegrationPageSchema,
    IntegrationSchema,
    NewIntegrationSchema,
)
from app.core.models import SETTINGS_READ, SETTINGS_WRITE
from app.services import integrations
from app.services.integrations import Integration

blueprint = Blueprint("integrations", __name__, description="Integrations: credentials for providers.")
_OF_KIND = {"kind": "$response.body#/kind"}


@route(blueprint, "GET", "/integrations", SETTINGS_READ, query=PageByNameQuery, answer=IntegrationPageSchema)
def list_integrations(query: dict[str, Any]) -> Any:
    """List integrations

    By kind. `after` is a kind.
    """
    access = current()
    # One of each kind at most.
    found = integrations.list_integrations(access.context, access.account_id)
    return read_page(
        query,
        lambda after, limit: [one for one in found if one.kind > (after or "")][:limit],
        lambda one: one.kind,
    )


@route(
    blueprint,
    "POST",
    "/integrations",
    SETTINGS_WRITE,
    body=NewIntegrationSchema,
    answer=IntegrationSchema,
    status=201,
    # Its answer is not kept, nor a hash of the values: sent again, it gets a 409.
    takes_key=False,
    links={"show": {"operationId": "show_integration", "parameters": _OF_KIND}},
)
def create_integration(body: dict[str, Any]) -> Any:
    """Set up an integration

    409 when the account has one of this kind. Workers use it within seconds.
    """
    access, kind = current(), integrations.find_kind(body["kind"])
    integrations.set_integration(access.context, access.account_id, kind, body["fields_"], is_new=True)
    return _find(kind.name)


def _find(kind: str) -> Integration:
    access = current()
    return integrations.find_integration(access.context, access.account_id, integrations.find_kind(kind))


@route(blueprint, "GET", "/integrations/<kind>", SETTINGS_READ, answer=IntegrationSchema)
def show_integration(kind: str) -> Any:
    """Show an integration

    With masked secrets.
    """
    return _find(kind)


@route(
    blueprint, "PATCH", "/integrations/<kind>", SETTINGS_WRITE, body=IntegrationFieldsSchema, answer=IntegrationSchema
)
def change_integration(body: dict[str, Any], kind: str) -> Any:
    """Change fields of an integration"""
    access = current()
    blueprint.check_etag(_find(kind), IntegrationSchema)
    found = integrations.find_kind(kind)
    integrations.set_integration(access.context, access.account_id, found, body["fields_"])
    return _find(kind)


@route(blueprint, "DELETE", "/integrations/<kind>", SETTINGS_WRITE, status=204)
def remove_integration(kind: str) -> None:
    """Remove an integration

    With its credentials.
    """
    access = current()
    blueprint.check_etag(_find(kind), IntegrationSchema)
    integrations.remove_integration(access.context, access.account_id, integrations.find_kind(kind))
