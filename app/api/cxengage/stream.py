"""`POST /1.0/tenants/T/ticket` and `GET /1.0/tenants/T/stream?ticket=…`: applications listen to what workflows say.

Comes in: a request with a Bearer token for the ticket, one with the ticket for the stream. Goes out: the ticket, or the messages
that are there, as Server-Sent Events (docs/cxengage-stream.md). An answer ends when it has told what is there, and the client
comes again a second later: a stream that stayed open would hold on to a web process's connection for each listener.
"""

from __future__ import annotations

from collections.abc import Iterable
from uuid import UUID

import msgspec
import structlog
from flask import Blueprint, Response, current_app, request

from app.api.cxengage.auth import answer, authenticate
from app.api.errors import json_bytes
from app.core.errors import Problem, ProblemType, Unavailable
from app.core.models import EVENTS_READ, Message
from app.core.timestamps import utc_text
from app.services import message_stream
from app.services.context import AppContext

# Milliseconds until the client comes again; more while Postgres is away.
_RETRY, _RETRY_LATER = 1_000, 5_000
_log = structlog.get_logger()

blueprint = Blueprint("cxengage_stream", __name__)


@blueprint.post("/tenants/<tenant>/ticket")
def make_ticket(tenant: str) -> Response:
    """A ticket for the tenant's stream."""
    context: AppContext = current_app.extensions["context"]
    caller = authenticate(tenant, EVENTS_READ)
    made = message_stream.make_ticket(context, caller.account.snapshot.id, caller.key.prefix)
    response = answer({"ticket": made.ticket, "ttl": made.ttl})
    response.headers["Cache-Control"] = "no-store"
    return response


@blueprint.get("/tenants/<tenant>/stream")
def read_stream(tenant: str) -> Response:
    """The messages after the last one that the client knows, or after its ticket was made."""
    context: AppContext = current_app.extensions["context"]
    try:
        found = message_stream.read_stream(context, tenant, request.args.get("ticket", ""), _last_known())
    except Unavailable as trouble:
        # By any other status than 200 an EventSource would never come again.
        _log.error("Postgres cannot be asked for a stream", error=str(trouble)[:300])
        return _stream(_RETRY_LATER, ())
    return _stream(_RETRY, found)


def _last_known() -> UUID | None:
    """The id of the last message that the client has: the header, or for one that starts anew the parameter."""
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
    for one in found:
        told = {
            "id": str(one.id),
            "text": one.text,
            "data": msgspec.Raw(one.data_json.encode()),
            "distinct_id": one.distinct_id,
            "run": str(one.run_id),
            "created_at": utc_text(one.created_at),
        }
        parts.append(b"id: %b\ndata: %b\n\n" % (str(one.id).encode(), json_bytes(told)))
    response = Response(b"".join(parts), content_type="text/event-stream; charset=utf-8")
    # The ticket is all that opens it, and no cookie does: pages from anywhere may listen.
    response.headers.update({"Cache-Control": "no-store", "Access-Control-Allow-Origin": "*"})
    return response
