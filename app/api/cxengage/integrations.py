"""Lists and changes integrations, whose secrets no response shows: `/tenants/<tenant>/integrations`."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response

from app.api.bearer_limit import management_limit
from app.api.cxengage import schemas
from app.api.cxengage.resources import authorize, read_fields
from app.api.responses import json_response
from app.api.route_limits import start_limiter
from app.core.errors import Problem, ProblemType
from app.services.cxengage import integrations
from app.services.cxengage.integrations import MaskedIntegration

blueprint = Blueprint("cxengage_integrations", __name__)
blueprint.before_request(start_limiter)
_schema = schemas.IntegrationSchema()


@blueprint.get("/tenants/<tenant>/integrations")
@management_limit
def list_integrations(tenant: str) -> Response:
    """All integrations."""
    return json_response([_to_json(each) for each in integrations.list_integrations(*authorize(tenant))])


@blueprint.get("/tenants/<tenant>/integrations/<name>")
@management_limit
def show_integration(tenant: str, name: str) -> Response:
    """One integration."""
    return json_response(_to_json(integrations.find_integration(*authorize(tenant), name)))


@blueprint.post("/tenants/<tenant>/integrations/<name>")
@management_limit
def set_integration(tenant: str, name: str) -> Response:
    """Create an integration, or change the given fields."""
    context, account_id = authorize(tenant)
    value = read_fields().value
    schemas.load(_schema, {key: value[key] for key in ("id", "type") if key in value}, existing=name)
    for key in ("id", "type"):
        if value.get(key, name) != name:
            raise Problem(ProblemType.VALIDATION_FAILED, f"{key}: must be {name}, as in the URL")
    fields = {key: text for key, text in value.items() if key not in ("id", "type")}
    for key, text in fields.items():
        if not isinstance(text, str):
            raise Problem(ProblemType.VALIDATION_FAILED, f"{key[:80]}: must be text")
    return json_response(_to_json(integrations.set_integration(context, account_id, name, fields)))


def _to_json(integration: MaskedIntegration) -> dict[str, Any]:
    return {"id": integration.id, "type": integration.id, **integration.fields}
