"""`POST /api/v1/cvf-events/batch`: accepts many LimeChat custom events, as a JSON array or as lines (docs/receiving.md)."""

from __future__ import annotations

from contextlib import suppress
from functools import cache, partial
from typing import Any

from flask import Blueprint, Response, request

from app.api.current import extension
from app.api.limechat.events import Headers, read_headers, sender_of
from app.api.observation import count_refused_items
from app.api.refusals import keep_refused_items
from app.api.request_body import LargeBodies, read_body
from app.api.responses import json_response
from app.api.sender import receive, recheck, stores_unusable_phone, take_from_plan
from app.core.errors import Problem
from app.ingest.accept_batch import BatchReceipt, accept_batch
from app.ingest.account_cache import Account, AccountCache
from app.ingest.limechat.received_batch import LINES, ReceivedBatch, split_body
from app.ingest.limechat.schemas import BatchHeadersSchema
from app.services.context import AppContext

_MAX_ERRORS = 5
_headers_schema = BatchHeadersSchema()

blueprint = Blueprint("limechat_batch", __name__)


@blueprint.post("/api/v1/cvf-events/batch")
def receive_batch() -> Response:
    """Accept many events."""
    context: AppContext = extension("context")
    accounts: AccountCache = extension("accounts")
    headers = read_headers(request.environ, _headers_schema)
    sender = sender_of(context, headers)

    def accept(account: Account) -> Response:
        with LargeBodies(context.limits.large_bodies, account.snapshot.id) as bodies:
            return accept_batch_of(account, bodies)

    def accept_batch_of(account: Account, bodies: LargeBodies) -> Response:
        try:
            batch = _read_batch(context, account, headers, bodies)
        except Problem:
            # The RateLimit headers go with this refusal, even when the limit is reached.
            with suppress(Problem):
                take_from_plan(account)
            raise
        take_from_plan(account, max(1, len(batch)))
        receipt = accept_batch(context, accounts, account, batch, sender.check)
        if not receipt.accepted:
            recheck(accounts, account, sender)
        if receipt.refused:
            count_refused_items(receipt.refused.values())
            keep_refused_items(account, sender.prefix, batch, receipt)
        return _success(receipt)

    return receive(sender, accept)


def _read_batch(context: AppContext, account: Account, headers: Headers, bodies: LargeBodies) -> ReceivedBatch:
    """The batch in the request's body; raises Problem."""
    settings = context.settings
    headers.check()
    body = read_body(
        request,
        limit=settings.max_batch_bytes,
        unpacked_limit=settings.max_batch_unpacked_bytes,
        seconds=settings.body_timeout,
        media_types=("application/json", LINES),
        check=bodies.check,
    )
    with context.limits.bodies.acquire(account.snapshot.id):
        count, item = split_body(
            body, settings.max_batch_events, settings.max_event_bytes, lines=request.mimetype == LINES
        )
    return ReceivedBatch(
        account.snapshot.id,
        count,
        item,
        headers.idempotency_key,
        settings.max_event_bytes,
        headers.is_webhook_id,
        cache(partial(stores_unusable_phone, account)),
    )


def _success(receipt: BatchReceipt) -> Response:
    """200 when all items were accepted, 207 when some were refused."""
    body = {
        "accepted": receipt.accepted,
        "duplicates": receipt.duplicates,
        "ids": receipt.ids,
        "errors": [error for number, problem in receipt.refused.items() for error in _errors(number, problem)],
    }
    return json_response(body, 207 if receipt.refused else 200)


def _errors(number: int, problem: Problem) -> list[dict[str, Any]]:
    """The faults of an item; `field` is null for a fault of the item as a whole."""
    if not problem.errors:
        message = problem.detail.replace("The body", "The event", 1)
        return [{"index": number, "field": None, "message": message}]
    return [
        {"index": number, "field": error["field"], "message": error["message"]}
        for error in problem.errors[:_MAX_ERRORS]
    ]
