"""What a process checks before it serves or works, and again while it does: the rights of its role, secrets by which it checks
its key, and whether the server is read-only or out of disk space."""

from __future__ import annotations

import sqlalchemy as sa

from app.db.connection import run_sql
from app.db.tables import metadata

_RIGHTS = ("SELECT", "INSERT", "UPDATE", "DELETE")
_FUNCTIONS = (
    "make_events_partitions(timestamptz[])",
    "clear_events_default(timestamptz)",
    "drop_events_partition(text, timestamptz)",
)
# The oldest and the latest secret: with a new key and without the old one, one of them or both cannot be decrypted.
_SECRETS = """
(SELECT signing_secret FROM accounts ORDER BY id LIMIT 50)
UNION (SELECT signing_secret FROM accounts ORDER BY id DESC LIMIT 50)
UNION (SELECT settings FROM integrations ORDER BY updated_at DESC LIMIT 50)
UNION (SELECT value FROM secrets ORDER BY updated_at DESC LIMIT 50)
"""


def find_read_only(connection: sa.Connection) -> str | None:
    """Why the role cannot write events: `standby`, `setting` or `right`; None when it can."""
    query = (
        "SELECT pg_is_in_recovery(), current_setting('transaction_read_only') = 'on', "
        # Null before the first migration.
        "has_table_privilege(to_regclass('events'), 'INSERT') IS FALSE"
    )
    is_standby, is_read_only, lacks_right = run_sql(connection, query).one()
    return "standby" if is_standby else "setting" if is_read_only else "right" if lacks_right else None


def server_version(connection: sa.Connection) -> str:
    """The version of the server, such as 16.3."""
    found: str = run_sql(connection, "SELECT split_part(current_setting('server_version'), ' ', 1)").scalar_one()
    return found


def write_temporary_file(connection: sa.Connection) -> None:
    """Let the server write some hundred KiB to the disk of the database. Raises DiskFull when the disk is full.

    The rows of the function do not fit into work_mem, so that the server keeps them in a temporary file until the statement
    ends. Nothing is left of it, and any role may do it.
    """
    run_sql(connection, "SELECT set_config('work_mem', '64kB', true), set_config('temp_tablespaces', '', true)")
    run_sql(connection, "SELECT count(*) FROM generate_series(1, 20000)")


def find_missing_rights(connection: sa.Connection) -> list[str]:
    """What the role may not do, such as `INSERT on events`. A table that a newer release has dropped is left out."""
    rows = run_sql(
        connection,
        "SELECT format('%s on %s', right_name, table_name) FROM unnest(CAST(:tables AS text[])) AS table_name, "
        "unnest(CAST(:rights AS text[])) AS right_name WHERE to_regclass(table_name) IS NOT NULL "
        "AND NOT has_table_privilege(to_regclass(table_name), right_name) "
        # Its rows are only added and read.
        "AND NOT (table_name = 'audit_log' AND right_name IN ('UPDATE', 'DELETE')) UNION ALL "
        "SELECT format('EXECUTE on %s', name) FROM unnest(CAST(:functions AS text[])) AS name "
        "WHERE to_regprocedure(name) IS NOT NULL AND NOT has_function_privilege(to_regprocedure(name), 'EXECUTE')",
        {"tables": sorted(metadata.tables), "rights": list(_RIGHTS), "functions": list(_FUNCTIONS)},
    )
    return [text for (text,) in rows]


def find_secrets(connection: sa.Connection) -> list[bytes]:
    """Some encrypted secrets; none in a database without accounts."""
    return [bytes(stored) for (stored,) in run_sql(connection, _SECRETS)]
