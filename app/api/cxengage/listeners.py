"""Manages listeners, and receives what third parties post to them: `/tenants/<tenant>/listeners`.

Where a source names the listener, what is posted is a delivery to that source.

A third party authenticates with the listener's token, in the query (`?token=…`) or as a Bearer token. Only a Bearer token may
also be any other token with the scope `events:write`: queries are often logged.
"""

from __future__ import annotations

from typing import Any

import msgspec
from flask import Blueprint, Response, request

from app.api.bearer_limit import management_limit
from app.api.current import extension
from app.api.cxengage import auth, schemas
from app.api.cxengage.events import accept_object, read_idempotency_key
from app.api.cxengage.resources import app_context, authorize, list_response, read_fields
from app.api.hooks import accept_delivery
from app.api.request_body import read_body
from app.api.responses import json_response
from app.api.route_limits import start_limiter
from app.api.sender import Sender, receive, recheck
from app.core.api_keys import prefix_of
from app.core.errors import Problem, ProblemType
from app.core.exact_json import ExactObject
from app.core.ids import utc_text
from app.core.models import EVENTS_WRITE, Receipt
from app.db.cxengage_resources import LISTENERS, ListenerRow
from app.ingest.account_cache import Account, check_open
from app.ingest.cxengage.event_builder import Origin, map_body
from app.ingest.sources.accept_delivery import find_source_of_listener
from app.services.context import AppContext
from app.services.cxengage import crud, listeners
from app.services.cxengage.listeners import NewListener

blueprint = Blueprint("cxengage_listeners", __name__)
blueprint.before_request(start_limiter)
_schema = schemas.ListenerSchema()
# Members that only creating a listener returns, and all that are not kept as further members.
_RETURNED_ONCE = ("token", "receive")
_NAMED = frozenset((*_schema.fields, *_RETURNED_ONCE))


@blueprint.get("/tenants/<tenant>/listeners")
@management_limit
def list_listeners(tenant: str) -> Response:
    """All listeners, or a page of them."""
    return list_response(tenant, LISTENERS, _to_json)


@blueprint.post("/tenants/<tenant>/listeners")
@management_limit
def create_listener(tenant: str) -> Response:
    """Create a listener; only this response and that of `POST …/token` contain its token."""
    context, account_id = authorize(tenant)
    values, more = _load(None)
    return json_response(_new_to_json(tenant, listeners.create_listener(context, account_id, values, more)), 201)


@blueprint.get("/tenants/<tenant>/listeners/<name>")
@management_limit
def show_listener(tenant: str, name: str) -> Response:
    """One listener."""
    return json_response(_to_json(crud.find_resource(*authorize(tenant), LISTENERS, name)))


@blueprint.put("/tenants/<tenant>/listeners/<name>")
@management_limit
def change_listener(tenant: str, name: str) -> Response:
    """Change a listener."""
    context, account_id = authorize(tenant)
    values, more = _load(name)
    return json_response(_to_json(listeners.change_listener(context, account_id, name, values, more)))


@blueprint.delete("/tenants/<tenant>/listeners/<name>")
@management_limit
def delete_listener(tenant: str, name: str) -> Response:
    """Delete a listener and revoke its token."""
    listeners.delete_listener(*authorize(tenant), name)
    return Response(status=204)


@blueprint.post("/tenants/<tenant>/listeners/<name>/token")
@management_limit
def renew_token(tenant: str, name: str) -> Response:
    """Replace the token of a listener."""
    return json_response(_new_to_json(tenant, listeners.renew_token(*authorize(tenant), name)), 201)


@blueprint.get("/tenants/<tenant>/listeners/<name>/status")
@management_limit
def show_listener_status(tenant: str, name: str) -> Response:
    """Whether a listener takes events, how many it has received, and when the last one."""
    row = crud.find_resource(*authorize(tenant), LISTENERS, name)
    last = None if row.last_received_at is None else utc_text(row.last_received_at)
    count = "1 event" if row.received == 1 else f"{row.received} events"
    return json_response(
        {
            "id": f"LI{row.number}",
            "status": "started" if row.status else "stopped",
            "message": "no event yet" if last is None else f"{count}, the last at {last}",
            "received": row.received,
            "last-received-at": last,
        }
    )


def _load(existing: str | None) -> tuple[dict[str, Any], dict[str, str]]:
    """The named fields of a listener, and the further members as JSON texts."""
    exact = read_fields()
    for name in _RETURNED_ONCE:
        if name in exact.value:
            raise Problem(ProblemType.VALIDATION_FAILED, f"{name}: cannot be set; POST …/token creates a new token")
    values = schemas.load(_schema, exact.value, existing=existing)
    if "options" in values:
        values.pop("options")
        values["options_json"] = exact.raw.get("options", "{}")
        size = len(values["options_json"].encode())
        if size > listeners.MAX_JSON:
            raise Problem(
                ProblemType.VALIDATION_FAILED,
                f"options: has {size} bytes as JSON; at most {listeners.MAX_JSON} are allowed",
            )
    return values, {name: text for name, text in exact.raw.items() if name not in _NAMED}


def _to_json(row: ListenerRow) -> dict[str, Any]:
    return {
        **msgspec.json.decode(row.more_json, type=dict[str, msgspec.Raw]),
        "id": f"LI{row.number}",
        "name": row.name,
        "description": row.description,
        "type": row.type,
        "status": row.status,
        "mapping": row.mapping,
        "options": msgspec.Raw(row.options_json.encode()),
    }


def _new_to_json(tenant: str, new: NewListener) -> dict[str, Any]:
    listener = _to_json(new.row)
    receive_path = f"/1.0/tenants/{tenant}/listeners/{listener['id']}/receive?token={new.token}"
    return {**listener, "token": new.token, "receive": receive_path}


@blueprint.post("/tenants/<tenant>/listeners/<name>/receive")
def receive_post(tenant: str, name: str) -> Response:
    """Accept one event from a third party, or a delivery to the source of the listener."""
    context = app_context()
    in_query = request.args.get("token")
    token = in_query or auth.bearer_token()
    allowed = {listeners.scope_of(name)} if in_query else {EVENTS_WRITE, listeners.scope_of(name)}

    def check(account: Account) -> None:
        key = auth.check_caller(account, token, tenant, None)
        if allowed.isdisjoint(key.scopes):
            raise Problem(ProblemType.MISSING_SCOPE, f"The token is not valid for the listener {name[:40]}.")
        check_open(account, context.clock())

    def after_accept(receipt: Receipt) -> None:
        if not receipt.duplicate:
            listeners.count_received(context, receipt.account_id, name, receipt.received_at)

    sender = Sender(prefix_of(token), check, auth.unauthorized)

    def accept(account: Account) -> Response:
        listener = listeners.find_enabled(context, account.snapshot.id, name)
        # The write would detect a stale snapshot when the body has been read for the listener.
        account = recheck(extension("accounts"), account, sender, max_age=0) or account
        if (source_id := find_source_of_listener(account, name)) is not None:
            return accept_delivery(context, account, sender, source_id)
        return accept_object(account, sender, lambda account: _read(context, listener), after_accept)

    return receive(sender, accept)


def _read(context: AppContext, listener: ListenerRow) -> tuple[ExactObject, Origin]:
    """The fields that the listener maps from the request's body; raises Problem."""
    idempotency_key, is_webhook_id = read_idempotency_key()
    settings = context.settings
    media_type = request.mimetype if request.mimetype.endswith("+json") else "application/json"
    body = read_body(request, limit=settings.max_event_bytes, seconds=settings.body_timeout, media_types=(media_type,))
    mapped = map_body(body, listener.mapping)
    return mapped.fields, Origin(f"listener:LI{listener.number}", idempotency_key, is_webhook_id, body, mapped.warnings)
