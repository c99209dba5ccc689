"""The routes about the tenant itself: its name, its key attribute, and the owner of the token."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from flask import Blueprint, Response, current_app, request
from marshmallow import Schema, fields

from app.api.cxengage import auth
from app.api.cxengage.limits import management_limit
from app.api.request_body import read_body
from app.api.route_limits import start_limiter
from app.core import models
from app.core.exact_json import read_object
from app.db.accounts import AccountDetails
from app.ingest.account_cache import Account
from app.ingest.limechat.parser import load
from app.services import accounts
from app.services.context import AppContext

blueprint = Blueprint("cxengage_account", __name__)
blueprint.before_request(start_limiter)
_UNKNOWN: dict[str, Any] = {"unknown": "is unknown"}
_NO_KEY: dict[str, Any] = {
    "required": "is required: the name of the key attribute",
    "invalid": "must be text",
    "null": "must be text",
}


class KeyAttributeSchema(Schema):
    """The body of `POST …/key-attribute`."""

    error_messages = _UNKNOWN

    key = fields.String(required=True, error_messages=_NO_KEY)


_key_attribute_schema = KeyAttributeSchema()


@blueprint.get("/tenants/<tenant>/", strict_slashes=False)
@management_limit
def show_tenant(tenant: str) -> Response:
    """The tenant."""
    return auth.answer(_to_json(auth.authenticate(tenant).account))


@blueprint.get("/tenants/<tenant>/key-attribute")
@management_limit
def show_key_attribute(tenant: str) -> Response:
    """The attribute that identifies the subject of an event."""
    return auth.answer({"key": auth.authenticate(tenant).account.snapshot.key_attribute})


@blueprint.post("/tenants/<tenant>/key-attribute")
@management_limit
def set_key_attribute(tenant: str) -> Response:
    """Change the key attribute; applies from the next event."""
    account = auth.authenticate(tenant, models.ACCOUNT_MANAGE).account
    context: AppContext = current_app.extensions["context"]
    settings = context.settings
    body = read_body(
        request, limit=settings.max_event_bytes, seconds=settings.body_timeout, media_types=("application/json",)
    )
    key: str = load(_key_attribute_schema, read_object(body).value)["key"]
    accounts.update_account_details(context, account.snapshot.id, AccountDetails(key_attribute=key))
    # This process uses the new attribute at once.
    current_app.extensions["accounts"].refresh(account, max_age=0)
    return auth.answer({"key": key})


@blueprint.get("/account")
@management_limit
def show_account() -> Response:
    """The owner of the token and the seconds until it expires. Accounts have no e-mail address."""
    caller = auth.authenticate(None)
    now = current_app.extensions["context"].clock()
    expires_at = caller.key.expires_at
    return auth.answer(
        {
            "email": None,
            "name": caller.account.snapshot.name,
            "client-id": caller.key.client_id,
            "ttl": None if expires_at is None else (expires_at - now) // timedelta(seconds=1),
            "tenants": [caller.account.snapshot.slug],
        }
    )


@blueprint.get("/account/tenants")
@management_limit
def list_tenants() -> Response:
    """The tenants that the token may access: one."""
    return auth.answer({"tenants": [_to_json(auth.authenticate(None).account)]})


def _to_json(account: Account) -> dict[str, Any]:
    return {"id": account.snapshot.slug, "name": account.snapshot.name}
