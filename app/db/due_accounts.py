"""Which accounts have due jobs."""

from __future__ import annotations

from app.db.connection import Database

_MAX_ACCOUNTS = 1_000
# The account of a job; the first column of jobs_account_idx.
ACCOUNT = "split_part(payload, ':', 1)"

# One look-up for each account that has a job: its first one is due before the others. The index has no first column of its own.
_DUE_ACCOUNTS = f"""
WITH RECURSIVE first (account, due_at) AS (
    (SELECT {ACCOUNT}, due_at FROM jobs ORDER BY {ACCOUNT}, due_at, id LIMIT 1)
    UNION ALL
    SELECT next.* FROM first CROSS JOIN LATERAL (
        SELECT {ACCOUNT}, due_at FROM jobs WHERE {ACCOUNT} > first.account ORDER BY {ACCOUNT}, due_at, id LIMIT 1
    ) AS next (account, due_at)
)
SELECT account FROM first WHERE due_at <= now() LIMIT {_MAX_ACCOUNTS}
"""


def find_due_accounts(database: Database) -> list[str]:
    """The ids of the accounts that have due jobs, in the order of their texts; at most a thousand. Raises Unavailable."""
    return [account for (account,) in database.fetch_all(_DUE_ACCOUNTS, ())]
