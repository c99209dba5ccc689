"""What a process needs, checked: is Postgres there and writable, is there disk space, do workers live, …

`Readiness.check` keeps its result for some seconds and waits at most MAX_WAIT for a new one, so that any number of callers costs
no more than one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial

import sqlalchemy as sa

from app.core.config import SettingsError
from app.core.errors import DiskFull, Unavailable
from app.core.log_config import describe_exception
from app.db import job_queue, migrate, startup, workers
from app.db.connection import Database, limit_statements
from app.services.context import AppContext

OK, FAILING, UNKNOWN = "ok", "failing", "unknown"
# Without these no event can be stored.
REQUIRED = frozenset({"postgres", "writable", "migrations", "disk"})
# All checks. That of Redis is made only by web processes with REDIS_URL.
NAMES = ("redis", "postgres", "writable", "migrations", "disk", "encryption_key", "workers", "jobs")
# Seconds: for how long a caller waits for a new result, and after how long the check that is being made then fails. One that has
# just begun is unknown: on a machine with too much to do all checks are slow.
MAX_WAIT = 2.0
MAX_CHECK = 1.0
# Seconds: what one statement may take, and how late a job may be.
_STATEMENT_TIMEOUT = 2.0
MAX_LATENESS = 60.0
_NO_SPACE = "No space left on device"


class CheckFailed(Exception):
    """A check has failed; the text says why."""


@dataclass(frozen=True, slots=True)
class Check:
    """The result of one check. `detail` says why it fails, or what was found; `seconds`: what it took."""

    name: str
    state: str
    detail: str
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Report:
    """The results of all checks, and when they began."""

    checks: Sequence[Check]
    checked_at: datetime

    @property
    def failing(self) -> list[Check]:
        """The checks that fail."""
        return [check for check in self.checks if check.state == FAILING]

    @property
    def can_store(self) -> bool:
        """Whether events can be stored."""
        return not any(check.name in REQUIRED for check in self.failing)

    @property
    def status(self) -> str:
        """`ok`, `degraded` (events are stored, something else fails) or `unavailable`."""
        return "unavailable" if not self.can_store else "degraded" if self.failing else "ok"


class Readiness:
    """The checks of one process. `check_redis` raises CheckFailed; None: the process uses no Redis."""

    def __init__(
        self,
        context: AppContext,
        check_redis: Callable[[], str] | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._context = context
        # With a connection of its own: the others may all be in use, by what stops no event.
        self.database = Database(replace(context.settings, database_pool=1))
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._report: Report | None = None
        self._made_at = float("-inf")
        self._round: _Round | None = None
        self._probes: dict[str, Callable[[], str]] = {"redis": check_redis} if check_redis else {}
        self._probes |= {name: partial(self._query, probe) for name, probe in _PROBES.items()}

    def check(self, max_age: float = MAX_WAIT) -> Report:
        """A report that is at most `max_age` seconds old. Takes at most MAX_WAIT seconds: then the check that is still being made
        fails if it has taken MAX_CHECK, and those after it are unknown."""
        with self._lock:
            if self._report is not None and self._monotonic() - self._made_at < max_age:
                return self._report
            current = self._round
            if current is None:
                current = self._round = _Round(self._context.clock())
                threading.Thread(target=self._make, args=(current,), name="readiness", daemon=True).start()
        if current.is_done.wait(MAX_WAIT):
            return current.report()
        return current.report([*self._probes])

    def _make(self, current: _Round) -> None:
        """Make all checks, one after the other. Those of Postgres are left out while it does not answer."""
        gone: str | None = None
        try:
            for name, probe in self._probes.items():
                current.check_began = time.monotonic()
                check = _try(name, probe) if gone is None else _without_postgres(name, gone)
                if name == "postgres" and check.state == FAILING:
                    gone = check.detail
                current.checks.append(check)
        finally:
            with self._lock:
                self._report, self._made_at, self._round = current.report(), self._monotonic(), None
            current.is_done.set()

    def _query(self, probe: Callable[[AppContext, sa.Connection], str]) -> str:
        with self.database.transaction() as connection:
            limit_statements(connection, _STATEMENT_TIMEOUT)
            return probe(self._context, connection)


class _Round:
    """The checks that are being made; `is_done` once all are."""

    def __init__(self, began_at: datetime) -> None:
        self.began_at = began_at
        self.check_began = time.monotonic()
        self.checks: list[Check] = []
        self.is_done = threading.Event()

    def report(self, expected: Sequence[str] = ()) -> Report:
        """The checks so far. Of the `expected` ones that are missing, the first fails if it takes too long."""
        waited = time.monotonic() - self.check_began
        checks = list(self.checks)
        missing = [name for name in expected if name not in {check.name for check in checks}]
        for number, name in enumerate(missing):
            is_slow = number == 0 and waited >= MAX_CHECK
            state, detail = (
                (_state_of_failed(name), f"no answer in {waited:.1f} seconds") if is_slow else (UNKNOWN, "not checked")
            )
            checks.append(Check(name, state, detail))
        return Report(checks, self.began_at)


def _try(name: str, probe: Callable[[], str]) -> Check:
    began = time.monotonic()
    try:
        state, detail = OK, probe()
    except (CheckFailed, Unavailable, SettingsError) as exc:
        is_full = isinstance(exc, DiskFull) or _NO_SPACE in str(exc)
        state, detail = FAILING if is_full else _state_of_failed(name), str(exc).partition("\n")[0]
    except Exception as exc:
        state, detail = _state_of_failed(name), describe_exception(exc)
    return Check(name, state, detail, round(time.monotonic() - began, 4))


def _state_of_failed(name: str) -> str:
    """The state of a check that failed with an error. For the disk it is unknown: limits of temporary files and of time stop
    the check, and no event."""
    return UNKNOWN if name == "disk" else FAILING


def _without_postgres(name: str, why: str) -> Check:
    """A check that cannot be made. A server whose disk is full may take no connection."""
    if name == "disk" and _NO_SPACE in why:
        return Check(name, FAILING, why)
    return Check(name, UNKNOWN, "not checked")


# What each check of Postgres finds, in words. Raises CheckFailed, Unavailable or SettingsError.


def _find_version(context: AppContext, connection: sa.Connection) -> str:
    return f"PostgreSQL {startup.server_version(connection)}"


def _check_writable(context: AppContext, connection: sa.Connection) -> str:
    reason = startup.find_read_only(connection)
    if reason == "standby":
        raise CheckFailed("the server is a standby, which is read-only")
    if reason == "right":
        raise CheckFailed("the role of DATABASE_URL lacks INSERT on events")
    if reason is not None:
        raise CheckFailed("the role, the database or the server is read-only (default_transaction_read_only)")
    return "events can be inserted"


def _check_migrations(context: AppContext, connection: sa.Connection) -> str:
    migrate.check_migrated(connection)
    return f"at migration {migrate.head()} or later"


def _check_disk(context: AppContext, connection: sa.Connection) -> str:
    startup.write_temporary_file(connection)
    return "Postgres can write to its disk"


def _check_key(context: AppContext, connection: sa.Connection) -> str:
    stored = startup.find_secrets(connection)
    if failed := context.secrets.check(stored):
        raise CheckFailed(f"ENCRYPTION_KEY does not decrypt {failed} of {len(stored)} secrets")
    return f"{len(stored)} secrets decrypted"


def _check_workers(context: AppContext, connection: sa.Connection) -> str:
    alive = workers.count_alive(connection)
    if not alive:
        raise CheckFailed("no worker is alive")
    return f"{alive} alive"


def _check_jobs(context: AppContext, connection: sa.Connection) -> str:
    lateness = job_queue.find_lateness(connection)
    if lateness is None:
        return "no job is due"
    if lateness > MAX_LATENESS:
        raise CheckFailed(f"the oldest due job is {lateness:.0f} seconds late")
    return f"the oldest due job is {lateness:.1f} seconds late"


_PROBES: dict[str, Callable[[AppContext, sa.Connection], str]] = {
    "postgres": _find_version,
    "writable": _check_writable,
    "migrations": _check_migrations,
    "disk": _check_disk,
    "encryption_key": _check_key,
    "workers": _check_workers,
    "jobs": _check_jobs,
}
