"""Lists refused requests and shows one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from app.core.errors import Problem, ProblemType
from app.db import inspection, refusals
from app.db.refusals import SHOWN_HOOK, RefusalFilter, RefusalRow, WaitingRefusal
from app.services.context import AppContext


@dataclass(frozen=True, slots=True)
class ReplayPlan:
    """Which refusals a replay accepts, the oldest first. `is_cut`: there are more."""

    chosen: Sequence[WaitingRefusal]
    is_cut: bool = False

    @property
    def kinds(self) -> Counter[tuple[str, str]]:
        """How many have which problem type and route."""
        return Counter((one.type, one.route) for one in self.chosen)


def find_latest_refusals(context: AppContext, account_id: int, wanted: RefusalFilter, limit: int) -> list[RefusalRow]:
    """The refusals of an account that pass the filter, newest first."""
    with context.database.transaction() as connection:
        inspection.allow_slow_statements(connection)
        return refusals.find_latest_refusals(connection, account_id, wanted, limit)


def plan_replay(context: AppContext, account_id: int, wanted: RefusalFilter, limit: int | None = None) -> ReplayPlan:
    """The refusals that pass the filter, can be replayed and were not: the oldest `limit` (None: all)."""
    with context.database.transaction() as connection:
        inspection.allow_slow_statements(connection)
        found = refusals.find_first_waiting(connection, account_id, wanted, None if limit is None else limit + 1)
    return ReplayPlan(found[:limit], limit is not None and len(found) > limit)


def find_owners_of_refusal(context: AppContext, refusal_id: UUID) -> list[int]:
    """The ids of the accounts that have a refusal of this id; almost always none or one."""
    with context.database.transaction() as connection:
        return refusals.find_accounts_with_refusal(connection, refusal_id)


def find_refusal(context: AppContext, account_id: int, refusal_id: UUID) -> RefusalRow:
    """A refusal; raises Problem 404."""
    with context.database.transaction() as connection:
        found = refusals.find_refusal(connection, account_id, refusal_id)
    if found is None:
        raise Problem(ProblemType.NOT_FOUND, f"the account has no refusal {refusal_id}")
    return found


def find_body(context: AppContext, refusal: RefusalRow) -> bytes | None:
    """The body of a refusal as it is kept; None for none."""
    with context.database.transaction() as connection:
        return refusals.find_body(connection, refusal.account_id, refusal.id)


def why_not_replayable(refusal: RefusalRow) -> str | None:
    """Why a replay of a refusal can never succeed; None when it may. The filter `waiting` in app/db leaves out the same."""
    if refusal.route == SHOWN_HOOK:
        return "it was posted to a source; senders post such a delivery again"
    if not refusal.replayable:
        return "a part of the body is missing"
    if refusal.type == ProblemType.ACCOUNT_MISMATCH.slug:
        return "the request named another account than that of its key"
    if refusal.content_encoding not in (None, "gzip"):
        return f"the body is packed with {refusal.content_encoding}, which is not read"
    return None
