"""Maps stored deliveries again, by the current version of their source.

A delivery and its events are stored in one commit, so that a replay that is interrupted is continued by the next one. Events that
were stored before are found by their keys. The `received_at` of other events is the time of the replay; `occurred_at` is
what the mapping says.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from uuid import UUID

import structlog

from app.core.durations import RETENTION as KEY_RETENTION
from app.core.errors import Problem, ProblemType
from app.core.work_shares import UNITS_PER_MILLISECOND
from app.db.audit import Change
from app.db.deliveries import ACCEPTED, WAITING, DeliveryFilter, DeliveryRow
from app.ingest.accept import EventAcceptor
from app.ingest.account_cache import AccountCache, check_open
from app.ingest.sources.accept_delivery import DeliveryReceipt, SourceAcceptor
from app.services import audit, deliveries, sources
from app.services.context import AppContext
from app.services.deliveries import ReplayPlan

# Deliveries that one request of a person maps again, and the seconds that it may take; another request continues.
MAX_REPLAYED, _SECONDS = 500, 10
_ANY = DeliveryFilter()
_log = structlog.get_logger()


@dataclass(slots=True)
class ReplayResult:
    """What became of the deliveries that were mapped again: how many, how many of them are mapped now, and their events.
    `failures`: (delivery, why it is not mapped). `next`: the last one, when there are others after it."""

    done: int = 0
    mapped: int = 0
    stored: int = 0
    duplicates: int = 0
    failures: list[tuple[UUID, str]] = field(default_factory=list)
    next: UUID | None = None

    def add(self, receipt: DeliveryReceipt) -> None:
        """Count a delivery that was mapped again, or tried to be."""
        self.done += 1
        self.mapped += receipt.result not in WAITING
        self.stored += len(receipt.events) - receipt.duplicates
        self.duplicates += receipt.duplicates
        for problem in receipt.problems[:1]:
            item = "" if problem.item is None else f"item {problem.item}: "
            self.fail(receipt.id, f"{receipt.result}: {item}{problem.path}: {problem.message}")

    def fail(self, delivery_id: UUID, reason: str) -> None:
        """Note why a delivery is not mapped."""
        self.failures.append((delivery_id, reason))


class DeliveryReplayer:
    """Replays deliveries of an account."""

    def __init__(self, context: AppContext, account_id: int, accounts: AccountCache | None = None) -> None:
        # The shares are those of another thread where a worker replays.
        self._context = context = context.with_own_shares()
        self._account_id = account_id
        self._accounts = accounts or AccountCache(context)
        self._acceptor = SourceAcceptor(context, self._accounts, EventAcceptor(context, self._accounts))

    def record(self, source: str, chosen: Sequence[UUID]) -> None:
        """Record in the audit log that these deliveries of a source are replayed; call it before `replay`."""
        after = {"deliveries": len(chosen), "first_id": str(chosen[0]), "last_id": str(chosen[-1])}
        with self._context.database.transaction() as connection:
            audit.record(connection, self._context, Change("source.replay", self._account_id, source, None, after))

    def replay(self, delivery_id: UUID) -> DeliveryReceipt:
        """Map a delivery again, and store the result. Raises Problem (409 if it is mapped
        already) and Unavailable."""
        row = deliveries.find_delivery(self._context, self._account_id, delivery_id)
        check_replayable(row, self._context.clock())
        account = self._accounts.find_by_id(self._account_id)
        if account is None:
            raise Problem(ProblemType.NOT_FOUND, "The account was deleted.")
        check_open(account, self._context.clock())
        return self._acceptor.replay(account, row, deliveries.find_body(self._context, row))

    def replay_for(self, chosen: Sequence[UUID], seconds: float) -> ReplayResult:
        """Map deliveries again, one after the other, and begin none after so many seconds. Raises Unavailable."""
        result, ends_at = ReplayResult(), time.monotonic() + seconds
        for one in chosen:
            if time.monotonic() > ends_at:
                break
            self.replay_into(result, one)
        return result

    def replay_into(self, result: ReplayResult, delivery_id: UUID) -> None:
        """Map a delivery again, and add what became of it. Raises Unavailable."""
        try:
            result.add(self.replay(delivery_id))
        except Problem as exc:
            result.done += 1
            result.fail(delivery_id, exc.detail)


def plan_source_replay(
    context: AppContext, account_id: int, source_id: UUID, wanted: DeliveryFilter = _ANY
) -> ReplayPlan:
    """The deliveries that `replay_source` maps again: those that are not mapped and pass the filter, the oldest MAX_REPLAYED."""
    wanted = replace(wanted, source_id=source_id, results=WAITING)
    return deliveries.plan_replay(context, account_id, wanted, MAX_REPLAYED)


def replay_source(context: AppContext, account_id: int, name: str, wanted: DeliveryFilter = _ANY) -> ReplayResult:
    """Map deliveries of a source again that pass the filter, as many as there is time for, and record that. Raises Unavailable,
    and Problem: 404, and 409 while the source is disabled."""
    source = sources.find_source(context, account_id, name)
    sources.check_enabled(source)
    plan = plan_source_replay(context, account_id, source.id, wanted)
    if not plan.ids:
        return ReplayResult()
    result = _replay_chosen(context, account_id, name, plan.ids)
    if plan.is_cut or result.done < len(plan.ids):
        result.next = plan.ids[result.done - 1]
    return result


def replay_delivery(context: AppContext, row: DeliveryRow) -> ReplayResult:
    """Map a delivery again, and record that. Raises Unavailable, and Problem 409 when it cannot be mapped again."""
    check_replayable(row, context.clock())
    return _replay_chosen(context, row.account_id, str(row.source), [row.id])


def _replay_chosen(context: AppContext, account_id: int, source: str, chosen: Sequence[UUID]) -> ReplayResult:
    replayer = DeliveryReplayer(context, account_id)
    replayer.record(source, chosen)
    return replayer.replay_for(chosen, _SECONDS)


def map_late(context: AppContext, accounts: AccountCache, account_id: int, delivery_id: UUID) -> float:
    """Map a delivery whose mapping a web process postponed; the units of work that it took. Does nothing when it has already
    been mapped. For a thread of a worker. Raises Unavailable."""
    began = time.thread_time()
    try:
        DeliveryReplayer(context, account_id, accounts).replay(delivery_id)
    except Problem as exc:
        if exc.type is ProblemType.CONFLICT:
            return 0
        _log.warning(
            "a postponed delivery is not mapped", account=account_id, delivery=str(delivery_id), reason=exc.detail
        )
    return (time.thread_time() - began) * 1000 * UNITS_PER_MILLISECOND


def check_replayable(row: DeliveryRow, now: datetime) -> None:
    """Raises Problem 409 for a delivery that cannot be mapped again."""
    if (reason := why_not_replayable(row, now)) is not None:
        raise Problem(ProblemType.CONFLICT, f"It is not mapped again: {reason}.")


def why_not_replayable(row: DeliveryRow, now: datetime) -> str | None:
    """Why a delivery cannot be mapped again; None if it can."""
    if row.source is None:
        return "its source was deleted"
    is_without_events = row.result == ACCEPTED and not row.events
    if row.result not in WAITING and not is_without_events:
        return f"it is {row.result}"
    if row.events and row.received_at < now - KEY_RETENTION:
        # Their keys have expired.
        return f"events of it were stored more than {KEY_RETENTION.days} days ago, and would be stored again"
    return None
