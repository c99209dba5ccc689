"""Lists, creates, changes and deletes augments and their files: `/tenants/<tenant>/augments`."""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from typing import Any

from flask import Blueprint, Response, request
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.formparser import FormDataParser

from app.api.bearer_limit import management_limit
from app.api.cxengage.resources import app_context, authorize, list_response, load_fields
from app.api.cxengage.schemas import API_FIELDS, AugmentSchema
from app.api.request_body import CheckSize, LargeBodies, read_body
from app.api.responses import json_response
from app.api.route_limits import start_limiter
from app.core.errors import Problem, ProblemType
from app.db.cxengage_resources import AUGMENTS, AugmentRow
from app.services.cxengage import augments, crud

blueprint = Blueprint("cxengage_augments", __name__)
blueprint.before_request(start_limiter)
_schema = AugmentSchema()
# Bytes that multipart/form-data may add to the largest file.
_FORM_BYTES = 8 * 1024
# Parts of a form, and bytes of the headers of one.
_MAX_FORM_PARTS, _MAX_HEADERS = 10, 256 * 1024


@blueprint.get("/tenants/<tenant>/augments")
@management_limit
def list_augments(tenant: str) -> Response:
    """All augments, or a page of them."""
    return list_response(tenant, AUGMENTS, _to_json)


@blueprint.post("/tenants/<tenant>/augments")
@management_limit
def create_augment(tenant: str) -> Response:
    """Create an augment."""
    context, account_id = authorize(tenant)
    return json_response(_to_json(augments.create_augment(context, account_id, _values(load_fields(_schema)))), 201)


@blueprint.get("/tenants/<tenant>/augments/<name>")
@management_limit
def show_augment(tenant: str, name: str) -> Response:
    """One augment."""
    return json_response(_to_json(crud.find_resource(*authorize(tenant), AUGMENTS, name)))


@blueprint.put("/tenants/<tenant>/augments/<name>")
@management_limit
def change_augment(tenant: str, name: str) -> Response:
    """Change an augment."""
    context, account_id = authorize(tenant)
    changes = _values(load_fields(_schema, name))
    return json_response(_to_json(augments.change_augment(context, account_id, name, changes)))


@blueprint.delete("/tenants/<tenant>/augments/<name>")
@management_limit
def delete_augment(tenant: str, name: str) -> Response:
    """Delete an augment with its file."""
    augments.delete_augment(*authorize(tenant), name)
    return Response(status=204)


@blueprint.post("/tenants/<tenant>/augments/<name>/file")
@management_limit
def put_file(tenant: str, name: str) -> Response:
    """Upload or replace the CSV file, sent as the body or as the field `file` of a form."""
    context, account_id = authorize(tenant)
    with LargeBodies(context.limits.large_bodies, account_id) as bodies:
        row = augments.put_file(context, account_id, name, _read_file(bodies.check))
    return json_response({"id": f"AU{row.number}", "columns": row.columns, "rows": row.rows}, 201)


@blueprint.delete("/tenants/<tenant>/augments/<name>/file")
@management_limit
def delete_file(tenant: str, name: str) -> Response:
    """Delete the CSV file; the augment adds nothing until another one is uploaded."""
    augments.delete_file(*authorize(tenant), name)
    return Response(status=204)


@blueprint.get("/tenants/<tenant>/augments/<name>/file")
@management_limit
def show_file(tenant: str, name: str) -> Response:
    """The CSV file."""
    text = augments.read_file(*authorize(tenant), name)
    return Response(text, content_type="text/csv; charset=utf-8")


def _read_file(check: CheckSize) -> bytes:
    """The bytes of the posted file; raises what `check` raises, and Problem."""
    limit = augments.MAX_BYTES + (_FORM_BYTES if request.mimetype == "multipart/form-data" else 0)
    seconds = app_context().settings.body_timeout
    media_types = ("text/csv", "multipart/form-data")
    body = read_body(request, limit=limit, seconds=seconds, media_types=media_types, check=check)
    if request.mimetype == "text/csv":
        return body
    try:
        # Parsed in memory: the body is in memory already.
        parser = FormDataParser(
            stream_factory=lambda *_, **__: BytesIO(),
            silent=False,
            max_form_memory_size=_MAX_HEADERS,
            max_form_parts=_MAX_FORM_PARTS,
        )
        _, _, files = parser.parse(BytesIO(body), request.mimetype, len(body), dict(request.mimetype_params))
    except RequestEntityTooLarge:
        raise Problem(
            ProblemType.MALFORMED_BODY,
            f"The form has more than {_MAX_FORM_PARTS} parts, or longer headers than {_MAX_HEADERS} bytes.",
        ) from None
    except ValueError:
        raise Problem(ProblemType.MALFORMED_BODY, "The form cannot be parsed.") from None
    if "file" not in files:
        raise Problem(ProblemType.MALFORMED_BODY, "file: this field of the form, with the CSV file, is required")
    raw: bytes = files["file"].read()
    if len(raw) > augments.MAX_BYTES:
        raise Problem(ProblemType.BODY_TOO_LARGE, f"The file is larger than {augments.MAX_BYTES} bytes.")
    return raw


def _values(loaded: Mapping[str, Any]) -> dict[str, Any]:
    """The values by column; `in_options` records where `url`, `method` and `attributes` were given."""
    values = {name: loaded[name] for name in ("name", "description", "type", *API_FIELDS) if name in loaded}
    if "options" in loaded:
        values |= {**loaded["options"], "in_options": True}
    elif "type" in loaded or not loaded.keys().isdisjoint(API_FIELDS):
        values["in_options"] = False
    return values


def _to_json(row: AugmentRow) -> dict[str, Any]:
    optional = {"url": row.url, "method": row.method if row.type == "api" else None, "attributes": row.attributes}
    fields = {name: value for name, value in optional.items() if value is not None}
    return {
        "id": f"AU{row.number}",
        "name": row.name,
        "description": row.description,
        "type": row.type,
        "service": "engine",
        "augment-service": "engine",
        **({"options": fields} if row.in_options else fields),
    }
