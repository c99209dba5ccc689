"""`POST …/ticket` and `GET …/stream?ticket=…`: applications read the account's message stream.

The stream consists of Server-Sent Events (docs/cxengage-stream.md). A response ends after the messages that exist, and the
client connects again a second later: an open stream would occupy a connection of the web process for each client.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from uuid import UUID

import msgspec
import structlog
from flask import Blueprint, Response, request
from flask_limiter import RouteLimit

from app.api.bearer_limit import management_limit
from app.api.current import extension
from app.api.cxengage.auth import authenticate
from app.api.responses import json_bytes, json_response
from app.api.route_limits import client_address, limiter, start_limiter
from app.core.errors import LookupLimit, Problem, ProblemType, Unavailable
from app.core.ids import utc_text
from app.core.log_config import describe_exception
from app.core.models import EVENTS_READ, Message
from app.services import message_stream
from app.services.context import AppContext

# Milliseconds until the client reconnects; longer while Postgres is unavailable.
_RETRY, _RETRY_LATER = 1_000, 5_000
# Requests per minute of one ticket, or without a valid ticket of one address: a hundred clients that reconnect every second.
MAX_PER_MINUTE = 6_000
_NO_WEBSOCKET = (
    "WebSockets are not supported. This URL sends Server-Sent Events: read it by an EventSource or a GET request."
)
_log = structlog.get_logger()

blueprint = Blueprint("cxengage_stream", __name__)
blueprint.before_request(start_limiter)


@blueprint.post("/tenants/<tenant>/ticket")
@management_limit
def make_ticket(tenant: str) -> Response:
    """A ticket for the tenant's stream."""
    context: AppContext = extension("context")
    caller = authenticate(tenant, EVENTS_READ)
    made = message_stream.make_ticket(context, caller.account.snapshot.id, caller.key.prefix)
    response = json_response({"ticket": made.ticket, "ttl": made.ttl})
    return response


@blueprint.get("/tenants/<tenant>/stream")
def read_stream(tenant: str) -> Response:
    """The messages after the last one that the client received, or after its ticket was created."""
    context: AppContext = extension("context")
    if request.headers.get("Upgrade", "").lower() == "websocket":
        # Without a look at the ticket: CxEngage's clients open a WebSocket.
        return _refuse(Problem(ProblemType.MALFORMED_REQUEST, _NO_WEBSOCKET))
    # The ticket is checked before the limits, so that invalid requests never block a valid ticket, even if all come from
    # the address of one proxy.
    try:
        found = message_stream.read_stream(context, tenant, request.args.get("ticket", ""), _last_event_id())
    except LookupLimit:
        return _stream(_RETRY_LATER, ())
    except Unavailable as exc:
        _log.error("database unavailable for a message stream", error=describe_exception(exc))
        return _stream(_RETRY_LATER, ())
    except Problem as exc:
        return _refuse(exc)
    return _deliver(found)


def _ticket_key() -> str:
    return "ticket:" + hashlib.sha256(request.args["ticket"].encode()).hexdigest()


def _limit(key: Callable[[], str]) -> RouteLimit:
    # An EventSource never reconnects after a status other than 200.
    return limiter.limit(
        lambda: f"{MAX_PER_MINUTE}/minute", key_func=key, on_breach=lambda _: _stream(_RETRY_LATER, ())
    )


@_limit(client_address)
def _refuse(problem: Problem) -> Response:
    raise problem


@_limit(_ticket_key)
def _deliver(found: Iterable[Message]) -> Response:
    return _stream(_RETRY, found)


def _last_event_id() -> UUID | None:
    """The id of the last message that the client received, from the header or, for a new client, the query."""
    text = request.headers.get("Last-Event-ID") or request.args.get("last_event_id") or ""
    if not text:
        return None
    try:
        found = UUID(text)
    except ValueError:
        found = UUID(int=0)
    if found.version != 7:
        raise Problem(ProblemType.VALIDATION_FAILED, "Last-Event-ID is not the id of a message.")
    return found


def _stream(retry: int, found: Iterable[Message]) -> Response:
    parts = [f"retry: {retry}\n\n".encode()]
    for message in found:
        fields = {
            "id": str(message.id),
            "text": message.text,
            "data": msgspec.Raw(message.data_json.encode()),
            "distinct_id": message.distinct_id,
            "run": str(message.run_id),
            "created_at": utc_text(message.created_at),
        }
        parts.append(b"id: %b\ndata: %b\n\n" % (str(message.id).encode(), json_bytes(fields)))
    response = Response(b"".join(parts), content_type="text/event-stream; charset=utf-8")
    # Only the ticket gives access, no cookie does: pages of any origin may read the stream.
    response.headers["Access-Control-Allow-Origin"] = "*"
    return response
