"""`POST …/listeners/LI1/receive`: what a third party posts in its own shape is mapped and goes the way of any event.

Whoever posts shows the listener's token, in the query (`?token=…`) where it cannot set headers, or as a Bearer token. As a
Bearer token any other will do that may send events; in a query, which people log, only what is good for nothing else.
"""

from __future__ import annotations

from flask import Blueprint, Response, current_app, request

from app.api.cxengage import auth
from app.api.cxengage.events import Origin, read_idempotency_key, receive_object
from app.api.request_body import read_body
from app.api.sender import Sender, check_open
from app.core.api_keys import prefix_of
from app.core.errors import Problem, ProblemType
from app.core.exact_json import ExactObject
from app.core.models import EVENTS_WRITE, Receipt
from app.ingest.account_cache import Account
from app.services.context import AppContext
from app.services.cxengage import crud, listeners
from app.services.cxengage.crud import LISTENERS
from app.services.cxengage.field_mapping import map_body

blueprint = Blueprint("cxengage_listeners", __name__)


@blueprint.post("/tenants/<tenant>/listeners/<name>/receive")
def receive(tenant: str, name: str) -> Response:
    """Take in one event by a listener."""
    context: AppContext = current_app.extensions["context"]
    in_query = request.args.get("token")
    token = in_query or auth.bearer_token()
    good = {listeners.scope_of(name)} if in_query else {EVENTS_WRITE, listeners.scope_of(name)}

    def check(account: Account) -> None:
        key = auth.check_caller(account, token, tenant, None)
        if good.isdisjoint(key.scopes):
            raise Problem(ProblemType.MISSING_SCOPE, f"The token is not that of the listener {name[:40]}.")
        check_open(account, context.clock())

    def after_accept(receipt: Receipt) -> None:
        if not receipt.duplicate:
            listeners.note_received(context, receipt.account_id, name, receipt.received_at)

    sender = Sender(prefix_of(token), check, auth.unauthorized)
    return receive_object(sender, lambda account: _read(context, account, name), after_accept)


def _read(context: AppContext, account: Account, name: str) -> tuple[ExactObject, Origin]:
    """The fields that the listener takes out of the request's body; raises Problem."""
    listener = crud.find_resource(context, account.snapshot.id, LISTENERS, name)
    if not listener.status:
        raise Problem(ProblemType.LISTENER_DISABLED, f"The listener {name} is switched off and takes no events.")
    idempotency_key = read_idempotency_key(account)
    settings = context.settings
    kind = request.mimetype if request.mimetype.endswith("+json") else "application/json"
    body = read_body(request, limit=settings.max_event_bytes, seconds=settings.body_timeout, media_types=(kind,))
    mapped = map_body(body, listener.mapping)
    return mapped.fields, Origin(f"listener:{name}", idempotency_key, body, mapped.warnings)
