"""Lists, creates, changes and deletes message templates: `/tenants/<tenant>/templates`."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response

from app.api.bearer_limit import management_limit
from app.api.cxengage.resources import authorize, list_response, load_fields
from app.api.cxengage.schemas import TemplateSchema
from app.api.responses import json_response
from app.api.route_limits import start_limiter
from app.db.cxengage_resources import TEMPLATES, TemplateRow
from app.services.cxengage import crud, message_templates

blueprint = Blueprint("cxengage_message_templates", __name__)
blueprint.before_request(start_limiter)
_schema = TemplateSchema()


@blueprint.get("/tenants/<tenant>/templates")
@management_limit
def list_templates(tenant: str) -> Response:
    """All templates, or a page of them."""
    return list_response(tenant, TEMPLATES, _to_json)


@blueprint.post("/tenants/<tenant>/templates")
@management_limit
def create_template(tenant: str) -> Response:
    """Create a template."""
    context, account_id = authorize(tenant)
    return json_response(_to_json(message_templates.create_template(context, account_id, load_fields(_schema))), 201)


@blueprint.get("/tenants/<tenant>/templates/<name>")
@management_limit
def show_template(tenant: str, name: str) -> Response:
    """One template."""
    return json_response(_to_json(crud.find_resource(*authorize(tenant), TEMPLATES, name)))


@blueprint.put("/tenants/<tenant>/templates/<name>")
@management_limit
def change_template(tenant: str, name: str) -> Response:
    """Change a template, and recompile the patterns that are on and use it."""
    context, account_id = authorize(tenant)
    changes = load_fields(_schema, name)
    return json_response(_to_json(message_templates.change_template(context, account_id, name, changes)))


@blueprint.delete("/tenants/<tenant>/templates/<name>")
@management_limit
def delete_template(tenant: str, name: str) -> Response:
    """Delete a template that no pattern uses that is on."""
    message_templates.delete_template(*authorize(tenant), name)
    return Response(status=204)


def _to_json(row: TemplateRow) -> dict[str, Any]:
    return {"id": f"TM{row.number}", "name": row.name, "description": row.description, "template": row.template}
