"""Deletes what accounts no longer keep: whole partitions of events, and rows in bounded batches."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from time import perf_counter
from uuid import UUID

import structlog

from app.core import metrics
from app.core.errors import Unavailable
from app.core.log_config import describe_exception
from app.db import needed_events, partitions, retention
from app.db.audit import Change
from app.db.connection import limit_statements
from app.db.partitions import Partition
from app.db.retention import EVENTS, KINDS, Kind, Range
from app.services import audit, startup_checks
from app.services.context import AppContext
from app.services.retention import Rules, find_keep

# Rows that are looked at by one transaction, as many as take about this many seconds.
_FIRST_LIMIT, _MAX_LIMIT, _BATCH_SECONDS = 500, 5_000, 0.1
# Seconds that a batch, or the check of a partition, may take at most.
_BATCH_TIMEOUT, _CHECK_TIMEOUT = 10.0, 60.0
# A pause is as long as the batch before it: at most half of the time is used.
_MIN_PAUSE = 0.01
# A transaction that uses a partition for so many seconds is not disturbed.
_LONG_USE = 0.5
# Accounts that keep events for so long keep them up to a month longer, until their whole partition is dropped.
_WITH_PARTITION = timedelta(days=60)
_log = structlog.get_logger()

# Waits for so many seconds; True: stop now.
Wait = Callable[[float], bool]


@dataclass(slots=True)
class _Walk:
    """Goes through the expired rows of one kind of an account, the oldest first."""

    kind: Kind
    account_id: int
    before: datetime
    limit: int
    keys: Sequence[str] = ()
    after: UUID = field(default=UUID(int=0))


def delete_expired(context: AppContext, wait: Wait) -> Counter[str]:
    """Delete what accounts no longer keep, until nothing is left or `wait` returns True; how many rows of each kind, and how many
    `partitions` of events were dropped.

    Accounts are served round robin, a batch each. Each batch is a transaction. One process at a time does this; in others the
    call returns at once. A kind that fails is logged, counted in `signalbox_housekeeping_failures_total` and tried again by the
    next call. Raises Unavailable when Postgres is gone.
    """
    deleted: Counter[str] = Counter()
    with retention.be_the_only_one(context.database) as is_the_only_one:
        if not is_the_only_one:
            return deleted
        with context.database.transaction() as connection:
            rules = retention.find_all_retention(connection)
        waiting = _drop_partitions(context, rules, wait, deleted)
        walks = deque(_walks(context, rules, waiting))
        while walks:
            walk = walks.popleft()
            began = perf_counter()
            if _delete_batch(context, walk, deleted):
                walks.append(walk)
            if wait(max(_MIN_PAUSE, perf_counter() - began)):
                break
    return deleted


def _walks(context: AppContext, rules: Rules, waiting: Mapping[int, datetime]) -> Iterable[_Walk]:
    now = context.clock()
    for kind in KINDS:
        with context.database.transaction() as connection:
            accounts = sorted({*rules, *kind.find_accounts(connection)})
        for account_id in accounts:
            keep = find_keep(rules, account_id, kind)
            if keep is None:
                continue
            walk = _Walk(kind, account_id, now - keep, _FIRST_LIMIT)
            if kind is EVENTS:
                walk.before = min(walk.before, waiting.get(account_id, walk.before))
                with context.database.transaction() as connection:
                    walk.keys = needed_events.find_keys_in_data(connection, account_id)
            yield walk


def _drop_partitions(context: AppContext, rules: Rules, wait: Wait, deleted: Counter[str]) -> dict[int, datetime]:
    """Drop the partitions whose events no account keeps. Returns the accounts some of whose events wait for their partition to be
    dropped, and from when on these were received.

    Other expired events are deleted in batches: those of accounts that keep events for a shorter time than others do, and those
    in partitions that a running run needs.
    """
    now = context.clock()
    keeps = _finite(rules, rules)
    if not keeps:
        return {}
    waiting: dict[int, datetime] = {}
    with context.database.transaction() as connection:
        found = partitions.list_partitions(connection)
    for partition in found:
        if partition.end > now or partition.begin > now - min(keeps.values()):
            continue
        try:
            accounts = _accounts_that_wait(context, rules, partition, wait, deleted)
        except Exception as exc:
            if isinstance(exc, Unavailable):
                startup_checks.check_connection(context)
            metrics.housekeeping_failures.labels("drop_partition").inc()
            _log.error("a partition was not dropped", partition=partition.name, error=describe_exception(exc))
            continue
        for account_id in accounts:
            waiting.setdefault(account_id, partition.begin)
    return waiting


def _accounts_that_wait(
    context: AppContext, rules: Rules, partition: Partition, wait: Wait, deleted: Counter[str]
) -> set[int]:
    """Drop an ended partition if its time has come; the accounts whose events wait for that."""
    now = context.clock()
    with context.database.transaction() as connection:
        limit_statements(connection, _CHECK_TIMEOUT)
        accounts = partitions.find_accounts(connection, partition)
        keeps = _finite(rules, accounts)
        if len(keeps) < len(accounts):
            return set()
        # An empty partition goes when nobody could have events in it.
        max_keep = max((keeps or _finite(rules, rules)).values())
        if partition.end + max_keep > now:
            return {account_id for account_id, keep in keeps.items() if keep == max_keep >= _WITH_PARTITION}
        if needed_events.are_events_needed(connection, partition.begin, partition.end):
            return set()
    if not _drop(context, partition, wait):
        _log.info("a partition is in use and is dropped later", partition=partition.name)
        return accounts
    _log.info("a partition was dropped", partition=partition.name)
    deleted["partitions"] += 1
    return set()


def _finite(rules: Rules, accounts: Iterable[int]) -> dict[int, timedelta]:
    """How long those of the accounts keep events that do not keep them for ever."""
    return {account_id: keep for account_id in accounts if (keep := find_keep(rules, account_id, EVENTS)) is not None}


def _drop(context: AppContext, partition: Partition, wait: Wait) -> bool:
    """Drop a partition; False when it is in use."""
    users = _users(context, partition)
    if users and wait(_LONG_USE):
        return False
    # The same transaction after half a second: events would wait for it, too, behind the drop.
    if users & _users(context, partition):
        return False
    with context.database.transaction() as connection:
        limit_statements(connection, _CHECK_TIMEOUT)
        is_dropped = partitions.drop_ended_partition(connection, partition.name, context.clock())
        if is_dropped:
            before = {"from": partition.begin, "until": partition.end}
            audit.record(connection, context, Change("partition.drop", None, partition.name, before))
        return is_dropped


def _users(context: AppContext, partition: Partition) -> set[str]:
    with context.database.transaction() as connection:
        return partitions.find_lock_holders(connection, partition.name)


def _delete_batch(context: AppContext, walk: _Walk, deleted: Counter[str]) -> bool:
    """Delete a batch; whether there may be more. Raises Unavailable."""
    began = perf_counter()
    rows = Range(walk.account_id, walk.before, walk.after, walk.limit, walk.keys)
    try:
        with context.database.transaction() as connection:
            limit_statements(connection, _BATCH_TIMEOUT)
            batch = walk.kind.delete(connection, rows)
    except Exception as exc:
        if isinstance(exc, Unavailable):
            # Raises Unavailable when not only this batch has failed.
            startup_checks.check_connection(context)
        # It may have been too large.
        walk.limit //= 10
        metrics.housekeeping_failures.labels(f"delete_{walk.kind.name}").inc()
        _log.error("rows past their retention were not deleted", kind=walk.kind.name, error=describe_exception(exc))
        return walk.limit > 0
    if batch.deleted:
        deleted[walk.kind.name] += batch.deleted
        metrics.rows_expired.labels(walk.kind.name).inc(batch.deleted)
    is_last = batch.last is None or batch.seen < walk.limit
    walk.after = batch.last or walk.after
    walk.limit = max(1, min(_MAX_LIMIT, 2 * walk.limit, round(walk.limit * _BATCH_SECONDS / (perf_counter() - began))))
    return not is_last
