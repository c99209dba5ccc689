"""Describes one operation of the receivers for the OpenAPI document."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from marshmallow import Schema, fields

from app.api.management.fields import described

# The security schemes by the headers that authenticate.
KEY_HEADER, BEARER, CLIENT = "limechat", "bearer", "client"
SECURITY_SCHEMES = {
    KEY_HEADER: {
        "type": "apiKey",
        "in": "header",
        "name": "x-limechat-uat",
        "description": "An API key (sb_…) with the scope events:write.",
    },
    CLIENT: {"type": "http", "scheme": "basic", "description": "Id and secret of an OAuth client."},
}
JSON = "application/json"
# The statuses of requests whose body cannot be read.
BODY_ERRORS = (400, 408, 413, 415)
IDEMPOTENCY_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "An event that is repeated with its key is stored once. `webhook-id` is an alternative.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[ -~]+$"},
}


class CxEngageErrorSchema(Schema):
    """An error of CxEngage's routes."""

    error = fields.String(required=True, metadata=described("What is wrong, for people."))


def operation(
    tag: str,
    name: str,
    summary: str,
    description: str = "",
    *,
    answers: Mapping[int, Any],
    errors: Sequence[int] = (),
    error_schema: type[Schema] | None = None,
    body: Any = None,
    example: Any = None,
    media_types: Sequence[str] = (JSON,),
    parameters: Sequence[Mapping[str, Any]] = (),
    security: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, Any]:
    """An operation. `answers` are schemas by status, or descriptions without a body; `errors` are answered as problem documents,
    or by `error_schema`. `security` None: it is open."""
    found: dict[str, Any] = {
        "tags": [tag],
        "operationId": name,
        "summary": summary,
        "security": [{scheme: list(scopes)} for scheme, scopes in (security or {}).items()],
        "responses": {str(status): _answer(status, schema) for status, schema in answers.items()},
    }
    for status in errors:
        found["responses"][str(status)] = (
            HTTPStatus(status).name if error_schema is None else _answer(status, error_schema)
        )
    if description:
        found["description"] = description
    if parameters:
        found["parameters"] = [dict(parameter) for parameter in parameters]
    if body is not None:
        shown = {} if example is None else {"example": example}
        content = {media_type: {"schema": body, **shown} for media_type in media_types}
        found["requestBody"] = {"required": True, "content": content}
    return found


def path_parameter(name: str, description: str, pattern: str = "") -> dict[str, Any]:
    """A parameter in the path."""
    schema = {"type": "string", "minLength": 1, **({"pattern": pattern} if pattern else {})}
    return {"name": name, "in": "path", "required": True, "description": description, "schema": schema}


def text_answer(media_type: str, description: str) -> dict[str, Any]:
    """An answer that is not JSON."""
    return {"description": description, "content": {media_type: {"schema": {"type": "string"}}}}


def _answer(status: int, schema: Any) -> dict[str, Any]:
    if isinstance(schema, str):
        return {"description": schema}
    if isinstance(schema, dict) and "description" in schema:
        return schema
    return {"description": HTTPStatus(status).phrase, "content": {JSON: {"schema": schema}}}
