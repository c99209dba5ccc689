"""Shared by the routes of patterns, templates, listeners, integrations and augments: access, rate limit, and request bodies.

200 for a resource that was read or changed, 201 created, 204 deleted. PUT changes only the fields that it names.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import quote

from flask import Response, request
from marshmallow import Schema

from app.api.current import extension
from app.api.cxengage import auth, schemas
from app.api.request_body import read_json
from app.api.responses import json_bytes
from app.core.errors import Problem, ProblemType
from app.core.exact_json import ExactObject, read_object
from app.core.models import ACCOUNT_MANAGE
from app.db.cxengage_resources import Numbered, ResourceKind
from app.services.context import AppContext
from app.services.cxengage import crud

Row = TypeVar("Row", bound=Numbered)


def app_context() -> AppContext:
    """The app context of this process."""
    context: AppContext = extension("context")
    return context


def authorize(tenant: str) -> tuple[AppContext, int]:
    """The app context for what the caller changes, and the account id of a tenant that the caller may manage; raises Problem 401
    or 403."""
    caller = auth.authenticate(tenant, ACCOUNT_MANAGE)
    return app_context().acting_as(caller.actor), caller.account.snapshot.id


def read_fields() -> ExactObject:
    """The JSON object in the request's body; raises Problem."""
    return read_object(read_json(request, app_context().settings))


def load_fields(schema: Schema, existing: str | None = None) -> dict[str, Any]:
    """The validated fields of the request's body, of a new resource or of the one with the id `existing`."""
    return schemas.load(schema, read_fields().value, existing=existing)


def list_response(tenant: str, kind: ResourceKind[Row], to_json: Callable[[Row], Any]) -> Response:
    """A list as an array: complete, or with `limit` one page of it, whose `Link` header leads to the next. Raises Problem 422
    for a complete list that is too large."""
    context, account_id = authorize(tenant)
    limit = _limit_of(request.args.get("limit"))
    page = crud.list_page(
        context,
        account_id,
        kind,
        lambda row: json_bytes(to_json(row)),
        after=request.args.get("after"),
        limit=limit or crud.MAX_PER_KIND,
    )
    response = Response(b"[" + b",".join(page.texts) + b"]", content_type="application/json")
    if page.last is None:
        return response
    if limit is None:
        message = f"The list has more than {crud.MAX_LIST_BYTES} bytes: add ?limit=100 and follow the Link header."
        raise Problem(ProblemType.VALIDATION_FAILED, message)
    response.headers["Link"] = f'<{quote(request.path)}?limit={limit}&after={page.last}>; rel="next"'
    return response


def _limit_of(text: str | None) -> int | None:
    """The number of resources of a page; None for the complete list."""
    if text is None:
        return None
    if not re.fullmatch(r"[0-9]{1,4}", text) or not 1 <= int(text) <= crud.MAX_PER_KIND:
        raise Problem(ProblemType.VALIDATION_FAILED, f"limit: must be a whole number from 1 to {crud.MAX_PER_KIND}")
    return int(text)
