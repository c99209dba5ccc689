"""The worker's connection to Postgres: one connection that listens and asks, and that comes back when it was lost.

A PgQueuer driver. A question that meets a lost connection waits until there is one again and is then asked once more, so
that the queue's loop never sees an outage; after `give_up` it raises instead. Listeners are added again to each new
connection, and told that something may have changed meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from random import Random
from typing import Any, TypeVar
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import asyncpg  # type: ignore[import-untyped]
import structlog
from pgqueuer.core.tm import TaskManager
from pgqueuer.domain.models import TableChangedEvent, utc_now
from pgqueuer.domain.types import Channel
from pgqueuer.ports.driver import Driver, NotifyCallback

T = TypeVar("T")

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 2.0
_MOST_TRIES = 3
# A question that takes longer has lost its server without a word (a cut cable, a failover).
_LONGEST_QUESTION = 30.0
# What libpq reads from a URL and asyncpg would send to the server as a setting.
_OF_LIBPQ = frozenset(
    (
        *("connect_timeout", "keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count"),
        *("tcp_user_timeout", "channel_binding", "gssencmode", "fallback_application_name", "load_balance_hosts"),
        *("require_auth", "sslcompression", "sslsni", "client_encoding"),
    )
)
_LOST = (
    OSError,
    asyncpg.InterfaceError,
    asyncpg.PostgresConnectionError,
    asyncpg.InternalClientError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.CannotConnectNowError,
    asyncpg.ReadOnlySQLTransactionError,
)
_log = structlog.get_logger()


def asyncpg_url(url: str) -> str:
    """A libpq style URL without the parameters that asyncpg does not know."""
    parts = urlsplit(url)
    kept = [(name, value) for name, value in parse_qsl(parts.query) if name not in _OF_LIBPQ]
    return urlunsplit(parts._replace(query=urlencode(kept)))


class LastingConnection(Driver):
    """One asyncpg connection after another."""

    def __init__(self, url: str, connect_timeout: float, random: Random) -> None:
        self._url = asyncpg_url(url)
        self._connect_timeout = connect_timeout
        self._random = random
        self._connection: asyncpg.Connection | None = None
        self._listeners: list[tuple[str, NotifyCallback]] = []
        self._turn = asyncio.Lock()
        self._given_up = asyncio.Event()
        self._shutdown = asyncio.Event()
        self._mending: asyncio.Task[None] | None = None
        self._in_trouble = False

    async def fetch(self, query: str, *args: object) -> list[dict[str, object]]:
        """The rows of a query."""
        rows = await self._ask(lambda connection: connection.fetch(query, *args))
        return [dict(row) for row in rows]

    async def execute(self, query: str, *args: object) -> str:
        """Run a statement; its tag."""
        return str(await self._ask(lambda connection: connection.execute(query, *args)))

    async def notify(self, channel: str, payload: str) -> None:
        """Send a NOTIFY."""
        await self.execute("SELECT pg_notify($1, $2)", channel, payload)

    async def add_listener(self, channel: str, callback: NotifyCallback) -> None:
        """LISTEN from now on, over all connections to come."""
        await self._ask(lambda connection: _listen(connection, channel, callback))
        self._listeners.append((channel, callback))

    @property
    def shutdown(self) -> asyncio.Event:
        """Part of the protocol; never set."""
        return self._shutdown

    @property
    def tm(self) -> TaskManager:
        """Part of the protocol; nothing runs in the background on its account."""
        return TaskManager()

    async def __aenter__(self) -> LastingConnection:
        return self

    async def __aexit__(self, *_: object) -> None:
        """The queue's loop has ended: its listeners have nobody to tell any more."""
        self._listeners.clear()

    def give_up(self) -> None:
        """From now on questions that find no connection raise instead of waiting for one."""
        self._given_up.set()

    async def close(self) -> None:
        """Give up, and close what is open."""
        self.give_up()
        if self._mending is not None:
            self._mending.cancel()
        if self._connection is not None:
            connection, self._connection = self._connection, None
            try:
                await connection.close(timeout=2)
            except (*_LOST, TimeoutError, asyncpg.PostgresError):
                connection.terminate()

    async def _ask(self, question: Callable[[asyncpg.Connection], Awaitable[T]]) -> T:
        async with self._turn:
            tries = 0
            while True:
                connection = await self._open()
                try:
                    return await asyncio.wait_for(question(connection), _LONGEST_QUESTION)
                except (*_LOST, TimeoutError) as lost:
                    # Whole but of no use (silent, read-only since a failover, out of step): a new one, now and then.
                    tries += not connection.is_closed()
                    connection.terminate()
                    if self._given_up.is_set() or tries > _MOST_TRIES:
                        raise
                    self._note_trouble(lost)

    async def _open(self) -> asyncpg.Connection:
        """The connection, made anew when there is none; waits for Postgres as long as it takes."""
        if self._connection is not None and not self._connection.is_closed():
            return self._connection
        pause = _FIRST_PAUSE
        while True:
            try:
                self._connection = connection = await self._connect()
            except (*_LOST, TimeoutError, asyncpg.PostgresError, ValueError) as wrong:
                if self._given_up.is_set():
                    raise
                self._note_trouble(wrong)
                await self._wait(pause * self._random.uniform(0.5, 1.0))
                pause = min(pause * 2, _LONGEST_PAUSE)
            else:
                if self._in_trouble:
                    _log.info("the worker is connected to Postgres again")
                self._in_trouble = False
                return connection

    def _note_trouble(self, wrong: BaseException) -> None:
        """One line for each outage, however often the door is tried."""
        if not self._in_trouble:
            _log.warning("the worker has no connection to Postgres; trying until it has", error=_line(wrong))
        self._in_trouble = True

    async def _connect(self) -> asyncpg.Connection:
        connection = await asyncpg.connect(
            self._url, timeout=self._connect_timeout, server_settings={"application_name": "signalbox worker"}
        )
        try:
            for channel, callback in self._listeners:
                await _listen(connection, channel, callback)
        except BaseException:
            connection.terminate()
            raise
        for channel, callback in self._listeners:
            callback(something_changed(channel))
        connection.add_termination_listener(self._mend)
        return connection

    def _mend(self, lost: Any) -> None:
        """The server closed the connection between two questions: connect again now, not at the next question."""
        if lost is self._connection and not self._given_up.is_set() and (self._mending is None or self._mending.done()):
            self._mending = asyncio.get_running_loop().create_task(self._reopen())

    async def _reopen(self) -> None:
        with suppress(*_LOST, TimeoutError, asyncpg.PostgresError, ValueError):
            async with self._turn:
                await self._open()

    async def _wait(self, seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._given_up.wait(), seconds)


def something_changed(channel: str) -> str:
    """The payload that makes a queue's loop look for jobs."""
    event = TableChangedEvent(
        channel=Channel(channel), sent_at=utc_now(), type="table_changed_event", operation="update", table="pgqueuer"
    )
    return event.model_dump_json()


async def _listen(connection: asyncpg.Connection, channel: str, callback: NotifyCallback) -> None:
    await connection.add_listener(channel, lambda _connection, _pid, _channel, payload: callback(payload))


def _line(wrong: BaseException) -> str:
    return (str(wrong).split("\n")[0] or type(wrong).__name__)[:200]
