"""Roles for processes and people, as SQL: for the processes, for people who read everything but secrets, and for people who read
the rows of one account.

The rows of an account are protected by row-level security: a restrictive policy for the members of one group compares
`account_id` with the number at the end of the role's name. Everybody else has a policy that lets all rows through. Partitions are
not granted, because the policies of `events` do not hold for a partition that is read by its own name.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from psycopg2.extensions import encrypt_password

from app.db.connection import driver_connection, run_sql

# Columns that no role of a person may read: hashes of secrets, and what is encrypted.
SECRET_COLUMNS: Mapping[str, frozenset[str]] = {
    "access_tokens": frozenset({"digest"}),
    "accounts": frozenset({"signing_secret"}),
    "clients": frozenset({"digest", "token_digest"}),
    "integrations": frozenset({"settings"}),
    "keys": frozenset({"digest"}),
    "secrets": frozenset({"value"}),
    "stored_answers": frozenset({"body"}),
    "tickets": frozenset({"digest"}),
    "user_sessions": frozenset({"digest"}),
    "users": frozenset({"password_hash"}),
}
# A statement of a person ends after a minute: it holds locks and old rows meanwhile. Who needs longer sets it for the session.
_LIMITS = {
    "default_transaction_read_only": "on",
    "statement_timeout": "60s",
    "idle_in_transaction_session_timeout": "5min",
}
# Connections of one account's role, and what the sorting of one of its sessions may put on the disk.
_CONNECTIONS = 5
_MAX_TEMPORARY_FILES = "1GB"


@dataclass(frozen=True, slots=True)
class Change:
    """Statements that belong together, and what they do in one line."""

    summary: str
    statements: Sequence[str]
    needs_superuser: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """A table that is not a partition. `is_guarded`: its policies are there, and row-level security is on."""

    name: str
    columns: Sequence[str]
    is_guarded: bool

    @property
    def account_column(self) -> str | None:
        """The column that says whose a row is; None when the table has none."""
        return "id" if self.name == "accounts" else "account_id" if "account_id" in self.columns else None

    def readable(self) -> str:
        """The columns that people may read, as GRANT wants them; empty: all."""
        secret = SECRET_COLUMNS.get(self.name, frozenset())
        return f" ({', '.join(_quoted(name) for name in self.columns if name not in secret)})" if secret else ""


@dataclass(frozen=True, slots=True)
class View:
    """A view of the schema `ops`, with the tables that it reads."""

    name: str
    is_of_accounts: bool
    tables: Sequence[str]


@dataclass(frozen=True, slots=True)
class Roles:
    """The names of the roles. They belong to the whole server: a second database on it needs another prefix."""

    prefix: str

    @property
    def processes(self) -> str:
        """Web processes, workers and commands: reads and writes rows, has no DDL."""
        return f"{self.prefix}_processes"

    @property
    def read(self) -> str:
        """People who see everything but secrets."""
        return f"{self.prefix}_read"

    @property
    def accounts(self) -> str:
        """The group of the roles of accounts; nobody logs in with it."""
        return f"{self.prefix}_account"

    def of_account(self, account_id: int) -> str:
        """People who see the rows of one account."""
        return f"{self.accounts}_{account_id}"


@dataclass(frozen=True, slots=True)
class Present:
    """What is there now: the database, the schema and the owner of the tables, the tables, the views, and the names of roles.
    `writers`: roles that may write events; `locks`: functions that lock, or fill the disk, without any right."""

    database: str
    schema: str
    owner: str
    tables: Sequence[Table]
    views: Sequence[View]
    roles: Collection[str]
    writers: Sequence[str]
    locks: Sequence[str]


# What is there

_TABLES = """
SELECT relname, array_agg(attname::text ORDER BY attnum),
    relrowsecurity AND EXISTS (SELECT FROM pg_policy WHERE polrelid = pg_class.oid AND polname = :policy)
FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid AND attnum > 0 AND NOT attisdropped
WHERE relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = current_schema()) AND relkind IN ('r', 'p')
AND NOT relispartition
GROUP BY pg_class.oid ORDER BY relname
"""
_VIEWS = """
SELECT view.relname,
    EXISTS (SELECT FROM pg_attribute WHERE attrelid = view.oid AND attname = 'account_id') OR view.relname = 'version',
    array(SELECT DISTINCT used.relname::text FROM pg_rewrite JOIN pg_depend ON pg_depend.objid = pg_rewrite.oid
          JOIN pg_class AS used ON used.oid = refobjid
          WHERE ev_class = view.oid AND refclassid = 'pg_class'::regclass AND used.oid <> view.oid)
FROM pg_class AS view WHERE relnamespace = 'ops'::regnamespace AND relkind = 'v' ORDER BY view.relname
"""
_WRITERS = """
SELECT rolname FROM pg_roles
WHERE NOT rolsuper AND NOT starts_with(rolname, 'pg_') AND has_table_privilege(oid, 'events', 'INSERT') ORDER BY rolname
"""
_LOCKS = """
SELECT oid::regprocedure::text FROM pg_proc WHERE pronamespace = 'pg_catalog'::regnamespace
AND proname ~ '^(pg_(try_)?advisory_(xact_)?lock(_shared)?|lo_creat|lo_create|lo_from_bytea|pg_logical_emit_message)$' ORDER BY 1
"""
# The comment on a role says to which database it belongs. That of a database that is gone says nothing.
_COMMENT = "Signalbox role of database "
_ROLES = """
SELECT rolname, (SELECT datname FROM pg_database WHERE :comment || datname = shobj_description(pg_roles.oid, 'pg_authid')),
    rolsuper OR rolbypassrls
FROM pg_roles WHERE rolname = ANY (:names)
"""


@dataclass(frozen=True, slots=True)
class KnownRole:
    """A role that exists. `database`: the one that it was made for; None: it was not made here, or that database is gone.
    `bypasses`: row-level security does not hold for it."""

    database: str | None
    bypasses: bool


def find_roles(connection: sa.Connection, names: Sequence[str]) -> dict[str, KnownRole]:
    """Those of these roles that exist."""
    rows = run_sql(connection, _ROLES, {"names": list(names), "comment": _COMMENT})
    return {name: KnownRole(database, bypasses) for name, database, bypasses in rows}


def database_name(connection: sa.Connection) -> str:
    """The name of the database."""
    return str(run_sql(connection, "SELECT current_database()").scalar_one())


def inspect(connection: sa.Connection, roles: Roles, known: Collection[str]) -> Present:
    """What the database has. `known`: the roles that exist."""
    database, schema, owner = run_sql(
        connection,
        "SELECT current_database(), current_schema(), pg_get_userbyid(relowner) FROM pg_class WHERE oid = 'events'::regclass",
    ).one()
    tables = [Table(*row) for row in run_sql(connection, _TABLES, {"policy": roles.accounts})]
    views = [View(*row) for row in run_sql(connection, _VIEWS)]
    writers, locks = ([name for (name,) in run_sql(connection, query)] for query in (_WRITERS, _LOCKS))
    return Present(database, schema, owner, tables, views, known, writers, locks)


def is_superuser(connection: sa.Connection) -> bool:
    """Whether the role of the connection is a superuser."""
    query = "SELECT rolsuper FROM pg_roles WHERE rolname = current_user"
    return bool(run_sql(connection, query).scalar_one())


_UNGUARDED = """
SELECT relname FROM pg_class JOIN pg_roles ON rolname = :role
WHERE relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = current_schema()) AND relkind IN ('r', 'p')
AND has_any_column_privilege(pg_roles.oid, pg_class.oid, 'SELECT') AND NOT (
    relrowsecurity AND EXISTS (SELECT FROM pg_policy WHERE polrelid = pg_class.oid AND polname = :role)
) ORDER BY relname LIMIT 1
"""


def find_unguarded(connection: sa.Connection, roles: Roles) -> str | None:
    """A table or partition that the roles of accounts can read without a policy, since it was granted to PUBLIC; None: there is
    none."""
    found: str | None = run_sql(connection, _UNGUARDED, {"role": roles.accounts}).scalar()
    return found


# What is to be done


def plan(present: Present, roles: Roles, account_ids: Sequence[int]) -> list[Change]:
    """The changes that make the roles as they should be. Each leaves the database in a state that is safe.

    Row-level security is switched on with the first role of an account. Its policies come before what is granted to them.
    """
    changes = [*_make(present, roles.processes), _grant_processes(present, roles.processes)]
    changes += [*_make(present, roles.read), _grant_reading(present, roles.read, present.tables, present.views)]
    if not account_ids and roles.accounts not in present.roles:
        return changes
    changes += _make(present, roles.accounts, "NOLOGIN")
    mine = [table for table in present.tables if table.account_column]
    changes += [_guard(present.schema, table, roles) for table in mine if not table.is_guarded]
    names = {table.name for table in mine}
    views = [view for view in present.views if view.is_of_accounts and names.issuperset(view.tables)]
    changes += [_grant_reading(present, roles.accounts, mine, views), *_withhold(present, roles)]
    for account_id in account_ids:
        name = roles.of_account(account_id)
        changes += _make(present, name, f"LOGIN CONNECTION LIMIT {_CONNECTIONS}")
        statements = [f"GRANT {roles.accounts} TO {name}", *_limits(name)]
        changes.append(Change(f"{name}: sees the rows of account {account_id} only", statements))
        disk = [f"ALTER ROLE {name} SET temp_file_limit = {_literal(_MAX_TEMPORARY_FILES)}"]
        changes.append(Change(f"{name}: at most {_MAX_TEMPORARY_FILES} of temporary files", disk, needs_superuser=True))
    return changes


def _make(present: Present, name: str, options: str = "LOGIN") -> Iterator[Change]:
    if name not in present.roles:
        comment = f"COMMENT ON ROLE {name} IS {_literal(_COMMENT + present.database)}"
        yield Change(f"{name}: created", [f"CREATE ROLE {name} {options}", comment])


def _grant_processes(present: Present, name: str) -> Change:
    schema, rights = _quoted(present.schema), "SELECT, INSERT, UPDATE, DELETE"
    later = f"ALTER DEFAULT PRIVILEGES FOR ROLE {_quoted(present.owner)} IN SCHEMA {schema}"
    statements = [
        f"GRANT CONNECT, TEMPORARY ON DATABASE {_quoted(present.database)} TO {name}",
        f"GRANT USAGE ON SCHEMA {schema} TO {name}",
        f"GRANT {rights} ON ALL TABLES IN SCHEMA {schema} TO {name}",
        # A trigger forbids it, too, where all rights are granted in another way.
        f"REVOKE UPDATE, DELETE ON {schema}.audit_log FROM {name}",
        f"GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA {schema} TO {name}",
        f"{later} GRANT {rights} ON TABLES TO {name}",
        f"{later} GRANT EXECUTE ON FUNCTIONS TO {name}",
    ]
    return Change(f"{name}: reads and writes all tables, also those of later migrations; no DDL", statements)


def _grant_reading(present: Present, name: str, tables: Sequence[Table], views: Sequence[View]) -> Change:
    schema = _quoted(present.schema)
    statements = [
        f"GRANT CONNECT ON DATABASE {_quoted(present.database)} TO {name}",
        f"GRANT USAGE ON SCHEMA {schema}, ops TO {name}",
        # A column may have become secret.
        f"REVOKE ALL ON ALL TABLES IN SCHEMA {schema}, ops FROM {name}",
        *(f"GRANT SELECT{table.readable()} ON {schema}.{_quoted(table.name)} TO {name}" for table in tables),
        *(f"GRANT SELECT ON ops.{_quoted(view.name)} TO {name}" for view in views),
        *_limits(name),
    ]
    return Change(
        f"{name}: reads {len(tables)} tables without their secrets, and {len(views)} views of the schema ops",
        statements,
    )


def _limits(name: str) -> list[str]:
    return [f"ALTER ROLE {name} SET {setting} = {_literal(value)}" for setting, value in _LIMITS.items()]


def _guard(schema: str, table: Table, roles: Roles) -> Change:
    """Policies come first: row-level security without one hides all rows from the processes."""
    name = f"{_quoted(schema)}.{_quoted(table.name)}"
    on = f"ON {name}"
    own = f"nullif(split_part(current_user, {_literal(roles.accounts + '_')}, 2), '')::bigint"
    statements = [
        f"DROP POLICY IF EXISTS {roles.prefix}_everybody {on}",
        f"DROP POLICY IF EXISTS {roles.accounts} {on}",
        f"CREATE POLICY {roles.prefix}_everybody {on} USING (true) WITH CHECK (true)",
        f"CREATE POLICY {roles.accounts} {on} AS RESTRICTIVE TO {roles.accounts} USING ({table.account_column} = {own})",
        f"ALTER TABLE {name} ENABLE ROW LEVEL SECURITY",
    ]
    return Change(f"{table.name}: row-level security, for the roles of accounts only", statements)


def _withhold(present: Present, roles: Roles) -> Iterator[Change]:
    """What everybody may do, and the roles of accounts must not. The processes lock subjects by advisory locks."""
    database = _quoted(present.database)
    others = ", ".join(map(_quoted, sorted({present.owner, roles.processes, *present.writers})))
    temporary = [
        f"GRANT TEMPORARY ON DATABASE {database} TO {others}, {roles.read}",
        f"REVOKE TEMPORARY ON DATABASE {database} FROM PUBLIC",
    ]
    yield Change("the roles of accounts: no temporary tables", temporary)
    # PostgreSQL 14 and older let everybody create objects in the schema public, and a database that was upgraded still does.
    schema = _quoted(present.schema)
    create = [
        f"GRANT CREATE ON SCHEMA {schema} TO {_quoted(present.owner)}",
        f"REVOKE CREATE ON SCHEMA {schema} FROM PUBLIC",
    ]
    yield Change("everybody: no new tables and functions in the schema", create, needs_superuser=True)
    functions = ", ".join(present.locks)
    locks = [
        f"GRANT EXECUTE ON FUNCTION {functions} TO {others}",
        f"REVOKE EXECUTE ON FUNCTION {functions} FROM PUBLIC",
    ]
    yield Change("the roles of accounts: no advisory locks and no large objects", locks, needs_superuser=True)


def _quoted(name: str) -> str:
    escaped = name.replace('"', '""')
    return f'"{escaped}"'


def _literal(text: str) -> str:
    escaped = text.replace("'", "''")
    return f"'{escaped}'"


# Doing it


def apply(connection: sa.Connection, change: Change) -> None:
    """Execute the statements of a change. A lock on a table is waited for two seconds at most: events wait behind it."""
    run_sql(connection, "SELECT pg_advisory_xact_lock(hashtext('signalbox roles'))")
    run_sql(connection, "SET LOCAL lock_timeout = '2s'")
    for statement in change.statements:
        _execute(connection, statement)


def set_password(connection: sa.Connection, name: str, password: str) -> None:
    """Set the password of a role. Only its hash (SCRAM-SHA-256) is sent, so that no log of the server has it."""
    hashed = encrypt_password(password, name, driver_connection(connection), "scram-sha-256")
    _execute(connection, f"ALTER ROLE {_quoted(name)} PASSWORD {_literal(hashed)}")


def _execute(connection: sa.Connection, statement: str) -> None:
    # Without parameters, so that a name may contain : or %.
    with driver_connection(connection).cursor() as cursor:
        cursor.execute(statement)
