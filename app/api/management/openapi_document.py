"""The OpenAPI document of every route: those of the management API as flask-smorest describes them, and the receivers'."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from apispec import APISpec

from app.api.management import receivers
from app.api.management.routes import SECURITY
from app.core.errors import ProblemType

OPENAPI_VERSION = "3.1.0"
# Schemas of flask-smorest's own errors and pages.
_UNUSED = ("Error", "PaginationMetadata")
_PROBLEM = "application/problem+json"
_DESCRIPTION = """
The routes of the receivers take events. The routes below `/api/v1/manage` do what the console and the command line do: they
need an API key as `Authorization: Bearer KEY`, with the scope that each route names. Errors are problem documents (RFC 9457).
Lists have `items` and `next`, the cursor of the next page.
"""


def build(spec: APISpec) -> dict[str, Any]:
    """The whole document. `spec`: that of the management API."""
    document: dict[str, Any] = spec.to_dict()
    others = receivers.build(OPENAPI_VERSION)
    document["info"]["description"] = _DESCRIPTION.strip().replace("\n", " ")
    document["servers"] = [{"url": "/"}]
    document["tags"] = [*others["tags"], *document["tags"]]
    document["paths"] = {**others["paths"], **document["paths"]}
    components = document.setdefault("components", {})
    components["securitySchemes"] = {
        SECURITY: {"type": "http", "scheme": "bearer", "description": "An API key (sb_…) or access token (sbt_…)."},
        **others["components"]["securitySchemes"],
    }
    own = {name: schema for name, schema in components["schemas"].items() if name not in _UNUSED}
    components["schemas"] = {**others["components"]["schemas"], **own, "Problem": _problem_schema()}
    components["responses"] = {status.name: _problem_response(status) for status in HTTPStatus if status >= 400}
    components["responses"][HTTPStatus.NOT_MODIFIED.name] = {"description": "Not modified: If-None-Match has its ETag."}
    return document


def _problem_schema() -> dict[str, Any]:
    error = {
        "type": "object",
        "required": ["field", "message"],
        "properties": {"field": {"type": "string"}, "message": {"type": "string"}},
    }
    return {
        "type": "object",
        "description": "What is wrong (RFC 9457). `type` is one of a fixed table.",
        "required": ["type", "title", "status", "detail"],
        "properties": {
            "type": {"type": "string", "enum": [kind.urn for kind in ProblemType]},
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "detail": {"type": "string"},
            "errors": {"type": "array", "items": error, "description": "Each mistake with its field."},
        },
    }


def _problem_response(status: HTTPStatus) -> dict[str, Any]:
    schema = {"$ref": "#/components/schemas/Problem"}
    return {"description": status.phrase, "content": {_PROBLEM: {"schema": schema}}}
