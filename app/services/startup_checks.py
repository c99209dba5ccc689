"""What a process checks of its database and settings before it serves, works or changes secrets."""

from __future__ import annotations

import structlog

from app.core.config import DATA_DIRECTORY, SettingsError, embedded_database_url
from app.core.errors import InvalidDatabaseUrl, MissingRight, Unavailable
from app.db import migrate, startup
from app.db.connection import run_sql
from app.services.context import AppContext

_log = structlog.get_logger()


def check_settings(context: AppContext) -> None:
    """Check DATABASE_URL, the rights of its role and ENCRYPTION_KEY against the database, until they fit once.

    Raises SettingsError when they do not fit, and Unavailable while Postgres is unavailable or lacks a migration.
    """
    if context.are_settings_checked:
        return
    try:
        with context.database.transaction() as connection:
            migrate.check_migrated(connection)
            read_only = startup.find_read_only(connection)
            missing = startup.find_missing_rights(connection)
            stored = startup.find_secrets(connection) if not missing else []
    except (MissingRight, InvalidDatabaseUrl) as exc:
        # The embedded database has no passwords, and does not exist yet when it starts for the first time.
        url = context.settings.database_url
        if isinstance(exc, InvalidDatabaseUrl) and url == embedded_database_url(DATA_DIRECTORY):
            raise
        raise SettingsError(f"DATABASE_URL cannot be used: {exc}") from None
    if read_only == "standby":
        raise Unavailable("the server is a standby, which is read-only")
    if read_only == "setting":
        raise SettingsError("DATABASE_URL cannot be used: its role or database is read-only")
    if missing:
        more = f" and {len(missing) - 2} more" if len(missing) > 2 else ""
        raise SettingsError(f"DATABASE_URL cannot be used: its role lacks {', '.join(missing[:2])}{more}")
    if failed := context.secrets.check(stored):
        _log.warning("ENCRYPTION_KEY does not decrypt all secrets in the database", failed=failed, tried=len(stored))
    context.are_settings_checked = True


def check_connection(context: AppContext) -> None:
    """Raises Unavailable when Postgres cannot be reached."""
    with context.database.transaction() as connection:
        run_sql(connection, "SELECT 1")


def check_database(context: AppContext) -> None:
    """Raises Unavailable when Postgres cannot be reached, NotMigrated when a migration of this release is missing."""
    with context.database.transaction() as connection:
        migrate.check_migrated(connection)
