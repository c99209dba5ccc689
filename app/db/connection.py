"""Connections to Postgres: a pool for everything, and autocommitting ones that know their statements for the hot paths.

Comes in: settings. Goes out: `Database`, whose `transaction()` commits when its block ends well, whose `lend()` gives a
connection of the hot path for a block, and whose `held()` gives the calling thread its own. Whatever means that Postgres
cannot be asked right now leaves here as `Unavailable`.

Where gevent has patched the sockets, a request that waits for Postgres lets the others go on, and waits no longer than
Postgres itself would let a statement run.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psycopg2
import sqlalchemy as sa
from psycopg2 import extensions
from psycopg2.extensions import connection as RawConnection

from app.core.config import Settings
from app.core.errors import NotMigrated, Unavailable
from app.core.group_commit import among_greenlets

# Said by Postgres when it cannot serve right now: connection trouble (08), out of resources (53), shutting down (57P0x),
# a statement that took too long or was cancelled (57014), could not get its lock (55P03), lost a deadlock (40) or meets a
# standby (25006); and a table or column that the next migration brings.
_NOT_MIGRATED = ("42P01", "42703")
_PASSING = ("08", "53", "57", "55P03", "40", "25006", *_NOT_MIGRATED)


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


# Beyond the time that Postgres lets a statement run; who has not answered then is not going to.
_PATIENCE = 2.0


@contextmanager
def passing_trouble_as_unavailable() -> Iterator[None]:
    """Turns what `is_passing` into Unavailable; everything else stays what it is."""
    try:
        yield
    except (psycopg2.Error, sa.exc.SQLAlchemyError) as trouble:
        if is_passing(trouble):
            kind = NotMigrated if _pgcode(trouble) in _NOT_MIGRATED else Unavailable
            raise kind(in_one_line(trouble)) from trouble
        raise


def in_one_line(trouble: BaseException) -> str:
    """What Postgres, or the way to it, said."""
    if isinstance(trouble, sa.exc.DBAPIError) and trouble.orig is not None:
        trouble = trouble.orig
    said = str(trouble).strip().splitlines()
    return said[0] if said else type(trouble).__name__


def _pgcode(trouble: BaseException) -> str | None:
    code: str | None = getattr(getattr(trouble, "orig", trouble), "pgcode", None)
    return code


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


def is_lost(connection: RawConnection | None, trouble: BaseException) -> bool:
    """Whether a connection has become useless: it broke, it is read-only since a failover (25006), or its prepared
    statements are older than the tables (0A000). The same question may be asked on a new one."""
    if isinstance(trouble, psycopg2.Error) and trouble.pgcode in ("25006", "0A000"):
        return True
    broken = connection is None or bool(connection.closed)
    return broken and isinstance(trouble, psycopg2.OperationalError | psycopg2.InterfaceError)


class NoAnswer(psycopg2.OperationalError):
    """Postgres is there and says nothing: nobody waits for it any longer."""

    def __str__(self) -> str:
        return "Postgres does not answer"


def _let_others_go_on(seconds: float) -> None:
    """Under gevent: who waits for Postgres waits in the event loop, and at most so long for one answer."""
    if not among_greenlets():
        return
    from gevent.socket import wait_read, wait_write

    def wait(connection: RawConnection) -> None:
        deadline = time.monotonic() + seconds
        while (state := connection.poll()) != extensions.POLL_OK:
            ready = wait_read if state == extensions.POLL_READ else wait_write
            ready(connection.fileno(), timeout=max(0.001, deadline - time.monotonic()), timeout_exc=NoAnswer)

    extensions.set_wait_callback(wait)


def roll_back(connection: RawConnection) -> None:
    """Roll back the transaction of a connection; nothing of it stays."""
    if not connection.closed:
        with connection.cursor() as cursor:
            cursor.execute("ROLLBACK")


@contextmanager
def rolled_back_on_trouble(connection: RawConnection) -> Iterator[None]:
    """Roll back the transaction when the block raises."""
    try:
        yield
    except BaseException:
        with suppress(psycopg2.Error):
            roll_back(connection)
        raise


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
        self._pool_timeout = settings.connect_timeout
        self._places = threading.BoundedSemaphore(settings.database_pool)
        self._idle: list[HeldConnection] = []
        _let_others_go_on(settings.statement_timeout + _PATIENCE)

    @contextmanager
    def lend(self) -> Iterator[HeldConnection]:
        """One of at most DATABASE_POOL autocommitting connections: each statement is one transaction and one round trip.
        Raises Unavailable when none becomes free in time."""
        if not self._places.acquire(timeout=self._pool_timeout):
            raise Unavailable("all connections to Postgres are in use")
        try:
            connection = self._idle.pop() if self._idle else self._connect(autocommit=True)
            try:
                yield connection
            finally:
                if connection.closed:
                    # Where one was cut the others may have been as well; whoever tries once more is to have a new one.
                    self._close_idle()
                elif connection.get_transaction_status() == extensions.TRANSACTION_STATUS_IDLE:
                    self._idle.append(connection)
                else:
                    connection.close()
        finally:
            self._places.release()

    def _connect(self, *, autocommit: bool = False) -> HeldConnection:
        connection: HeldConnection = psycopg2.connect(self.url, connection_factory=HeldConnection, **self._options)
        connection.autocommit = autocommit
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
            connection = self._connect(autocommit=True)
            self._own.connection = connection
        return connection

    def is_lost(self, trouble: BaseException) -> bool:
        """`is_lost` of the calling thread's held connection."""
        return is_lost(getattr(self._own, "connection", None), trouble)

    def let_go(self) -> None:
        """Close the calling thread's held connection; the next `held()` opens a new one."""
        connection: RawConnection | None = getattr(self._own, "connection", None)
        if connection is not None:
            self._own.connection = None
            connection.close()

    def close(self) -> None:
        """Close the pools and this thread's held connection (before a fork, at the end)."""
        self.let_go()
        self._close_idle()
        self._engine.dispose()

    def _close_idle(self) -> None:
        idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()
