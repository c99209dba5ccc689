"""`POST /api/v1/cvf-events/batch`: many LimeChat custom events in one request, as a JSON array or as lines.

Comes in: the HTTP request. Goes out: what became of each event, after the commit of all that were good; or a problem
document, and then nothing was stored (docs/receiving.md).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from flask import Blueprint, Response, current_app, request

from app.api import errors
from app.api.limechat.events import Headers, read_headers, sender_of
from app.api.request_body import read_body
from app.api.sender import authenticate, check_allowance, recheck, take_from_plan
from app.core.errors import Problem, ProblemType, Unavailable
from app.core.models import Event
from app.ingest.accept_batch import BatchReceipt, accept_batch
from app.ingest.account_cache import Account, AccountCache
from app.ingest.limechat.batch_items import read_item, split_array, split_lines
from app.ingest.limechat.parser import check_headers
from app.services.context import AppContext

LINES = "application/x-ndjson"
_MOST_SAID = 5
# Behind the batch's own key come a sign and the number of the item.
_LONGEST_KEY = 240

blueprint = Blueprint("cvf_batches", __name__)


@dataclass(frozen=True, slots=True)
class ReceivedBatch:
    """The items of a request's body; `item` finds the text of one by its number."""

    account_id: int
    count: int
    item: Callable[[int], bytes]
    idempotency_key: str | None
    most_bytes: int

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
            most_bytes=self.most_bytes,
        )


@blueprint.post("/api/v1/cvf-events/batch")
def receive_batch() -> Response:
    """Accept many events."""
    context: AppContext = current_app.extensions["context"]
    accounts: AccountCache = current_app.extensions["accounts"]
    headers = read_headers(request.environ)
    sender = sender_of(context, headers)
    account = authenticate(accounts, sender)
    allowance = None
    try:
        try:
            batch = _received(context, account, headers)
        except Problem:
            allowance = take_from_plan(account)
            raise
        allowance = take_from_plan(account, max(1, len(batch)))
        check_allowance(allowance)
        receipt = accept_batch(context, accounts, account, batch, sender.check)
        if not receipt.accepted:
            recheck(accounts, account, sender)
        response = _told(receipt)
        accounts.record_key_use(sender.prefix)
    except Problem as problem:
        recheck(accounts, account, sender)
        response = errors.problem_response(problem)
        accounts.record_key_use(sender.prefix)
    except Unavailable as exc:
        response = errors.problem_response(errors.unavailable(exc))
    if allowance is not None:
        response.headers.update(allowance.headers())
    return response


def _received(context: AppContext, account: Account, headers: Headers) -> ReceivedBatch:
    """The batch in the request's body; raises Problem."""
    settings = context.settings
    check_headers(headers.account_id, headers.idempotency_key)
    if headers.idempotency_key is not None and len(headers.idempotency_key) > _LONGEST_KEY:
        message = f"has {len(headers.idempotency_key)} characters; that of a batch has to have 1 to {_LONGEST_KEY}"
        errors = [{"field": "Idempotency-Key", "message": message}]
        raise Problem(ProblemType.VALIDATION_FAILED, f"Idempotency-Key {message}", errors=errors)
    body = read_body(
        request,
        limit=settings.max_batch_bytes,
        unpacked_limit=settings.max_batch_unpacked_bytes,
        seconds=settings.body_timeout,
        media_types=("application/json", LINES),
    )
    count, item = _items(body, settings.max_batch_events, lines=request.mimetype == LINES)
    return ReceivedBatch(account.snapshot.id, count, item, headers.idempotency_key, settings.max_event_bytes)


def _items(body: bytes, most: int, *, lines: bool) -> tuple[int, Callable[[int], bytes]]:
    """How many items a body has, and what gives the text of one by its number."""
    if lines:
        spans = split_lines(body, most)
        return len(spans), lambda number: body[slice(*spans[number])].rstrip()
    parts = split_array(body, most)
    return len(parts), lambda number: bytes(parts[number])


def _told(receipt: BatchReceipt) -> Response:
    """200 when all went in, 207 when some were refused."""
    told = {
        "accepted": receipt.accepted,
        "duplicates": receipt.duplicates,
        "ids": [None if event_id is None else str(event_id) for event_id in receipt.ids],
        "errors": [error for number, problem in receipt.refused.items() for error in _errors(number, problem)],
    }
    status = 207 if receipt.refused else 200
    return Response(errors.json_bytes(told), status, content_type="application/json")


def _errors(number: int, problem: Problem) -> list[dict[str, Any]]:
    """What is wrong with an item; `field` is null where that is the item as a whole."""
    if not problem.errors:
        message = problem.detail.replace("The body", "The event", 1)
        return [{"index": number, "field": None, "message": message}]
    return [
        {"index": number, "field": error["field"], "message": error["message"]} for error in problem.errors[:_MOST_SAID]
    ]
