"""Lists, creates, changes, enables and deletes patterns: `/tenants/<tenant>/patterns`."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response

from app.api.bearer_limit import management_limit
from app.api.cxengage.resources import authorize, list_response, load_fields
from app.api.cxengage.schemas import PatternSchema
from app.api.responses import json_response
from app.api.route_limits import start_limiter
from app.db.cxengage_resources import PATTERNS, PatternRow
from app.services.cxengage import crud, patterns

blueprint = Blueprint("cxengage_patterns", __name__)
blueprint.before_request(start_limiter)
_schema = PatternSchema()


@blueprint.get("/tenants/<tenant>/patterns")
@management_limit
def list_patterns(tenant: str) -> Response:
    """All patterns, or a page of them."""
    return list_response(tenant, PATTERNS, _to_json)


@blueprint.post("/tenants/<tenant>/patterns")
@management_limit
def create_pattern(tenant: str) -> Response:
    """Create a pattern; it must compile if its status is true."""
    context, account_id = authorize(tenant)
    return json_response(_to_json(patterns.create_pattern(context, account_id, load_fields(_schema))), 201)


@blueprint.get("/tenants/<tenant>/patterns/<name>")
@management_limit
def show_pattern(tenant: str, name: str) -> Response:
    """One pattern."""
    return json_response(_to_json(crud.find_resource(*authorize(tenant), PATTERNS, name)))


@blueprint.put("/tenants/<tenant>/patterns/<name>")
@management_limit
def change_pattern(tenant: str, name: str) -> Response:
    """Change a pattern, switch it on or off."""
    context, account_id = authorize(tenant)
    changes = load_fields(_schema, name)
    return json_response(_to_json(patterns.change_pattern(context, account_id, name, changes)))


@blueprint.delete("/tenants/<tenant>/patterns/<name>")
@management_limit
def delete_pattern(tenant: str, name: str) -> Response:
    """Delete a pattern and the runs that it started."""
    patterns.delete_pattern(*authorize(tenant), name)
    return Response(status=204)


def _to_json(row: PatternRow) -> dict[str, Any]:
    texts = {"when": row.when_text, "then": row.then_text, "code": row.code, "key": row.key}
    return {
        "id": f"PT{row.number}",
        "name": row.name,
        "description": row.description,
        "status": row.status,
        **{name: text for name, text in texts.items() if text is not None},
    }
