"""Requests of the management API: each is carried out in one transaction, and once for its Idempotency-Key."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass
from typing import TypeVar

import sqlalchemy as sa

from app.core.errors import Problem, ProblemType
from app.db import accounts, stored_answers
from app.db.stored_answers import RequestKey, StoredAnswer
from app.services.context import AppContext

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer as it is sent. `headers`: those that are repeated with it."""

    status: int
    headers: dict[str, str]
    body: str
    is_repeated: bool = False


def change_account(context: AppContext, account_id: int, change: Callable[[AppContext], T]) -> T:
    """Call `change` in one transaction that locks the account: what it reads does not change until it has written. The
    transactions of the use cases that it calls are parts of this one."""
    with context.database.transaction() as connection:
        accounts.lock_account(connection, account_id)
        return change(_joined(context, connection))


def answer_once(
    context: AppContext, wanted: RequestKey, digest: str, handle: Callable[[AppContext], Answer], *, is_atomic: bool
) -> Answer:
    """The answer that is kept for a key; otherwise that of `handle`, which is kept. What `handle` raises is not kept.

    `is_atomic`: `handle` writes in the transaction that keeps the answer. Otherwise it has transactions of its own, since it
    needs several: when the process dies before the answer is kept, the next request calls it again. Raises Problem 422 when the
    key was used for another request, 409 while its request is being handled, and 429 when too many answers are kept.
    """
    with context.database.transaction() as connection:
        if not stored_answers.lock_key(connection, wanted):
            raise Problem(
                ProblemType.CONFLICT,
                "A request with this Idempotency-Key is being handled. Retry later.",
                headers={"Retry-After": "1"},
            )
        known = stored_answers.find_answer(connection, wanted, context.clock())
        if known is not None:
            return _repeat(context, known, digest)
        _check_kept(context, connection, wanted)
        answer = handle(_joined(context, connection) if is_atomic else context)
        encrypt = context.secrets.encrypt
        stored = StoredAnswer(encrypt(digest), answer.status, answer.headers, encrypt(answer.body))
        stored_answers.store_answer(connection, wanted, stored, context.clock())
    return answer


def _check_kept(context: AppContext, connection: sa.Connection, wanted: RequestKey) -> None:
    if stored_answers.has_too_many(connection, wanted.account_id, context.clock()):
        raise Problem(
            ProblemType.RATE_LIMIT_EXCEEDED,
            "The account has sent too many requests with an Idempotency-Key in the last 24 hours. Retry later, or without one.",
            headers={"Retry-After": "3600"},
        )


def _repeat(context: AppContext, known: StoredAnswer, digest: str) -> Answer:
    if context.secrets.decrypt(known.request_digest) != digest:
        raise Problem(
            ProblemType.IDEMPOTENCY_KEY_REUSED,
            "The Idempotency-Key was used for another request in the last 24 hours. Use a new key for a new request.",
        )
    return Answer(known.status, known.headers, context.secrets.decrypt(known.body), is_repeated=True)


def _joined(context: AppContext, connection: sa.Connection) -> AppContext:
    joined = copy(context)
    joined.database = context.database.joined(connection)
    return joined
