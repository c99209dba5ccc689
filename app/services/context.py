"""The state that one process shares: settings, database, clock and encryption."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from app.core.config import Settings
from app.core.encryption import Secrets
from app.core.ids import now
from app.db import migrate
from app.db.connection import Database


class AppContext:
    """Settings, database, clock and secrets of one process. Opens no connection before the first query."""

    def __init__(self, settings: Settings, *, clock: Callable[[], datetime] = now) -> None:
        self.settings = settings
        self.database = Database(settings)
        self.clock = clock
        self.secrets = Secrets(settings.encryption_keys)

    def check_database(self) -> None:
        """Raises Unavailable when Postgres cannot be reached, NotMigrated when a migration of this release is missing."""
        with self.database.transaction() as connection:
            migrate.check_migrated(connection)
