"""Shared by the routes of patterns, templates, listeners, integrations and augments: access, limits and request bodies.

200 for a resource that was read or changed, 201 created, 204 deleted. PUT changes only the fields that it names.
"""

from __future__ import annotations

from typing import Any

from flask import current_app, request
from marshmallow import Schema

from app.api.cxengage import auth, schemas
from app.api.rate_limit import PerMinute
from app.api.request_body import read_body
from app.core.errors import Problem, ProblemType
from app.core.exact_json import ExactObject, read_object
from app.core.models import ACCOUNT_MANAGE
from app.services.context import AppContext

# Requests per minute and tenant.
MAX_PER_MINUTE = 600


def app_context() -> AppContext:
    """The app context of this process."""
    context: AppContext = current_app.extensions["context"]
    return context


def authorize(tenant: str) -> int:
    """The account id of a tenant that the caller may manage; raises Problem 401, 403, or 429 above the limit."""
    account_id = auth.authenticate(tenant, ACCOUNT_MANAGE).account.snapshot.id
    limiter: PerMinute = current_app.extensions["management_limiter"]
    if not limiter.lets_in(MAX_PER_MINUTE, "management", str(account_id)):
        raise Problem(
            ProblemType.RATE_LIMIT_EXCEEDED,
            f"More than {MAX_PER_MINUTE} requests in a minute. Retry later.",
            headers={"Retry-After": "60"},
        )
    return account_id


def read_fields() -> ExactObject:
    """The JSON object in the request's body; raises Problem."""
    settings = app_context().settings
    body = read_body(
        request, limit=settings.max_event_bytes, seconds=settings.body_timeout, media_types=("application/json",)
    )
    return read_object(body)


def load_fields(schema: Schema, existing: str | None = None) -> dict[str, Any]:
    """The validated fields of the request's body, of a new resource or of the one with the id `existing`."""
    return schemas.load(schema, read_fields().value, existing=existing)
