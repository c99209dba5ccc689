"""The account cache: a snapshot of each account that this process has seen, with its workflows compiled.

No time-out invalidates a snapshot. Each write to Postgres compares the snapshot's version with the account's; a stale
snapshot is loaded again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from uuid import UUID

import sqlalchemy as sa
import structlog

from app.core.errors import Problem, ProblemType, Unavailable
from app.core.log_config import describe_exception
from app.db import accounts, api_keys
from app.db.accounts import AccountSnapshot
from app.ingest.sources.compiled import Source, compile_sources
from app.services.context import AppContext
from app.workflows.matching.rules import Rules, compile_rules

_log = structlog.get_logger()
_MAX_ACCOUNTS = 10_000
_MAX_UNKNOWN_KEYS = 10_000
# What a process loads before it serves, and for how many seconds.
_MAX_RECENT_ACCOUNTS = 50
MAX_WARM_UP = 20.0
# Seconds for which an unknown key is not looked up again.
_UNKNOWN_KEY_SECONDS = 2.0
_LOCKS = 4_096
# Concurrent look-ups of keys: fewer than LookupBudget lets through at once, so that none of a valid key exceeds it.
_OWNER_LOCKS = 16
# Units of work of a load, for each workflow that is read, and for each event name, filter and duration that is compiled.
_READ_UNITS, _COMPILE_UNITS = 150, 1_500
_MINUTE = timedelta(minutes=1)
# Seconds after which a confirmed snapshot gets a new `checked_at`.
_CONFIRM_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Account:
    """A snapshot of an account with its compiled rules, and its sources by id. `checked_at` is when Postgres last confirmed it,
    in monotonic seconds."""

    snapshot: AccountSnapshot
    rules: Rules
    checked_at: float
    sources: Mapping[UUID, Source]


class AccountCache:
    """The accounts that one process knows, found by id or by API key prefix. `charge(account_id, units)` is called with the work
    that each load takes, to take it out of the account's share of the process."""

    def __init__(self, context: AppContext, charge: Callable[[int, float], object] | None = None) -> None:
        self._context = context
        self._charge = charge
        self._accounts: dict[int, Account] = {}
        self._account_of_key: dict[str, int] = {}
        self._unknown_keys: dict[str, float] = {}
        self._key_minutes: dict[str, datetime] = {}
        self._locks = [threading.Lock() for _ in range(_LOCKS)]

    def find_by_key(self, prefix: str) -> Account | None:
        """The account that owns an API key. Queries Postgres only for a prefix that no cached account has, and at most
        every two seconds for one that does not exist. Raises LookupLimit, Unavailable."""
        account = self._cached_by_key(prefix)
        if account is not None:
            return account
        owner = self._find_owner(prefix)
        if owner is None:
            return None
        cached = self._accounts.get(owner)
        account = self._load(owner, newer_than=-1 if cached is None else cached.snapshot.version)
        if account is None:
            self._account_of_key.pop(prefix, None)
        return account

    def _find_owner(self, prefix: str) -> int | None:
        """The id of the account that owns an API key, as Postgres has it."""
        # Prefixes are random: one that does not exist will not be created within two seconds.
        if time.monotonic() - self._unknown_keys.get(prefix, -_UNKNOWN_KEY_SECONDS) < _UNKNOWN_KEY_SECONDS:
            return None
        with self._single_flight(hash(prefix) % _OWNER_LOCKS):
            owner = self._account_of_key.get(prefix)
            # Another request has found it meanwhile.
            if owner is not None and (owner not in self._accounts or self._cached_by_key(prefix)):
                return owner
            started_at = time.monotonic()
            self._context.limits.key_lookups.spend(prefix)
            owner = api_keys.find_key_owners(self._context.database, [prefix]).get(prefix)
            if owner is None:
                if len(self._unknown_keys) >= _MAX_UNKNOWN_KEYS:
                    self._unknown_keys.clear()
                self._unknown_keys[prefix] = started_at
            else:
                self._context.limits.key_lookups.refund()
                self._account_of_key[prefix] = owner
            return owner

    def find_by_id(self, account_id: int) -> Account | None:
        """The current account, or None when there is none. Raises Unavailable."""
        account = self._accounts.get(account_id)
        return self._load(account_id, newer_than=-1) if account is None else self.refresh(account, max_age=0)

    def refresh(self, account: Account, *, max_age: float) -> Account | None:
        """The account as it was at most `max_age` seconds ago; None when it was deleted. Raises Unavailable."""
        if time.monotonic() - account.checked_at <= max_age:
            return account
        started_at = time.monotonic()
        with self._context.database.transaction() as connection:
            version = accounts.find_account_version(connection, account.snapshot.id)
        if version == account.snapshot.version:
            self._accounts[account.snapshot.id] = confirmed = replace(account, checked_at=started_at)
            return confirmed
        return self._load(account.snapshot.id, newer_than=account.snapshot.version)

    def load_recent(self) -> None:
        """Load the accounts whose keys were used within a day, for at most MAX_WARM_UP seconds. Raises Unavailable.

        Otherwise a process that starts under load would load them while requests wait.
        """
        started_at = time.monotonic()
        since = self._context.clock() - timedelta(days=1)
        with self._context.database.transaction() as connection:
            recent = api_keys.find_recent_accounts(connection, since, _MAX_RECENT_ACCOUNTS)
        for account_id in recent:
            if time.monotonic() - started_at > MAX_WARM_UP:
                return
            try:
                self.find_by_id(account_id)
            except Unavailable:
                raise
            except Exception as exc:
                # Requests of this account fail; those of others must not.
                _log.error("an account cannot be loaded", account=account_id, error=describe_exception(exc))

    def reload(self, account: Account) -> Account:
        """A newer snapshot in place of a stale one. Raises Unavailable, also when the account was deleted."""
        reloaded = self._load(account.snapshot.id, newer_than=account.snapshot.version)
        if reloaded is None:
            raise Unavailable("the account was deleted while an event arrived")
        return reloaded

    def confirm(self, account: Account, checked_at: float) -> None:
        """Record that a query sent at `checked_at` (monotonic seconds) found this snapshot to be the current one."""
        if checked_at - account.checked_at > _CONFIRM_SECONDS:
            self._accounts[account.snapshot.id] = replace(account, checked_at=checked_at)

    def record_key_use(self, prefix: str) -> None:
        """Store the minute in which a key was used: one write a minute. A missed write does no harm."""
        now, last = self._context.clock(), self._key_minutes.get(prefix)
        if last is not None and last <= now < last + _MINUTE:
            return
        self._key_minutes[prefix] = minute = now.replace(second=0, microsecond=0)
        with suppress(Unavailable), self._context.database.transaction() as connection:
            api_keys.record_key_use(connection, prefix, minute)

    def _cached_by_key(self, prefix: str) -> Account | None:
        account = self._accounts.get(self._account_of_key.get(prefix, -1))
        return account if account is not None and prefix in account.snapshot.keys else None

    @contextmanager
    def _single_flight(self, number: int) -> Iterator[None]:
        """Single-flight load per account. Raises Unavailable when the lock times out."""
        lock = self._locks[number % _LOCKS]
        if not lock.acquire(timeout=self._context.settings.connect_timeout):
            raise Unavailable("another request is still loading this account")
        try:
            yield
        finally:
            lock.release()

    def _load(self, account_id: int, *, newer_than: int) -> Account | None:
        with self._single_flight(account_id):
            cached = self._accounts.get(account_id)
            if cached is not None and cached.snapshot.version > newer_than:
                return cached
            started_at = time.monotonic()
            with self._context.database.transaction() as connection:
                snapshot = read_snapshot(connection, account_id)
            if snapshot is None:
                self._accounts.pop(account_id, None)
                return None
            return self._store(snapshot, started_at)

    def _store(self, snapshot: AccountSnapshot, checked_at: float) -> Account:
        cached = self._accounts.get(snapshot.id)
        rules = compile_rules(snapshot.workflows, cached.rules if cached else None)
        if self._charge is not None:
            self._charge(snapshot.id, _load_units(rules, cached.rules if cached else None))
        sources = compile_sources(snapshot, self._context.secrets, cached.sources if cached else {})
        # The rules replace the documents, which would only take memory.
        account = Account(replace(snapshot, workflows=(), sources=()), rules, checked_at, sources)
        if len(self._accounts) >= _MAX_ACCOUNTS:
            self._accounts.clear()
            self._account_of_key.clear()
        self._accounts[snapshot.id] = account
        self._account_of_key.update(dict.fromkeys(snapshot.keys, snapshot.id))
        return account


def _load_units(rules: Rules, known: Rules | None) -> int:
    """The units of work that it takes to make the rules from those that were known."""
    before = known.by_workflow if known else {}
    compiled = (rule for rule in rules.by_workflow.values() if before.get(rule.workflow_id) is not rule)
    return _READ_UNITS * len(rules.by_workflow) + _COMPILE_UNITS * sum(1 + len(rule.pattern.tests) for rule in compiled)


def check_open(account: Account, now: datetime) -> None:
    """Raises Problem 403 when the account is disabled or its plan has ended."""
    snapshot = account.snapshot
    if snapshot.disabled_at is not None:
        raise Problem(ProblemType.ACCOUNT_DISABLED, "The account is disabled and takes no events.")
    if snapshot.plan_ends_at is not None and snapshot.plan_ends_at <= now:
        raise Problem(ProblemType.PLAN_ENDED, f"The account's {snapshot.plan} plan has ended and it takes no events.")


def read_snapshot(connection: sa.Connection, account_id: int) -> AccountSnapshot | None:
    """The current snapshot of an account, each of its workflows with triggers; None when there is no such account."""
    return add_missing_triggers(connection, accounts.find_account_snapshot(connection, account_id))


def add_missing_triggers(connection: sa.Connection, snapshot: AccountSnapshot | None) -> AccountSnapshot | None:
    """Store the triggers of workflows that a process of an earlier release enabled; the snapshot with them."""
    if snapshot is None or all(workflow.triggers for workflow in snapshot.workflows):
        return snapshot
    # The import is slow and hardly ever needed.
    from app.services.workflows import write_missing_triggers

    write_missing_triggers(connection, snapshot.id, snapshot.workflows)
    return accounts.find_account_snapshot(connection, snapshot.id)
