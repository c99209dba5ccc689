"""Connections to Postgres: a pool for everything, and one held connection per thread for the two hot paths.

Comes in: settings. Goes out: `Database`, whose `transaction()` commits when its block ends well, and whose `held()` gives
the calling thread its own autocommitting connection. Whatever means that Postgres cannot be asked right now leaves here
as `Unavailable`.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg2
import sqlalchemy as sa
from psycopg2.extensions import connection as RawConnection

from app.settings import Settings
from app.words import Unavailable

# Said by Postgres when it cannot serve right now: connection trouble (08), out of resources (53), shutting down (57P0x),
# a statement that took too long or was cancelled (57014), could not get its lock (55P03), lost a deadlock (40) or meets a
# standby (25006); and a table or column that the next migration brings (42P01, 42703).
_PASSING = ("08", "53", "57", "55P03", "40", "25006", "42P01", "42703")


def is_passing(trouble: BaseException) -> bool:
    """True when the same request may well succeed a little later, False when it is wrong in itself."""
    if isinstance(trouble, sa.exc.DBAPIError) and trouble.orig is not None:
        trouble = trouble.orig
    if isinstance(trouble, sa.exc.TimeoutError | psycopg2.InterfaceError):
        return True
    if not isinstance(trouble, psycopg2.Error):
        return False
    if trouble.pgcode is None:
        return isinstance(trouble, psycopg2.OperationalError | psycopg2.DatabaseError)
    return trouble.pgcode.startswith(_PASSING)


@contextmanager
def passing_trouble_as_unavailable() -> Iterator[None]:
    """Turns what `is_passing` into Unavailable; everything else stays what it is."""
    try:
        yield
    except (psycopg2.Error, sa.exc.SQLAlchemyError) as trouble:
        if is_passing(trouble):
            raise Unavailable(str(trouble).strip().splitlines()[0]) from trouble
        raise


class HeldConnection(RawConnection):
    """A thread's own connection; `prepared`: the names of the statements that it knows."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.prepared: set[str] = set()


def prepare(connection: HeldConnection, name: str, statement: str) -> None:
    """Let the connection know a statement (its types, AS and text), if it does not yet."""
    if name not in connection.prepared:
        with connection.cursor() as cursor:
            cursor.execute(f"PREPARE {name} {statement}")
        connection.prepared.add(name)


class Database:
    """One process's way to Postgres. Opens nothing before it is asked to."""

    def __init__(self, settings: Settings) -> None:
        self.url = settings.database_url
        self._options: dict[str, Any] = {
            "connect_timeout": settings.connect_timeout,
            "application_name": "signalbox",
            # A peer that vanished without a word is noticed within seconds, not after the kernel's two hours.
            "keepalives_idle": 5,
            "keepalives_interval": 2,
            "keepalives_count": 3,
            "tcp_user_timeout": int(settings.statement_timeout * 1000) + 2_000,
            "options": f"-c statement_timeout={int(settings.statement_timeout * 1000)} -c timezone=UTC"
            " -c idle_in_transaction_session_timeout=60s",
        }
        self._engine = sa.create_engine(
            "postgresql+psycopg2://",
            creator=self._connect,
            pool_size=settings.database_pool,
            max_overflow=0,
            pool_timeout=settings.connect_timeout,
            pool_pre_ping=True,
        )
        self._own = threading.local()

    def _connect(self) -> HeldConnection:
        connection: HeldConnection = psycopg2.connect(self.url, connection_factory=HeldConnection, **self._options)
        return connection

    @contextmanager
    def transaction(self) -> Iterator[sa.Connection]:
        """A pooled connection in one transaction: committed when the block ends, rolled back when it raises."""
        with passing_trouble_as_unavailable(), self._engine.begin() as connection:
            yield connection

    def held(self) -> HeldConnection:
        """The calling thread's own connection, autocommitting: each statement is one transaction and one round trip."""
        connection: HeldConnection | None = getattr(self._own, "connection", None)
        if connection is None or connection.closed:
            connection = self._connect()
            connection.autocommit = True
            self._own.connection = connection
        return connection

    def held_is_broken(self) -> bool:
        """True when the calling thread's held connection has been lost (or there is none)."""
        connection: RawConnection | None = getattr(self._own, "connection", None)
        return connection is None or bool(connection.closed)

    def is_lost(self, trouble: BaseException) -> bool:
        """Whether the held connection has become useless: it broke, it is read-only since a failover (25006), or its
        prepared statements are older than the tables (0A000). The same question may be asked on a new one."""
        if isinstance(trouble, psycopg2.Error) and trouble.pgcode in ("25006", "0A000"):
            return True
        return isinstance(trouble, psycopg2.OperationalError | psycopg2.InterfaceError) and self.held_is_broken()

    def let_go(self) -> None:
        """Close the calling thread's held connection; the next `held()` opens a new one."""
        connection: RawConnection | None = getattr(self._own, "connection", None)
        if connection is not None:
            self._own.connection = None
            connection.close()

    def close(self) -> None:
        """Close the pool and this thread's held connection (before a fork, at the end)."""
        self.let_go()
        self._engine.dispose()
