"""CxEngage's REST receiver: `GET /version`, `POST …/event` and `GET …/event/history`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec
from flask import Blueprint, Flask, Response, request

from app.api.bearer_limit import management_limit
from app.api.current import extension
from app.api.cxengage import auth
from app.api.request_body import read_json
from app.api.responses import json_response
from app.api.route_limits import start_limiter
from app.api.sender import Sender, accept_event, read_event, receive, recheck
from app.core import models
from app.core.api_keys import prefix_of
from app.core.errors import Problem
from app.core.exact_json import ExactObject, object_text
from app.core.ids import cxengage_id
from app.core.models import RECEIVER, Event, Receipt
from app.ingest.account_cache import Account, AccountCache, check_open
from app.ingest.cxengage.event_builder import Origin, build_event
from app.ingest.enrichment import Enricher
from app.ingest.enrichment_budget import ApiBudget
from app.ingest.limechat.parser import load
from app.ingest.limechat.schemas import HeadersSchema
from app.services import inspection
from app.services.context import AppContext

VERSION = b"1.0"
_HISTORY = 10
_KEY = HeadersSchema(only=("idempotency_key",))

blueprint = Blueprint("cxengage_events", __name__)
blueprint.before_request(start_limiter)


def register(app: Flask) -> None:
    """Serve the receiver under both prefixes, and the version without a prefix."""
    app.add_url_rule("/version", view_func=show_version, methods=["GET"])
    auth.register(app, [blueprint])


def show_version() -> Response:
    """The version of the receiver, without authentication."""
    return Response(VERSION, content_type="application/json")


@blueprint.post("/tenants/<tenant>/event")
def receive_event(tenant: str) -> Response:
    """Accept one event."""
    context: AppContext = extension("context")
    token = auth.bearer_token()

    def check(account: Account) -> None:
        auth.check_caller(account, token, tenant, models.EVENTS_WRITE)
        check_open(account, context.clock())

    sender = Sender(prefix_of(token), check, auth.unauthorized)
    return receive(sender, lambda account: accept_object(account, sender, partial(_read, context)))


def accept_object(
    account: Account,
    sender: Sender,
    read: Callable[[Account], tuple[ExactObject, Origin]],
    after_accept: Callable[[Receipt], None] = lambda receipt: None,
) -> Response:
    """Accept the JSON object that `read` takes from the request, then call `after_accept`. Raises Problem.

    The event depends on the account's attribute names and augments: it is built again for each newer snapshot, and refused
    only by the current one.
    """
    context: AppContext = extension("context")
    accounts: AccountCache = extension("accounts")
    enricher: Enricher = extension("enricher")
    request_parts: tuple[ExactObject, Origin] | None = None
    budget = ApiBudget()

    def build(account: Account) -> Event:
        nonlocal request_parts
        request_parts = request_parts or read(account)
        exact, origin = request_parts
        try:
            return build_event(account, exact, context.clock(), origin, enricher.enrich(account, exact, budget))
        except Problem:
            current = recheck(accounts, account, sender, max_age=0)
            if current is None or current.snapshot.version == account.snapshot.version:
                raise
            return build_event(current, exact, context.clock(), origin, enricher.enrich(current, exact, budget))

    receipt = accept_event(account, sender, build)
    assert request_parts is not None
    after_accept(receipt)
    return _success(receipt, *request_parts)


def _read(context: AppContext, account: Account) -> tuple[ExactObject, Origin]:
    """The object in the request's body, and its origin; raises Problem."""
    idempotency_key, is_webhook_id = read_idempotency_key()
    body = read_json(request, context.settings)
    return read_event(account, body), Origin(RECEIVER, idempotency_key, is_webhook_id, body)


def read_idempotency_key() -> tuple[str | None, bool]:
    """The idempotency key of the request, and whether it is a `webhook-id`; raises Problem 422 for an unusable one."""
    key = request.headers.get("Idempotency-Key")
    sent = request.headers.get("webhook-id") if key is None else key
    return None if sent is None else str(load(_KEY, {"Idempotency-Key": sent})["idempotency_key"]), key is None


def _success(receipt: Receipt, exact: ExactObject, origin: Origin) -> Response:
    sent = origin.body.strip() if origin.via == RECEIVER else object_text(exact.raw).encode()
    return json_response(
        {
            "event": msgspec.Raw(sent),
            "key-attr": receipt.distinct_id,
            "id": cxengage_id(receipt.account_id, receipt.id),
            "contributing?": receipt.contributing,
        }
    )


@blueprint.get("/tenants/<tenant>/event/history")
@management_limit
def show_history(tenant: str) -> Response:
    """The last events that the receiver accepted."""
    account = auth.authenticate(tenant, models.EVENTS_READ).account
    context: AppContext = extension("context")
    history: list[dict[str, Any]] = [
        {
            "event": msgspec.Raw(received.data_json.encode()),
            "key-attr": received.distinct_id,
            "id": cxengage_id(account.snapshot.id, received.id),
            "return-address": f"SV{account.snapshot.id}.",
            "contributing": received.contributing,
        }
        for received in inspection.latest_received(context, account.snapshot.id, _HISTORY)
    ]
    return json_response({"history": history})
