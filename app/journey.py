"""READ FIRST: the way of an event into the house. The way out, from a run to the outside world, is `advance.py`.

These two, and `manage.py` for what people change, join the rooms; nothing else does, and nothing else commits.

The way in, `accept(account, event)`:
1. The account's compiled copy in memory says which workflows look at the event and what they conclude.
2. One statement, hence one transaction and one round trip, writes the idempotency key, the event with its decisions, the
   runs and their queue jobs. It does so only while the copy is the current one: otherwise nothing is written, the copy is
   loaded anew, and the event is verified and matched again.
3. When it returns, the event is on disk and the answer may leave.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime

import psycopg2
import structlog

from app import meters
from app.identifiers import now, uuid7
from app.match.rules import ANY_NAME, Rule, Rules, compile_pattern
from app.secrets import Secrets
from app.settings import Settings
from app.store import accounts, events
from app.store.accounts import AccountCopy, EnabledWorkflow
from app.store.connections import Database
from app.words import Decision, Event, NewRun, Problem, Receipt, Unavailable

_MOST_RELOADS = 5
_COPIES_KEPT = 10_000
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Account:
    """A process's copy of an account: as it was read, with its rules compiled. `checked_at`: monotonic seconds at which
    Postgres was asked for it."""

    copy: AccountCopy
    rules: Rules
    checked_at: float


class Journey:
    """One process's house: settings, database, and the copies of the accounts that it has seen."""

    def __init__(self, settings: Settings, *, clock: Callable[[], datetime] = now) -> None:
        self.settings = settings
        self.database = Database(settings)
        self.clock = clock
        self.secrets = Secrets(settings.encryption_keys)
        self._accounts: dict[int, Account] = {}
        self._owners: dict[str, int] = {}
        self._key_minutes: dict[str, datetime] = {}

    def ping(self) -> None:
        """Raises Unavailable when Postgres does not answer."""
        with self.database.transaction() as connection:
            connection.exec_driver_sql("SELECT 1")

    # The copies of accounts

    def account_of_key(self, prefix: str) -> Account | None:
        """The account that owns a key. Asks Postgres only for a prefix that no known account has; raises Unavailable."""
        account = self._accounts.get(self._owners.get(prefix, -1))
        if account is not None and prefix in account.copy.keys:
            return account
        asked_at = time.monotonic()
        with self.database.transaction() as connection:
            return self._keep(accounts.find_account_by_key(connection, prefix), asked_at)

    def recent(self, account: Account, *, seconds: float) -> Account | None:
        """The account as it was at most `seconds` ago, asking Postgres if need be; None when it is gone."""
        if time.monotonic() - account.checked_at <= seconds:
            return account
        asked_at = time.monotonic()
        with self.database.transaction() as connection:
            version = accounts.find_account_version(connection, account.copy.id)
        if version == account.copy.version:
            self._accounts[account.copy.id] = kept = replace(account, checked_at=asked_at)
            return kept
        return self._reload(account)

    def _reload(self, account: Account) -> Account | None:
        asked_at = time.monotonic()
        with self.database.transaction() as connection:
            copy = accounts.find_account_copy(connection, account.copy.id)
        if copy is None:
            self._accounts.pop(account.copy.id, None)
        return self._keep(copy, asked_at)

    def _keep(self, copy: AccountCopy | None, asked_at: float) -> Account | None:
        if copy is None:
            return None
        account = Account(copy, compile_rules(copy.workflows), asked_at)
        if len(self._accounts) >= _COPIES_KEPT:
            self._accounts.clear()
            self._owners.clear()
        self._accounts[copy.id] = account
        self._owners.update(dict.fromkeys(copy.keys, copy.id))
        return account

    def note_key_use(self, prefix: str) -> None:
        """Remember the minute in which a key was used: one write a minute, whatever the load. It's OK to miss one."""
        minute = self.clock().replace(second=0, microsecond=0)
        if self._key_minutes.get(prefix) == minute:
            return
        self._key_minutes[prefix] = minute
        with suppress(Unavailable), self.database.transaction() as connection:
            accounts.note_key_use(connection, prefix, minute)

    # The way in

    def accept(self, account: Account, event: Event, verify: Callable[[Account], None]) -> Receipt:
        """Store an event with all that follows from it; when this returns it is committed.

        `verify` is asked again about an account whose copy turned out to be stale, and raises Problem when the sender
        is no longer welcome. Raises Problem 422 (the idempotency key stands for another body; a value that Postgres
        cannot hold) and Unavailable.
        """
        for _ in range(_MOST_RELOADS):
            decisions, started = self._match(account, event)
            asked_at = time.monotonic()
            try:
                recorded = events.record_event(
                    self.database,
                    account.copy.version,
                    event,
                    decisions,
                    started,
                    awaited=event.event in account.copy.awaits or ANY_NAME in account.copy.awaits,
                )
            except psycopg2.DataError as wrong:
                raise Problem(422, "Values that cannot be stored", str(wrong).splitlines()[0]) from None
            if not recorded.stale:
                self._accounts[account.copy.id] = replace(account, checked_at=asked_at)
                return self._receipt(event, decisions, started, recorded.earlier)
            reloaded = self._reload(account)
            if reloaded is None:
                raise Unavailable("the account was deleted while an event arrived")
            account = reloaded
            verify(account)
        raise Unavailable(f"account {account.copy.id} changes faster than its events can be matched")

    def _match(self, account: Account, event: Event) -> tuple[list[Decision], list[NewRun]]:
        decisions, started = [], []
        for decision in account.rules.decide(event):
            if decision.started:
                run = NewRun(uuid7(event.received_at), decision.workflow_id, decision.version, str(event.id))
                started.append(run)
                decision = replace(decision, run_id=run.id)
            decisions.append(decision)
        return decisions, started

    def _receipt(
        self, event: Event, decisions: list[Decision], started: list[NewRun], earlier: events.EarlierEvent | None
    ) -> Receipt:
        if earlier is not None:
            if earlier.digest != event.body_digest:
                raise Problem(
                    422,
                    "Idempotency key used before",
                    f"This idempotency key came with another body before (event {earlier.id}); "
                    "a new event needs a new key.",
                )
            meters.events_repeated.inc()
            return Receipt(
                id=earlier.id,
                event=event.event,
                distinct_id=event.distinct_id,
                received_at=earlier.received_at,
                duplicate=True,
                contributing=False,
                runs=(),
                warnings=event.warnings,
            )
        meters.events_accepted.inc()
        meters.runs_started.inc(len(started))
        return Receipt(
            id=event.id,
            event=event.event,
            distinct_id=event.distinct_id,
            received_at=event.received_at,
            duplicate=False,
            contributing=any(decision.contributing for decision in decisions),
            runs=tuple(run.id for run in started),
            warnings=event.warnings,
        )


def compile_rules(workflows: Iterable[EnabledWorkflow]) -> Rules:
    """What is enabled in an account, ready to match. A version that an older release saved and this one cannot compile
    is left out and logged: it must not keep the account's events from being stored."""
    rules = []
    for workflow in workflows:
        try:
            pattern = compile_pattern(workflow.document["on"])
        except Exception:
            _log.exception("a workflow cannot be compiled and looks at no event", workflow=workflow.name)
            continue
        rules.append(Rule(workflow.id, workflow.name, workflow.version, pattern))
    return Rules(rules)
