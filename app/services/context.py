"""The state that one process shares: settings, database, clock and encryption."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from functools import partial

from app.core.config import Settings
from app.core.encryption import Secrets
from app.core.ids import now
from app.core.lookup_budget import LookupBudget
from app.db import api_keys, messages, migrate
from app.db.connection import Database, run_sql


class AppContext:
    """Settings, database, clock and secrets of one process, and its budgets for look-ups of what senders invent. Opens no
    connection before the first query."""

    def __init__(self, settings: Settings, *, clock: Callable[[], datetime] = now) -> None:
        self.settings = settings
        self.database = Database(settings)
        self.clock = clock
        self.secrets = Secrets(settings.encryption_keys)
        self.key_lookups = LookupBudget(partial(api_keys.find_key_owners, self.database))
        self.client_lookups = LookupBudget(partial(api_keys.find_client_ids, self.database))
        self.ticket_lookups = LookupBudget(partial(messages.find_ticket_digests, self.database))

    def check_connection(self) -> None:
        """Raises Unavailable when Postgres cannot be reached."""
        with self.database.transaction() as connection:
            run_sql(connection, "SELECT 1")

    def check_database(self) -> None:
        """Raises Unavailable when Postgres cannot be reached, NotMigrated when a migration of this release is missing."""
        with self.database.transaction() as connection:
            migrate.check_migrated(connection)
