"""`POST /api/v1/cvf-events/batch`: accepts many LimeChat custom events, as a JSON array or as lines (docs/receiving.md)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import cache, partial
from typing import Any
from uuid import UUID

from flask import Blueprint, Response, current_app, request

from app.api.limechat.events import Headers, read_headers, sender_of
from app.api.request_body import read_body
from app.api.responses import json_response
from app.api.sender import receive, recheck, stores_unusable_phone, take_from_plan
from app.core.errors import Problem
from app.core.models import Event
from app.ingest.accept_batch import BatchReceipt, accept_batch
from app.ingest.account_cache import Account, AccountCache
from app.ingest.limechat.batch_items import read_item, split_array, split_lines
from app.ingest.limechat.schemas import BatchHeadersSchema
from app.services.context import AppContext

LINES = "application/x-ndjson"
_MAX_ERRORS = 5
_headers_schema = BatchHeadersSchema()

blueprint = Blueprint("cvf_batches", __name__)


@dataclass(frozen=True, slots=True)
class ReceivedBatch:
    """The items of a request's body; `item` gives the text of one by its number."""

    account_id: int
    count: int
    item: Callable[[int], bytes]
    idempotency_key: str | None
    max_bytes: int
    is_webhook_id: bool = False
    stores_unusable_phone: Callable[[], bool] = lambda: False

    def __len__(self) -> int:
        return self.count

    def read(self, number: int, event_id: UUID, received_at: datetime) -> Event:
        """An item as an event; raises Problem."""
        return read_item(
            self.item(number),
            account_id=self.account_id,
            event_id=event_id,
            received_at=received_at,
            idempotency_key=None if self.idempotency_key is None else f"{self.idempotency_key}#{number}",
            is_webhook_id=self.is_webhook_id,
            max_bytes=self.max_bytes,
            stores_unusable_phone=self.stores_unusable_phone,
        )


@blueprint.post("/api/v1/cvf-events/batch")
def receive_batch() -> Response:
    """Accept many events."""
    context: AppContext = current_app.extensions["context"]
    accounts: AccountCache = current_app.extensions["accounts"]
    headers = read_headers(request.environ, _headers_schema)
    sender = sender_of(context, headers)

    def accept(account: Account) -> Response:
        try:
            batch = _read_batch(context, account, headers)
        except Problem:
            # The RateLimit headers go with this refusal, even when the limit is reached.
            with suppress(Problem):
                take_from_plan(account)
            raise
        take_from_plan(account, max(1, len(batch)))
        receipt = accept_batch(context, accounts, account, batch, sender.check)
        if not receipt.accepted:
            recheck(accounts, account, sender)
        return _success(receipt)

    return receive(sender, accept)


def _read_batch(context: AppContext, account: Account, headers: Headers) -> ReceivedBatch:
    """The batch in the request's body; raises Problem."""
    settings = context.settings
    headers.check()
    body = read_body(
        request,
        limit=settings.max_batch_bytes,
        unpacked_limit=settings.max_batch_unpacked_bytes,
        seconds=settings.body_timeout,
        media_types=("application/json", LINES),
    )
    count, item = _split(body, settings.max_batch_events, lines=request.mimetype == LINES)
    return ReceivedBatch(
        account.snapshot.id,
        count,
        item,
        headers.idempotency_key,
        settings.max_event_bytes,
        headers.is_webhook_id,
        cache(partial(stores_unusable_phone, account)),
    )


def _split(body: bytes, max_items: int, *, lines: bool) -> tuple[int, Callable[[int], bytes]]:
    """The number of items in a body, and a function that gives the text of one by its number."""
    if lines:
        spans = split_lines(body, max_items)
        return len(spans), lambda number: body[slice(*spans[number])].rstrip()
    parts = split_array(body, max_items)
    return len(parts), lambda number: bytes(parts[number])


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
