"""Lists refused requests and shows one."""

from __future__ import annotations

from uuid import UUID

from app.core.errors import Problem, ProblemType
from app.db import inspection, refusals
from app.db.refusals import SHOWN_HOOK, RefusalFilter, RefusalRow
from app.services.context import AppContext


def find_latest_refusals(context: AppContext, account_id: int, wanted: RefusalFilter, limit: int) -> list[RefusalRow]:
    """The refusals of an account that pass the filter, newest first."""
    with context.database.transaction() as connection:
        inspection.allow_slow_statements(connection)
        return refusals.find_latest_refusals(connection, account_id, wanted, limit)


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
    """Why a replay of a refusal can never succeed; None when it may."""
    if refusal.route == SHOWN_HOOK:
        return "it was posted to a source; senders post such a delivery again"
    if not refusal.replayable:
        return "a part of the body is missing"
    if refusal.type == ProblemType.ACCOUNT_MISMATCH.slug:
        return "the request named another account than that of its key"
    if refusal.content_encoding not in (None, "gzip"):
        return f"the body is packed with {refusal.content_encoding}, which is not read"
    return None
