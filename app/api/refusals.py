"""Keeps what refused requests of authenticated senders have sent, after the response has left."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import structlog
from flask import Response, after_this_request, request
from msgspec import Struct

from app.api.current import extension
from app.api.rate_limit import RateLimiter, Windows
from app.api.request_body import SentBody, read_sent_body
from app.api.responses import request_id
from app.core.config import Settings
from app.core.errors import Problem
from app.core.exact_json import make_storable, replace_unstorable
from app.core.idempotency_keys import is_idempotency_key
from app.core.ids import uuid7
from app.core.log_config import describe_exception
from app.core.pacing import pause_if_due
from app.db.refusals import SHOWN_HOOK, NewRefusal
from app.ingest.accept_batch import BatchReceipt
from app.ingest.account_cache import Account
from app.ingest.limechat.received_batch import ReceivedBatch
from app.ingest.refusals import RefusalKeeper
from app.services.context import AppContext

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

_KEPT = frozenset({400, 403, 413, 415, 422, 429})
_RATE_LIMITED = 429
_BATCH, _HOOKS = "/batch", "/hooks/"
# Refusals of an account that are kept in as many seconds.
_MAX_PER_SECOND, _MINUTE = 20, 60
_MAX_DETAIL, _MAX_MESSAGE, _MAX_NAME = 4_000, 500, 300
_MAX_ERRORS, _MAX_ITEM_ERRORS = 50, 5
_log = structlog.get_logger()

# The refused items of a batch as JSON (None: the request was refused as a whole), and the body.
Content = tuple[str | None, SentBody]
ReadContent = Callable[["WSGIEnvironment"], Content]


class RefusalLimits:
    """At most 20 refusals of an account a second, and one 429 a minute; over all web processes where Redis counts."""

    def __init__(self, limiter: RateLimiter) -> None:
        self._limiter = limiter
        self._windows = Windows()

    def allow(self, account_id: int, status: int) -> bool:
        """Whether one more is kept."""
        name, maximum, seconds = f"signalbox:refusals:{account_id}", _MAX_PER_SECOND, 1
        if status == _RATE_LIMITED:
            name, maximum, seconds = f"signalbox:limited:{account_id}", 1, _MINUTE
        return self._windows.count(name, 1, seconds) <= maximum and self._limiter.count_shared(name, seconds) <= maximum


def keep_refusal(account: Account, key_prefix: str, problem: Problem) -> None:
    """Keep the current request, which is refused with `problem`, and its body."""
    if problem.status in _KEPT:
        settings = extension("context").settings
        _keep_after_response(account, key_prefix, problem, partial(_whole_body, settings))


def keep_refused_items(account: Account, key_prefix: str, batch: ReceivedBatch, receipt: BatchReceipt) -> None:
    """Keep the refused items of the current request, a batch, in one row."""
    index, first = next(iter(receipt.refused.items()))
    detail = f"{len(receipt.refused)} of {len(batch)} events were refused. Event {index}: {first.detail}"
    _keep_after_response(
        account, key_prefix, Problem(first.type, detail), lambda environ: _refused_items(batch, receipt)
    )


def _keep_after_response(account: Account, key_prefix: str, problem: Problem, read: ReadContent) -> None:
    """Have the current request kept once its response was sent; `read` gives its refused items and its body."""
    keeper: RefusalKeeper = extension("refusals")
    limits: RefusalLimits = extension("refusal_limits")
    context: AppContext = extension("context")
    environ, account_id = request.environ, account.snapshot.id
    refused = _Request(account_id, key_prefix, problem, shown_path(request.path), request_id(), context.clock())

    def keep(status: int) -> None:
        try:
            if limits.allow(account_id, problem.status):
                keeper.keep(_refusal(refused, status, environ, *read(environ)))
            else:
                keeper.count_not_kept(account_id)
        except Exception as exc:
            _log.error("a refusal was not kept", error=describe_exception(exc), request_id=refused.request_id)

    def attach(response: Response) -> Response:
        response.call_on_close(partial(keep, response.status_code))
        return response

    after_this_request(attach)


def shown_path(path: str) -> str:
    """The path of a request without the token of a source."""
    return SHOWN_HOOK if path.startswith(_HOOKS) else path


class _Request(Struct, frozen=True):
    """What of a refused request is known before its response is sent."""

    account_id: int
    key_prefix: str
    problem: Problem
    path: str
    request_id: str
    refused_at: datetime


def _refusal(refused: _Request, status: int, environ: WSGIEnvironment, items: str | None, sent: SentBody) -> NewRefusal:
    problem = refused.problem
    key, is_webhook_id = environ.get("HTTP_IDEMPOTENCY_KEY"), "HTTP_IDEMPOTENCY_KEY" not in environ
    key = environ.get("HTTP_WEBHOOK_ID") if is_webhook_id else key
    has_key = is_idempotency_key(key)
    content_type = environ.get("CONTENT_TYPE")
    return NewRefusal(
        account_id=refused.account_id,
        id=uuid7(refused.refused_at),
        refused_at=refused.refused_at,
        route=_storable(refused.path, _MAX_NAME),
        key_prefix=refused.key_prefix,
        status=status,
        type=problem.type.slug,
        detail=_storable(problem.detail, _MAX_DETAIL),
        errors=None if problem.errors is None else _json(_bounded(problem.errors[:_MAX_ERRORS])),
        items=items,
        request_id=refused.request_id,
        idempotency_key=key if has_key else None,
        is_webhook_id=has_key and is_webhook_id,
        content_type=_storable(content_type, _MAX_NAME) if content_type else None,
        content_encoding=sent.encoding and _storable(sent.encoding, _MAX_NAME),
        body=sent.text,
        body_bytes=len(sent.text or b""),
        replayable=sent.is_complete and refused.path != SHOWN_HOOK,
    )


def _whole_body(settings: Settings, environ: WSGIEnvironment) -> Content:
    path = environ.get("PATH_INFO", "")
    is_large = path.endswith(_BATCH) or shown_path(path) == SHOWN_HOOK
    limit = settings.max_batch_bytes if is_large else settings.max_event_bytes
    return None, read_sent_body(environ, limit=limit, seconds=settings.body_timeout)


def _refused_items(batch: ReceivedBatch, receipt: BatchReceipt) -> Content:
    """The refused items, with their positions in the body, which consists of them alone."""
    items, texts, start = [], [], 0
    for index, problem in receipt.refused.items():
        pause_if_due()
        text = batch.item(index)
        item = {
            "index": index,
            "type": problem.type.slug,
            "detail": _storable(problem.detail, _MAX_MESSAGE),
            "errors": problem.errors and _bounded(problem.errors[:_MAX_ITEM_ERRORS]),
            "start": start,
            "bytes": len(text),
        }
        items.append(_json(item))
        texts.append(text)
        start += len(text) + 1
    return f"[{','.join(items)}]", SentBody(b"\n".join(texts), True)


def _bounded(errors: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Errors with shortened texts: a path may be as long as a body."""
    return [{name: str(text)[:_MAX_MESSAGE] for name, text in error.items()} for error in errors]


def _storable(text: str, maximum: int) -> str:
    return replace_unstorable(text[:maximum])


def _json(value: object) -> str:
    return json.dumps(make_storable(value), ensure_ascii=False)
