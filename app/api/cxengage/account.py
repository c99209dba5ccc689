"""The routes about the tenant itself: its name, its key attribute, and the owner of the token."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from flask import Blueprint, Response
from marshmallow import Schema, fields

from app.api.bearer_limit import management_limit
from app.api.current import extension
from app.api.cxengage import auth
from app.api.cxengage.resources import app_context, read_fields
from app.api.responses import json_response
from app.api.route_limits import start_limiter
from app.core import models
from app.db.accounts import AccountDetails
from app.ingest.account_cache import Account
from app.ingest.limechat.parser import load
from app.services import accounts

blueprint = Blueprint("cxengage_account", __name__)
blueprint.before_request(start_limiter)
_UNKNOWN = {"unknown": "is unknown"}


class KeyAttributeSchema(Schema):
    """The body of `POST …/key-attribute`."""

    error_messages = _UNKNOWN

    key = fields.String(
        required=True,
        error_messages={
            "required": "is required: the name of the key attribute",
            "invalid": "must be text",
            "null": "must be text",
        },
    )


_key_attribute_schema = KeyAttributeSchema()


@blueprint.get("/tenants/<tenant>/", strict_slashes=False)
@management_limit
def show_tenant(tenant: str) -> Response:
    """The tenant."""
    return json_response(_to_json(auth.authenticate(tenant).account))


@blueprint.get("/tenants/<tenant>/key-attribute")
@management_limit
def show_key_attribute(tenant: str) -> Response:
    """The attribute that identifies the subject of an event."""
    return json_response({"key": auth.authenticate(tenant).account.snapshot.key_attribute})


@blueprint.post("/tenants/<tenant>/key-attribute")
@management_limit
def set_key_attribute(tenant: str) -> Response:
    """Change the key attribute; applies from the next event."""
    caller = auth.authenticate(tenant, models.ACCOUNT_MANAGE)
    context, account = app_context().acting_as(caller.actor), caller.account
    key: str = load(_key_attribute_schema, read_fields().value)["key"]
    accounts.update_account_details(context, account.snapshot.id, AccountDetails(key_attribute=key))
    # This process uses the new attribute immediately.
    extension("accounts").refresh(account, max_age=0)
    return json_response({"key": key})


@blueprint.get("/account")
@management_limit
def show_account() -> Response:
    """The owner of the token and the seconds until it expires. Accounts have no e-mail address."""
    caller = auth.authenticate(None)
    now = app_context().clock()
    expires_at = caller.key.expires_at
    return json_response(
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
    return json_response({"tenants": [_to_json(auth.authenticate(None).account)]})


def _to_json(account: Account) -> dict[str, Any]:
    return {"id": account.snapshot.slug, "name": account.snapshot.name}
