"""Connections to Postgres, and the only place where transactions begin and end.

`Database.transaction()` is a pooled SQLAlchemy connection in one transaction. `Database.run_with_reconnect()` gives a pooled
psycopg2 connection in autocommit mode with prepared statements: one statement is one transaction and one round trip there.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from copy import copy
from typing import Any, TypeVar, cast

import psycopg2
import sqlalchemy as sa
from psycopg2 import extensions
from psycopg2.extensions import connection as RawConnection

from app.core.config import Settings
from app.core.errors import DiskFull, InvalidDatabaseUrl, MissingRight, NotMigrated, Unavailable
from app.core.pacing import charge_piece, is_gevent_patched, pause_if_charged
from app.core.semaphores import make_semaphore

T = TypeVar("T")
Values = Sequence[Any] | Mapping[str, Any]

# A table, column or function that a later migration adds.
_NOT_MIGRATED = ("42P01", "42703", "42883")
_MISSING_RIGHT = "42501"
_DISK_FULL = "53100"
_INVALID_URL = re.compile(
    "FATAL: +(password authentication failed|no pg_hba.conf entry|(role|database) .* does not exist)|Name or service not known"
)
# Error classes of Postgres: connection lost (08), out of resources (53), shutting down (57P0x), statement timed out or
# cancelled (57014), lock timeout (55P03), deadlock (40), read-only standby (25006); and what the operator has to mend, such as a
# pooler in transaction mode, which mixes up prepared statements (26000, 42P05).
_TRANSIENT = ("08", "53", "57", "55P03", "40", "25006", "26000", "42P05", _MISSING_RIGHT, *_NOT_MIGRATED)
_DEADLOCK = "40P01"
_READ_ONLY, _STALE_PREPARED_STATEMENT = "25006", "0A000"
# The server's log quotes statements, in which psycopg2 writes values, and personal data with them. Superusers may set these for
# their sessions, and roles to which it is granted (docs/deploying.md).
LOG_SETTINGS = {
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
    "log_min_duration_statement": "-1",
    "log_min_duration_sample": "-1",
    "log_statement": "none",
    "log_duration": "off",
    "log_parameter_max_length": "0",
    "log_parameter_max_length_on_error": "0",
}
_KEEP_STATEMENTS_OUT_OF_THE_LOG = """
SELECT set_config(name, value, false) FROM unnest(%s, %s) AS setting (name, value)
WHERE has_parameter_privilege(name, 'SET')
"""
# The server ends the session of a host that is gone, with its locks, within 11 seconds; by default after two hours. Unix sockets
# need none of this, and Postgres ignores it there.
_END_OF_LOST_CLIENTS = (
    "-c tcp_keepalives_idle=5 -c tcp_keepalives_interval=2 -c tcp_keepalives_count=3 -c tcp_user_timeout=11s"
)
# Seconds beyond statement_timeout after which a connection that does not respond is given up.
_EXTRA_SECONDS = 2.0


def is_transient(exc: BaseException) -> bool:
    """True when the same request may succeed a little later."""
    exc = _driver_error(exc)
    if isinstance(exc, sa.exc.TimeoutError | psycopg2.InterfaceError):
        return True
    if not isinstance(exc, psycopg2.Error):
        return False
    if exc.pgcode is None:
        return isinstance(exc, psycopg2.OperationalError | psycopg2.DatabaseError)
    return exc.pgcode.startswith(_TRANSIENT)


@contextmanager
def unavailable_on_transient_errors() -> Iterator[None]:
    """Turn transient errors into Unavailable, or a class of it that says more; others are raised unchanged."""
    try:
        yield
    except (psycopg2.Error, sa.exc.SQLAlchemyError) as exc:
        if not is_transient(exc):
            raise
        raise _kind_of(exc)(error_message(exc)) from exc


def _kind_of(exc: BaseException) -> type[Unavailable]:
    code = getattr(_driver_error(exc), "pgcode", None)
    if code in _NOT_MIGRATED:
        return NotMigrated
    if code == _MISSING_RIGHT:
        return MissingRight
    if code == _DISK_FULL:
        return DiskFull
    # psycopg2 gives no code to an error of connecting. The text is English unless the server's lc_messages is another.
    return InvalidDatabaseUrl if code is None and _INVALID_URL.search(str(exc)) else Unavailable


def error_message(exc: BaseException) -> str:
    """The first line of a database error's message."""
    exc = _driver_error(exc)
    lines = str(exc).strip().splitlines()
    return lines[0] if lines else type(exc).__name__


def _driver_error(exc: BaseException) -> BaseException:
    """psycopg2's exception in place of SQLAlchemy's."""
    return exc.orig if isinstance(exc, sa.exc.DBAPIError) and exc.orig is not None else exc


class PgConnection(RawConnection):
    """A psycopg2 connection that remembers the names of its prepared statements."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.prepared: set[str] = set()


def prepare(connection: PgConnection, name: str, statement: str) -> None:
    """Prepare a statement (its types, AS and text) unless the connection has it."""
    if name not in connection.prepared:
        with connection.cursor() as cursor:
            cursor.execute(f"PREPARE {name} {statement}")
        connection.prepared.add(name)


def execute(connection: RawConnection, statement: str, values: Values) -> None:
    """Execute a statement."""
    with connection.cursor() as cursor:
        cursor.execute(statement, values)


def fetch_all(connection: RawConnection, statement: str, values: Values) -> list[tuple[Any, ...]]:
    """Execute a query; its rows."""
    with connection.cursor() as cursor:
        cursor.execute(statement, values)
        return cursor.fetchall()


def run_sql(
    connection: sa.Connection, statement: str, values: Mapping[str, Any] | None = None
) -> sa.CursorResult[*tuple[Any, ...]]:
    """Execute a statement with parameters such as `:account` on a SQLAlchemy connection."""
    return connection.execute(sa.text(statement), values)


def limit_statements(connection: sa.Connection, seconds: float | None) -> None:
    """Replace STATEMENT_TIMEOUT for the statements of this transaction; None: keep it."""
    if seconds is not None:
        run_sql(connection, "SELECT set_config('statement_timeout', :limit, true)", {"limit": f"{seconds * 1000:.0f}"})


def delete_batch(
    connection: sa.Connection, table: str, condition: str, values: Mapping[str, Any], limit: int = 10_000
) -> int:
    """Delete at most `limit` rows of a table that meet a condition; how many."""
    chosen = f"SELECT ctid FROM {table} WHERE {condition} LIMIT {limit}"
    return run_sql(connection, f"DELETE FROM {table} WHERE ctid = ANY (ARRAY({chosen}))", values).rowcount


def array_literal(texts: Sequence[str | None]) -> str:
    """Texts as an array literal of Postgres."""
    return "{" + ",".join(["NULL" if text is None else _quoted(text) for text in texts]) + "}"


def _quoted(text: str) -> str:
    if "\\" in text or '"' in text:
        text = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'


def driver_connection(connection: sa.Connection) -> RawConnection:
    """The psycopg2 connection of a SQLAlchemy connection."""
    found: RawConnection = cast(Any, connection.connection.driver_connection)
    return found


class NoAnswer(psycopg2.OperationalError):
    """Postgres is connected and does not respond in time."""

    def __str__(self) -> str:
        return "Postgres does not answer"


def _wait_in_event_loop(seconds: float) -> None:
    """Under gevent, queries let other greenlets run while they wait, for at most `seconds`."""
    if not is_gevent_patched():
        return
    from gevent.socket import wait_read, wait_write

    def wait(connection: RawConnection) -> None:
        charge_piece()
        deadline = time.monotonic() + seconds
        while (state := connection.poll()) != extensions.POLL_OK:
            ready = wait_read if state == extensions.POLL_READ else wait_write
            ready(connection.fileno(), timeout=max(0.001, deadline - time.monotonic()), timeout_exc=NoAnswer)

    extensions.set_wait_callback(wait)


# Transactions on autocommitting connections. BEGIN and COMMIT share a round trip with the statements next to them.


def begin_with(connection: RawConnection, statements: str, values: Values) -> list[tuple[Any, ...]]:
    """Begin a transaction with `statements`, in one round trip; the rows of the last statement."""
    return fetch_all(connection, "BEGIN;" + statements, values)


def commit_with(connection: RawConnection, statements: str, values: Values) -> None:
    """Run `statements` and commit the transaction, in one round trip."""
    execute(connection, statements + ";COMMIT", values)


def roll_back(connection: RawConnection) -> None:
    """Roll back the transaction of an open connection."""
    if not connection.closed:
        execute(connection, "ROLLBACK", ())


@contextmanager
def rollback_on_error(connection: RawConnection) -> Iterator[None]:
    """Roll back the transaction when the block raises."""
    try:
        yield
    except BaseException:
        with suppress(psycopg2.Error):
            roll_back(connection)
        raise


class Database:
    """The connections of one process. Opens none before the first query."""

    def __init__(self, settings: Settings) -> None:
        self.url = settings.database_url
        self._options: dict[str, Any] = {
            "connect_timeout": settings.connect_timeout,
            "application_name": "signalbox",
            # That of the JSON of events, whatever PGCLIENTENCODING says.
            "client_encoding": "UTF8",
            # Notice within seconds that the other host is gone; the kernel's default is two hours.
            "keepalives_idle": 5,
            "keepalives_interval": 2,
            "keepalives_count": 3,
            "tcp_user_timeout": int(settings.statement_timeout * 1000) + 2_000,
            "options": f"-c statement_timeout={int(settings.statement_timeout * 1000)} -c timezone=UTC"
            f" -c idle_in_transaction_session_timeout=60s {_END_OF_LOST_CLIENTS}",
        }
        self._engine = sa.create_engine(
            "postgresql+psycopg2://",
            creator=self._connect,
            pool_size=settings.database_pool,
            max_overflow=0,
            pool_timeout=settings.connect_timeout,
            pool_pre_ping=True,
            # Values are personal data: no message of an error quotes them.
            hide_parameters=True,
        )
        self._pool_timeout = settings.connect_timeout
        self._slots = make_semaphore(settings.database_pool)
        self._idle: list[PgConnection] = []
        self._lent: set[PgConnection] = set()
        self._size = settings.database_pool
        self._open: sa.Connection | None = None
        _wait_in_event_loop(settings.statement_timeout + _EXTRA_SECONDS)

    @contextmanager
    def transaction(self) -> Iterator[sa.Connection]:
        """A pooled connection in one transaction: committed when the block ends, rolled back when it raises."""
        pause_if_charged()
        with unavailable_on_transient_errors():
            if self._open is None:
                with self._engine.begin() as connection:
                    yield connection
            else:
                with self._open.begin_nested():
                    yield self._open

    def joined(self, connection: sa.Connection) -> Database:
        """This database, with the same connections; its transactions are savepoints in the transaction of `connection`, so that
        several use cases commit together, or not at all."""
        joined = copy(self)
        joined._open = connection
        return joined

    def run_with_reconnect(self, work: Callable[[PgConnection], T], *, attempts: int = 2) -> T:
        """Return `work(connection)`, called again on a new connection when the connection was lost, and after a deadlock.

        The server may have committed although the connection was lost: a second call has to recognise that. Raises
        Unavailable on transient errors.
        """
        with unavailable_on_transient_errors():
            for attempts_left in reversed(range(attempts)):
                with self.autocommit_connection() as connection:
                    try:
                        return work(connection)
                    except psycopg2.Error as exc:
                        is_lost = _is_lost(connection, exc)
                        if is_lost:
                            connection.close()
                        is_repeatable = exc.pgcode == _DEADLOCK or (is_lost and not isinstance(exc, NoAnswer))
                        if not (is_repeatable and attempts_left):
                            raise
        raise AssertionError("unreachable")

    def fetch_all(self, query: str, values: Values) -> list[tuple[Any, ...]]:
        """The rows of one query, in a transaction of its own. Raises Unavailable."""
        return self.run_with_reconnect(lambda connection: fetch_all(connection, query, values))

    def execute(self, statement: str, values: Values) -> None:
        """Execute one statement that may be repeated, in a transaction of its own. Raises Unavailable."""
        self.run_with_reconnect(lambda connection: execute(connection, statement, values))

    @contextmanager
    def autocommit_connection(self) -> Iterator[PgConnection]:
        """One of at most DATABASE_POOL autocommitting connections. Raises Unavailable when none becomes free in time."""
        if not self._slots.acquire(timeout=self._pool_timeout):
            _count_exhaustion()
            raise Unavailable("all connections to Postgres are in use")
        try:
            try:
                connection = self._idle.pop()
            except IndexError:
                connection = self._connect(autocommit=True)
            self._lent.add(connection)
            try:
                yield connection
            finally:
                self._lent.discard(connection)
                if connection.closed:
                    # The server may have closed the others as well; the next attempt needs a new one.
                    self._close_idle()
                elif connection.get_transaction_status() == extensions.TRANSACTION_STATUS_IDLE:
                    self._idle.append(connection)
                else:
                    connection.close()
        finally:
            self._slots.release()

    def pool_use(self) -> dict[str, tuple[int, int]]:
        """For each of the two pools, how many connections are in use, and how many it may have: `events` (autocommitting) and
        `other` (transactions)."""
        pool = cast(sa.QueuePool, self._engine.pool)
        return {"events": (len(self._lent), self._size), "other": (pool.checkedout(), self._size)}

    def dedicated_connection(self) -> PgConnection:
        """An autocommitting connection outside of the pools; the caller closes it."""
        return self._connect(autocommit=True)

    def _connect(self, *, autocommit: bool = False) -> PgConnection:
        connection: PgConnection = psycopg2.connect(self.url, connection_factory=PgConnection, **self._options)
        connection.autocommit = True
        names, values = map(list, zip(*LOG_SETTINGS.items(), strict=True))
        execute(connection, _KEEP_STATEMENTS_OUT_OF_THE_LOG, (names, values))
        connection.autocommit = autocommit
        return connection

    def close(self) -> None:
        """Close both pools (before a fork, at the end)."""
        self._close_idle()
        self._engine.dispose()

    def _close_idle(self) -> None:
        # The list itself is emptied: joined databases have the same.
        with suppress(IndexError):
            while True:
                self._idle.pop().close()


def _count_exhaustion() -> None:
    # Imported here: commands start without metrics.
    from app.core import metrics

    metrics.pool_exhausted.inc()


def _is_lost(connection: RawConnection, exc: psycopg2.Error) -> bool:
    """Whether a connection has become useless: closed, read-only since a failover, or with prepared statements that are
    older than the tables."""
    if exc.pgcode in (_READ_ONLY, _STALE_PREPARED_STATEMENT):
        return True
    return bool(connection.closed) and isinstance(exc, psycopg2.OperationalError | psycopg2.InterfaceError)
