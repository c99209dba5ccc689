"""Logs the accounts whose plan ends soon or has ended: they take no more events then."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa
import structlog
from cachetools import TTLCache

from app.core.ids import utc_text
from app.db.accounts import find_ending_plans
from app.services.accounts import ENDS_SOON, has_ended

# Accounts that one entry names.
_MAX_NAMES = 50
_log = structlog.get_logger()
# An account, and whether its plan had ended, that was logged within a day.
_logged: TTLCache[tuple[int, bool], bool] = TTLCache(maxsize=10_000, ttl=24 * 3600)


def log_ending_plans(connection: sa.Connection, now: datetime) -> None:
    """Log the accounts whose plan ends within 7 days and those whose plan has ended, each once a day and process."""
    found = [
        account
        for account in find_ending_plans(connection, now + ENDS_SOON)
        if (account.id, has_ended(account, now)) not in _logged
    ]
    for ended, message in ((False, "plans end soon"), (True, "plans have ended; these accounts take no events")):
        accounts = [account for account in found if has_ended(account, now) is ended]
        _logged.update({(account.id, ended): True for account in accounts})
        if accounts:
            names = [f"{account.slug} {utc_text(account.plan_ends_at)}" for account in accounts if account.plan_ends_at]
            _log.warning(message, number=len(names), accounts=names[:_MAX_NAMES])
