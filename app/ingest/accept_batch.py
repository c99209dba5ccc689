"""Accepts many events in one request: what `accept` does for one event, for all of them in one transaction.

Events are accepted in the order of the batch, a microsecond apart.

1. `read_drafts` reads each item once: it is refused, or reduced to the columns of its row and the decisions of stateless
   workflows.
2. `BatchTransaction.write` locks the match states of all subjects, compares the account snapshot, and claims idempotency keys.
3. It writes the rows, many per statement. An item that starts a run or advances match state is read again and matched in its
   turn.
4. It writes runs, jobs and match states, and commits.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from uuid import UUID

import psycopg2
from psycopg2 import errors

from app.core import metrics
from app.core.errors import Problem, ProblemType, Unavailable
from app.ingest.accept import MAX_RELOADS
from app.ingest.account_cache import Account, AccountCache
from app.ingest.batch_drafts import Batch, Drafts, make_item_ids, read_drafts
from app.ingest.batch_transaction import BatchResult, BatchTransaction
from app.services.context import AppContext

_MAX_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class BatchReceipt:
    """What became of the items. `ids`: of their events, None for refused items. `accepted`: the number of new events.
    `duplicates`: the number of repeated idempotency keys. `refused`: why, by the number of the item."""

    ids: list[UUID | None]
    accepted: int
    duplicates: int
    refused: Mapping[int, Problem]


def accept_batch(
    context: AppContext,
    accounts: AccountCache,
    account: Account,
    batch: Batch,
    check_sender: Callable[[Account], None],
) -> BatchReceipt:
    """Store the valid events of a batch with everything that follows from them; they are committed when this returns.

    `check_sender` is called again after a stale snapshot was reloaded; it raises Problem when the sender may no longer send.
    Raises Problem 422 (a value that Postgres cannot store) and Unavailable; nothing is stored then.
    """
    for _ in range(MAX_RELOADS):
        started_at = time.monotonic()
        item_ids = make_item_ids(len(batch), context.clock())
        drafts = read_drafts(account, batch, item_ids)
        if not drafts.items:
            return make_receipt(batch, drafts, BatchResult())
        result = _write(context, BatchTransaction(account, batch, item_ids, drafts))
        if result is not None:
            accounts.confirm(account, started_at)
            return make_receipt(batch, drafts, result)
        account = accounts.reload(account)
        check_sender(account)
    raise Unavailable(f"account {account.snapshot.id} changes faster than its events can be matched")


def _write(context: AppContext, transaction: BatchTransaction) -> BatchResult | None:
    try:
        return context.database.run_with_reconnect(transaction.write, attempts=_MAX_ATTEMPTS)
    except errors.ForeignKeyViolation:
        # A workflow was deleted in the meantime.
        return None
    except psycopg2.DataError as exc:
        raise Problem(ProblemType.UNSTORABLE_VALUE, str(exc).splitlines()[0]) from None


def make_receipt(batch: Batch, drafts: Drafts, result: BatchResult) -> BatchReceipt:
    """What became of the items of a committed batch. Counts them in the metrics."""
    ids = [result.ids.get(number) for number in range(len(batch))]
    refused, duplicates = {**drafts.refused, **result.refused}, result.duplicates
    for number, first in drafts.repeats.items():
        ids[number] = ids[first]
        if first in refused:
            refused[number] = refused[first]
        else:
            duplicates += 1
    metrics.runs_started.inc(len(result.started) + len(result.by_deadline))
    metrics.events_accepted.inc(len(result.accepted))
    metrics.events_repeated.inc(duplicates)
    return BatchReceipt(ids, len(result.accepted), duplicates, dict(sorted(refused.items())))
