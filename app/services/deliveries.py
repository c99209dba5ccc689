"""Lists, counts and shows what third parties have posted, and plans its replay."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from uuid import UUID

from app.core.errors import Problem, ProblemType
from app.db import deliveries, inspection
from app.db.deliveries import DeliveryFilter, DeliveryRow, SourceCounts
from app.services.context import AppContext

_BATCH = 100


@dataclass(slots=True)
class ReplayPlan:
    """The deliveries to map again, oldest first, and how often each result and first problem occurs. `is_cut`: there are more."""

    ids: list[UUID] = field(default_factory=list)
    problems: Counter[tuple[str, str]] = field(default_factory=Counter)
    is_cut: bool = False

    def add(self, delivery: DeliveryRow) -> None:
        """Plan a delivery, too."""
        problem = delivery.problems[0] if delivery.problems else None
        text = f"{problem['path']}: {problem['message']}" if problem else "no problem"
        self.ids.append(delivery.id)
        self.problems[delivery.result, text] += 1


def plan_replay(context: AppContext, account_id: int, wanted: DeliveryFilter, limit: int | None = None) -> ReplayPlan:
    """The deliveries that pass the filter, at most `limit` of them (None: all)."""
    plan = ReplayPlan()
    while batch := find_first_deliveries(context, account_id, wanted, _BATCH):
        for one in batch:
            if limit is not None and len(plan.ids) >= limit:
                plan.is_cut = True
                return plan
            plan.add(one)
        wanted = replace(wanted, after=batch[-1].id)
    return plan


def count_by_source(
    context: AppContext, account_id: int, source_ids: Sequence[UUID], since: datetime
) -> dict[UUID, SourceCounts]:
    """How many deliveries these sources had since a time, by the id of the source; each count at most MAX_COUNTED."""
    with context.database.transaction() as connection:
        return deliveries.count_by_source(connection, account_id, source_ids, since)


def find_latest_deliveries(
    context: AppContext, account_id: int, wanted: DeliveryFilter, limit: int
) -> list[DeliveryRow]:
    """The deliveries of an account that pass the filter, newest first."""
    with context.database.transaction() as connection:
        inspection.allow_slow_statements(connection)
        return deliveries.find_latest_deliveries(connection, account_id, wanted, limit)


def find_first_deliveries(
    context: AppContext, account_id: int, wanted: DeliveryFilter, limit: int
) -> list[DeliveryRow]:
    """The deliveries of an account that pass the filter, oldest first."""
    with context.database.transaction() as connection:
        inspection.allow_slow_statements(connection)
        return deliveries.find_first_deliveries(connection, account_id, wanted, limit)


def find_owners_of_delivery(context: AppContext, delivery_id: UUID) -> list[int]:
    """The ids of the accounts that have a delivery of this id; almost always none or one."""
    with context.database.transaction() as connection:
        return deliveries.find_accounts_with_delivery(connection, delivery_id)


def find_delivery(context: AppContext, account_id: int, delivery_id: UUID) -> DeliveryRow:
    """A delivery; raises Problem 404."""
    with context.database.transaction() as connection:
        found = deliveries.find_delivery(connection, account_id, delivery_id)
    if found is None:
        raise Problem(ProblemType.NOT_FOUND, f"the account has no delivery {delivery_id}")
    return found


def find_body(context: AppContext, delivery: DeliveryRow) -> bytes:
    """The body of a delivery as it arrived. Raises Problem 404 when the delivery has been deleted."""
    with context.database.transaction() as connection:
        body = deliveries.find_body(connection, delivery.account_id, delivery.id)
    if body is None:
        raise Problem(ProblemType.NOT_FOUND, f"the delivery {delivery.id} was deleted")
    return body
