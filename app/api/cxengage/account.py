"""What CxEngage's clients ask of and about the tenant itself: its name, its key attribute, and whose token they hold."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from flask import Blueprint, Response, current_app, request
from marshmallow import Schema, ValidationError, fields

from app.api.cxengage import auth
from app.api.request_body import read_body
from app.core import models
from app.core.exact_json import read_object
from app.ingest.account_cache import Account
from app.ingest.limechat import parser
from app.services import oauth_clients
from app.services.context import AppContext

blueprint = Blueprint("cxengage_account", __name__)


_UNKNOWN: dict[str, Any] = {"unknown": "is unknown"}
_NO_KEY: dict[str, Any] = {
    "required": "is missing: the name of the key attribute",
    "invalid": "has to be text",
    "null": "has to be text",
}


class KeyAttributeSchema(Schema):
    """The body of `POST …/key-attribute`."""

    error_messages = _UNKNOWN

    key = fields.String(required=True, error_messages=_NO_KEY)


_key_attribute_schema = KeyAttributeSchema()


@blueprint.get("/tenants/<tenant>/", strict_slashes=False)
def show_tenant(tenant: str) -> Response:
    """Which tenant this is."""
    return auth.answer(_tenant(auth.authenticate(tenant).account))


@blueprint.get("/tenants/<tenant>/key-attribute")
def show_key_attribute(tenant: str) -> Response:
    """Which attribute of an event says whom it is about."""
    return auth.answer({"key": auth.authenticate(tenant).account.snapshot.key_attribute})


@blueprint.post("/tenants/<tenant>/key-attribute")
def set_key_attribute(tenant: str) -> Response:
    """Let another attribute say whom events are about, from the next event on."""
    account = auth.authenticate(tenant, models.ACCOUNT_MANAGE).account
    context: AppContext = current_app.extensions["context"]
    settings = context.settings
    body = read_body(
        request, limit=settings.max_event_bytes, seconds=settings.body_timeout, media_types=("application/json",)
    )
    try:
        key: str = _key_attribute_schema.load(read_object(body).value)["key"]
    except ValidationError as wrong:
        raise parser.invalid(wrong, {}) from None
    oauth_clients.update_account_details(context, account.snapshot.id, oauth_clients.AccountDetails(key_attribute=key))
    # This process answers by the new attribute from now on.
    current_app.extensions["accounts"].refresh(account, max_age=0)
    return auth.answer({"key": key})


@blueprint.get("/account")
def show_account() -> Response:
    """Who the token belongs to, and for how many seconds it opens what. Nobody here has an e-mail address."""
    caller = auth.authenticate(None)
    moment = current_app.extensions["context"].clock()
    ends = caller.key.expires_at
    return auth.answer(
        {
            "email": None,
            "name": caller.account.snapshot.name,
            "client-id": caller.key.client_id,
            "ttl": None if ends is None else (ends - moment) // timedelta(seconds=1),
            "tenants": [caller.account.snapshot.slug],
        }
    )


@blueprint.get("/account/tenants")
def list_tenants() -> Response:
    """The tenants that the token opens: one."""
    return auth.answer({"tenants": [_tenant(auth.authenticate(None).account)]})


def _tenant(account: Account) -> dict[str, Any]:
    return {"id": account.snapshot.slug, "name": account.snapshot.name}
