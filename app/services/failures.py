"""Failed runs, grouped by what failed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from app.db import failures, inspection
from app.db.failures import FailureGroup
from app.services.context import AppContext

# Failed runs and blocks that are read at most, the latest.
MAX_SCANNED = 10_000
MAX_GROUPS = 100
DEFAULT_PERIOD = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class Failures:
    """The groups, the latest first. `is_complete`: no failed run was left out since there are too many."""

    groups: Sequence[FailureGroup]
    is_complete: bool


def find_failures(context: AppContext, account_id: int, since: datetime, workflow: str | None = None) -> Failures:
    """The failures of an account since a time, of one workflow or of all. At most MAX_GROUPS groups of the latest MAX_SCANNED
    failed runs."""
    with context.database.transaction() as connection:
        inspection.allow_slow_statements(connection)
        groups = failures.find_failures(connection, account_id, since, workflow, MAX_SCANNED, MAX_GROUPS + 1)
        is_scanned = failures.has_more_failed_runs(connection, account_id, MAX_SCANNED)
    return Failures(groups[:MAX_GROUPS], not is_scanned and len(groups) <= MAX_GROUPS)
