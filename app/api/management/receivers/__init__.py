"""What the OpenAPI document says of the routes of the receivers, which Flask serves without flask-smorest.

Bodies come from the marshmallow schemas by which the receivers validate; answers from schemas next to the routes.
"""

from __future__ import annotations

from typing import Any

import marshmallow
from apispec import APISpec
from apispec.ext.marshmallow import MarshmallowPlugin
from apispec.ext.marshmallow.common import resolve_schema_cls

from app.api.cxengage import schemas as cxengage_schemas
from app.api.cxengage.account import KeyAttributeSchema
from app.api.management.receivers import limechat, operators, sources
from app.api.management.receivers.cxengage import receiver, resources
from app.api.management.receivers.operations import SECURITY_SCHEMES
from app.ingest.limechat import schemas as limechat_schemas

_PARTS = (limechat, sources, receiver, resources, operators)
# The routes that are served with and without the version.
_VERSIONED = ("/tenants", "/token", "/account")
# What the names of components begin with, by the module of their schemas.
_PREFIXES = {
    limechat_schemas.__name__: "LimeChat",
    cxengage_schemas.__name__: "CxEngage",
    KeyAttributeSchema.__module__: "CxEngage",
}


def build(openapi_version: str) -> dict[str, Any]:
    """Tags, paths and components."""
    plugin = MarshmallowPlugin(schema_name_resolver=_name_of)
    spec = APISpec("", "", openapi_version, plugins=[plugin])
    assert plugin.converter is not None
    plugin.converter.add_attribute_function(_own_schema)  # type: ignore[no-untyped-call]
    for part in _PARTS:
        for path, item in part.PATHS.items():
            spec.path(path, operations=dict(item))
    found: dict[str, Any] = spec.to_dict()
    for path, item in found["paths"].items():
        if path.startswith(_VERSIONED):
            item["servers"] = [{"url": "/1.0"}, {"url": "/"}]
    found["tags"] = [{"name": part.TAG, "description": part.__doc__} for part in _PARTS]
    found["components"]["securitySchemes"] = SECURITY_SCHEMES
    return found


def _name_of(schema: Any) -> str:
    """The name of a component: that of the class, with the wire format."""
    found = resolve_schema_cls(schema)
    kind = found[0] if isinstance(found, list) else found
    name = kind.__name__.removeprefix("_").removesuffix("Schema")
    prefix = _PREFIXES.get(kind.__module__, "")
    is_partial = isinstance(schema, marshmallow.Schema) and bool(schema.partial)
    return f"{prefix}{name}{'Change' if is_partial else ''}"


def _own_schema(converter: Any, field: Any, **options: Any) -> dict[str, Any]:
    """What a field says of itself whose class does all of its validation."""
    found: dict[str, Any] = getattr(field, "JSON_SCHEMA", {})
    return found
