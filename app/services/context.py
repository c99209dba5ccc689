"""The state that one process shares: settings, database, clock and encryption."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from datetime import datetime
from functools import partial

import structlog

from app.core.account_turns import AccountTurns
from app.core.config import DATA_DIRECTORY, Settings, SettingsError, embedded_database_url
from app.core.encryption import Secrets
from app.core.errors import InvalidDatabaseUrl, MissingRight, Unavailable
from app.core.ids import now
from app.core.lookup_budget import LookupBudget
from app.core.models import SIGNALBOX, Actor
from app.core.work_shares import WorkShares
from app.db import api_keys, messages, migrate, startup
from app.db.connection import Database, run_sql

_log = structlog.get_logger()

# One account uses at most this fraction of the connections for events, except for those that many events share.
_SHARE = 3
# Connections that are left for these, whatever all accounts do.
_RESERVED = 2


class AppContext:
    """Settings, database, clock and secrets of one process, its budgets for look-ups of unknown keys, and the turns and shares of
    accounts. Opens no connection before the first query. `actor` is who changes something, for the audit log."""

    def __init__(self, settings: Settings, *, clock: Callable[[], datetime] = now) -> None:
        self.settings = settings
        self.database = Database(settings)
        self.clock = clock
        self.actor = SIGNALBOX
        self.secrets = Secrets(settings.encryption_keys)
        self._is_checked = False
        # A transaction that waits for the lock of a subject, or writes a batch, keeps its connection meanwhile.
        at_once = max(1, settings.database_pool // _SHARE)
        together = max(1, settings.database_pool - _RESERVED)
        self.event_turns = AccountTurns(at_once, settings.connect_timeout, together=together)
        # Changes of an account wait for its lock, and compile its patterns.
        self.change_turns = AccountTurns(1, settings.connect_timeout)
        self.body_turns = AccountTurns(1, settings.connect_timeout)
        self.work_shares = WorkShares()
        self.key_lookups = LookupBudget(partial(api_keys.find_key_owners, self.database))
        self.client_lookups = LookupBudget(partial(api_keys.find_client_ids, self.database))
        self.ticket_lookups = LookupBudget(partial(messages.find_ticket_digests, self.database))

    def acting_as(self, actor: Actor) -> AppContext:
        """The same context, for what `actor` changes. They share everything else."""
        context = copy(self)
        context.actor = actor
        return context

    def check_settings(self) -> None:
        """Check DATABASE_URL, the rights of its role and ENCRYPTION_KEY against the database, until they fit once.

        Raises SettingsError when they do not fit, and Unavailable while Postgres is unavailable or lacks a migration.
        """
        if self._is_checked:
            return
        try:
            with self.database.transaction() as connection:
                migrate.check_migrated(connection)
                read_only = startup.find_read_only(connection)
                missing = startup.find_missing_rights(connection)
                stored = startup.find_secrets(connection) if not missing else []
        except (MissingRight, InvalidDatabaseUrl) as exc:
            # The embedded database has no passwords, and does not exist yet when it starts for the first time.
            if isinstance(exc, InvalidDatabaseUrl) and self.settings.database_url == embedded_database_url(
                DATA_DIRECTORY
            ):
                raise
            raise SettingsError(f"DATABASE_URL cannot be used: {exc}") from None
        if read_only == "standby":
            raise Unavailable("the server is a standby, which is read-only")
        if read_only:
            raise SettingsError("DATABASE_URL cannot be used: its role or database is read-only")
        if missing:
            more = f" and {len(missing) - 2} more" if len(missing) > 2 else ""
            raise SettingsError(f"DATABASE_URL cannot be used: its role lacks {', '.join(missing[:2])}{more}")
        if failed := self.secrets.check(stored):
            _log.warning(
                "ENCRYPTION_KEY does not decrypt all secrets in the database", failed=failed, tried=len(stored)
            )
        self._is_checked = True

    def check_connection(self) -> None:
        """Raises Unavailable when Postgres cannot be reached."""
        with self.database.transaction() as connection:
            run_sql(connection, "SELECT 1")

    def check_database(self) -> None:
        """Raises Unavailable when Postgres cannot be reached, NotMigrated when a migration of this release is missing."""
        with self.database.transaction() as connection:
            migrate.check_migrated(connection)
