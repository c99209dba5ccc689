"""READ FIRST: the way of an event into the house. The way out, from a run to the outside world, is `advance.py`.

These two, and `manage.py` for what people change, join the rooms; nothing else does, and nothing else commits.

The way in, `accept(account, event)`:
1. The account's compiled copy in memory says which workflows look at the event and what they conclude.
2. One statement, hence one transaction and one round trip, writes the event with its decisions, the runs and their queue
   jobs, for all events that come at the same time. It does so only while the copy is the current one: otherwise nothing
   is written, the copy is loaded anew, and the event is verified and matched again. An idempotency key comes with its
   event in a statement of its own. Where a workflow's pattern takes more than one event, the same is done in a
   transaction that has locked the subject's progress in these workflows and moves it along.
3. When it returns, the event is on disk and the answer may leave.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from uuid import UUID

import psycopg2
import structlog
from psycopg2 import errors
from psycopg2.extensions import connection as RawConnection

from app.core import metrics
from app.core.config import Settings
from app.core.encryption import Secrets
from app.core.group_commit import Gathering
from app.core.ids import moment_of, now, uuid7
from app.core.models import Decision, Event, NewRun, Problem, Receipt, Unavailable
from app.db import accounts, event_writes, match_state, migrate, runs
from app.db.accounts import AccountCopy, EnabledWorkflow
from app.db.connection import Database, HeldConnection, is_lost, passing_trouble_as_unavailable
from app.db.event_writes import Recording
from app.db.match_state import NOTHING, Kept, Place
from app.workflows.expressions.cel import Converted
from app.workflows.matching.filter_index import Refusal
from app.workflows.matching.pattern_ast import ANY_NAME
from app.workflows.matching.rules import Fire, Rule, Rules, Standing, compile_rule, names_of
from app.workflows.matching.state_json import lapses_at

MOST_RELOADS = 5
_MOST_TOGETHER = 200
# Characters of JSON.
_LARGE = 16 * 1024
_COPIES_KEPT = 10_000
_UNKNOWN_KEPT = 10_000
_UNKNOWN_SECONDS = 2.0
_LOCKS = 64
# It is written down that a copy was found to be the current one where that was said longer ago.
_NOTED_SECONDS = 0.1
# Clocks of hosts and of Postgres may differ by this much; more is a machine to be mended.
_MOST_SKEW = timedelta(seconds=10)
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Account:
    """A process's copy of an account: as it was read, with its rules compiled. `checked_at`: monotonic seconds at which
    Postgres was asked for it."""

    copy: AccountCopy
    rules: Rules
    checked_at: float


# The event with what an account knows beside it.
Complete = Callable[[Account, Event], Event]


class Journey:
    """One process's house: settings, database, and the copies of the accounts that it has seen."""

    def __init__(self, settings: Settings, *, clock: Callable[[], datetime] = now) -> None:
        self.settings = settings
        self.database = Database(settings)
        self.clock = clock
        self.secrets = Secrets(settings.encryption_keys)
        # The events of concurrent requests are written together.
        record = partial(event_writes.record_events, self.database)
        self._recorder = Gathering(record, portion=_MOST_TOGETHER)
        # Large ones by themselves: a portion of them would take seconds, for which all others would wait.
        self._recorder_of_large = Gathering(record, portion=1)
        self._accounts: dict[int, Account] = {}
        self._owners: dict[str, int] = {}
        self._unknown: dict[str, float] = {}
        self._key_minutes: dict[str, datetime] = {}
        self._loading = [threading.Lock() for _ in range(_LOCKS)]

    def ping(self) -> None:
        """Raises Unavailable when Postgres cannot be asked, NotMigrated when it lacks a migration of this release."""
        with self.database.transaction() as connection:
            migrate.check_migrated(connection)

    # The copies of accounts

    def account_of_key(self, prefix: str) -> Account | None:
        """The account that owns a key. Asks Postgres only for a prefix that no known account has, and for one that
        nobody has at most every two seconds; raises Unavailable."""
        account = self._accounts.get(self._owners.get(prefix, -1))
        if account is not None and prefix in account.copy.keys:
            return account
        # Prefixes are made by chance: none that somebody has tried in vain will belong to a key two seconds later.
        if time.monotonic() - self._unknown.get(prefix, -_UNKNOWN_SECONDS) < _UNKNOWN_SECONDS:
            return None
        with self._alone(hash(prefix)):
            account = self._accounts.get(self._owners.get(prefix, -1))
            if account is not None and prefix in account.copy.keys:
                return account
            asked_at = time.monotonic()
            with self.database.transaction() as connection:
                copy = accounts.find_account_by_key(connection, prefix)
            if copy is None:
                if len(self._unknown) >= _UNKNOWN_KEPT:
                    self._unknown.clear()
                self._unknown[prefix] = asked_at
            return self._keep(copy, asked_at)

    @contextmanager
    def _alone(self, number: int) -> Iterator[None]:
        """Of several threads that need the same copy one loads it. Who has to wait too long goes away with Unavailable."""
        lock = self._loading[number % _LOCKS]
        if not lock.acquire(timeout=self.settings.connect_timeout):
            raise Unavailable("another request is still loading this account")
        try:
            yield
        finally:
            lock.release()

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
        return self._load(account.copy.id, newer_than=account.copy.version)

    def _load(self, account_id: int, *, newer_than: int) -> Account | None:
        """The account as it is now. Of several threads that need it at once one asks Postgres and compiles."""
        with self._alone(account_id):
            known = self._accounts.get(account_id)
            if known is not None and known.copy.version > newer_than:
                return known
            asked_at = time.monotonic()
            with self.database.transaction() as connection:
                copy = accounts.find_account_copy(connection, account_id)
            if copy is None:
                self._accounts.pop(account_id, None)
            return self._keep(copy, asked_at)

    def _keep(self, copy: AccountCopy | None, asked_at: float) -> Account | None:
        if copy is None:
            return None
        known = self._accounts.get(copy.id)
        rules = compile_rules(copy.workflows, known.rules if known else None)
        # The documents have been read; ten thousand of them need not stay in memory.
        account = Account(replace(copy, workflows=()), rules, asked_at)
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

    def accept(
        self, account: Account, event: Event, verify: Callable[[Account], None], complete: Complete | None = None
    ) -> Receipt:
        """Store an event with all that follows from it; when this returns it is committed.

        `verify` is asked again about an account whose copy turned out to be stale, and raises Problem when the sender
        is no longer welcome; `complete` adds what the account knows beside the event. Raises Problem 422 (the
        idempotency key stands for another body; a value that Postgres cannot hold) and Unavailable.
        """
        for _ in range(MOST_RELOADS):
            asked_at = time.monotonic()
            try:
                taken = self._take(account, complete(account, event) if complete else event)
            except psycopg2.DataError as wrong:
                raise Problem(422, "Values that cannot be stored", str(wrong).splitlines()[0]) from None
            if not taken.recorded.stale:
                self.note_check(account, asked_at)
                return self._receipt(taken)
            account = self.newer(account)
            verify(account)
        raise Unavailable(f"account {account.copy.id} changes faster than its events can be matched")

    def _take(self, account: Account, event: Event) -> Taken:
        """Match and record an event by one copy of its account."""
        decisions, movable = decide_alone(account, names_of(event))
        if movable:
            return self._take_with_progress(account, event, decisions, movable)
        decisions, started = with_runs(event, decisions)
        recording = Recording(account.copy.version, event, decisions, started, _awaited(account, event))
        if event.idempotency_key is not None or event.augmented_json is not None:
            return Taken(event, decisions, started, event_writes.record_event(self.database, recording))
        large = len(event.data_json) + len(event.extra_json or "") > _LARGE
        answer = (self._recorder_of_large if large else self._recorder).ask(recording)
        if isinstance(answer, Exception):
            raise answer
        return Taken(event, decisions, started, answer)

    def _take_with_progress(
        self, account: Account, event: Event, decided: list[Decision], movable: dict[Place, Rule]
    ) -> Taken:
        """The same where it takes the subject's progress: a transaction of three round trips, its places locked.

        A connection that is lost on the way is opened anew and all of it done once more, unless the event turns out to
        be there: then only the answer got lost.
        """
        last: list[Taken] = []
        with passing_trouble_as_unavailable():
            for is_last in (False, True):
                with self.database.lend() as connection:
                    try:
                        return self._move_and_record(connection, account, event, decided, movable, last)
                    except errors.ForeignKeyViolation:
                        # A workflow was deleted meanwhile.
                        return Taken(event, [], [], event_writes.Recorded(stale=True))
                    except psycopg2.Error as trouble:
                        if is_last or not is_lost(connection, trouble):
                            raise
                        connection.close()
        raise AssertionError("unreachable")

    def _move_and_record(
        self,
        connection: HeldConnection,
        account: Account,
        event: Event,
        decided: list[Decision],
        movable: dict[Place, Rule],
        last: list[Taken],
    ) -> Taken:
        """Lock, match, record, commit; `last` receives what is about to be committed.

        What it holds from an earlier try may have been committed after all: once the locks are held that try has ended,
        and the event is there or not.
        """
        with rolled_back_on_trouble(connection):
            kept = match_state.begin_and_lock(connection, account.copy.id, list(movable))
            if last and event_writes.find_event(connection, account.copy.id, last[0].event.id) is not None:
                match_state.roll_back(connection)
                return last[0]
            event = _in_order(event, self.clock(), kept.values())
            decisions, started = with_runs(event, decided)
            moves = move_places(event, movable, kept)
            decisions += moves.decisions
            started += moves.started
            recording = Recording(account.copy.version, event, decisions, started, _awaited(account, event))
            recorded = event_writes.record_on(connection, recording)
            taken = Taken(event, decisions, started, recorded)
            if recorded.stale or recorded.earlier is not None:
                match_state.roll_back(connection)
                return taken
            last.append(taken)
            for run in moves.by_clock:
                runs.start_run(connection, account.copy.id, run, event.received_at)
            match_state.write_and_commit(connection, account.copy.id, moves.changes)
        metrics.runs_started.inc(len(moves.by_clock))
        return taken

    def fire_deadline(self, account_id: int, workflow_id: UUID, subject: str) -> None:
        """The clock has reached a deadline: its run starts, unless an event has disarmed or moved it since.

        Raises Unavailable when this machine's clock has not reached it yet: ask again a moment later.
        """
        account = self._accounts.get(account_id)
        account = self.recent(account, seconds=0) if account else self._load(account_id, newer_than=-1)
        rule = account.rules.by_workflow.get(workflow_id) if account else None
        if rule is None:
            return
        place, moment = (workflow_id, subject), self.clock()
        with passing_trouble_as_unavailable(), self.database.lend() as connection, rolled_back_on_trouble(connection):
            before = match_state.begin_and_lock(connection, account_id, [place]).get(place, NOTHING)
            if before.deadline is not None and timedelta(0) < before.deadline - moment < _MOST_SKEW:
                raise Unavailable("the deadline has not come yet by this clock")
            standing, fires = rule.expire(standing_of(before), moment)
            if standing == standing_of(before):
                match_state.roll_back(connection)
                return
            for fire in fires:
                runs.start_run(connection, account_id, run_of(rule, fire, moment), moment)
            latest = max(filter(None, (before.last_event_at, before.deadline)), default=moment)
            match_state.write_and_commit(connection, account_id, {place: (before, kept_of(standing, latest))})
        metrics.runs_started.inc(len(fires))

    def note_check(self, account: Account, asked_at: float) -> None:
        """Postgres has just said (it was asked at `asked_at`, in monotonic seconds) that this copy is the current one."""
        if asked_at - account.checked_at > _NOTED_SECONDS:
            self._accounts[account.copy.id] = replace(account, checked_at=asked_at)

    def newer(self, account: Account) -> Account:
        """The account anew, its copy having turned out to be stale. Raises Unavailable when it is gone."""
        reloaded = self._load(account.copy.id, newer_than=account.copy.version)
        if reloaded is None:
            raise Unavailable("the account was deleted while an event arrived")
        return reloaded

    def _receipt(self, taken: Taken) -> Receipt:
        event, earlier = taken.event, taken.recorded.earlier
        if earlier is not None:
            if earlier.digest != event.body_digest:
                raise Problem(
                    422,
                    "Idempotency key used before",
                    f"This idempotency key came with another body before (event {earlier.id}); "
                    "a new event needs a new key.",
                )
            metrics.events_repeated.inc()
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
        metrics.events_accepted.inc()
        if taken.started:
            metrics.runs_started.inc(len(taken.started))
        return Receipt(
            id=event.id,
            event=event.event,
            distinct_id=event.distinct_id,
            received_at=event.received_at,
            duplicate=False,
            contributing=any(decision.contributing for decision in taken.decisions),
            runs=tuple(decision.run_id for decision in taken.decisions if decision.run_id is not None),
            warnings=event.warnings,
        )


@dataclass(frozen=True, slots=True)
class Taken:
    """An event as it was recorded (its moment may be a later one than on arrival), and what followed from it."""

    event: Event
    decisions: list[Decision]
    started: list[NewRun]
    recorded: event_writes.Recorded


def decide_alone(account: Account, names: Converted) -> tuple[list[Decision], dict[Place, Rule]]:
    """What is decided by an event (its names) alone, and the workflows whose decision also takes what is kept at a place."""
    asked = account.rules.ask(names)
    decisions = [rule.decide(names) for rule in asked.alone]
    decisions += [_not_asked(refusal) for refusal in asked.refusals]
    movable: dict[Place, Rule] = {}
    for rule in asked.with_progress:
        subject = rule.subject_of(names)
        if subject is None:
            decisions.append(rule.without_subject())
        else:
            movable[(rule.workflow_id, subject)] = rule
    return decisions, movable


def _not_asked(refusal: Refusal) -> Decision:
    """Many workflows whose filters cannot be true of an event, told together."""
    return Decision(None, f"{refusal.count} workflows", None, started=False, contributing=False, reason=refusal.reason)


def _awaited(account: Account, event: Event) -> bool:
    return event.event in account.copy.awaits or ANY_NAME in account.copy.awaits


def with_runs(event: Event, decided: list[Decision]) -> tuple[list[Decision], list[NewRun]]:
    """The decisions of workflows that decide alone, each start with its run."""
    decisions, started = [], []
    for decision in decided:
        if decision.started and decision.workflow_id is not None and decision.version is not None:
            run = NewRun(
                id=uuid7(event.received_at),
                workflow_id=decision.workflow_id,
                version=decision.version,
                match_key=str(event.id),
                event_id=event.id,
                event_received_at=event.received_at,
                matched=(event.id,),
            )
            started.append(run)
            decision = replace(decision, run_id=run.id)
        decisions.append(decision)
    return decisions, started


def _in_order(event: Event, moment: datetime, kept: Iterable[Kept]) -> Event:
    """The event at the moment at which its turn has come: later than all that was looked at before in its places."""
    latest = max((known.last_event_at for known in kept if known.last_event_at is not None), default=None)
    moment = max(moment, event.received_at)
    if latest is not None and moment <= latest:
        moment = latest + timedelta(microseconds=1)
    return replace(event, id=uuid7(moment), received_at=moment)


@dataclass(frozen=True, slots=True)
class Moves:
    """What an event did at the places that it moves: decisions, the runs that it starts, those that the clock has started
    by now, and of each place what was kept before and after."""

    decisions: list[Decision]
    started: list[NewRun]
    by_clock: list[NewRun]
    changes: dict[Place, tuple[Kept, Kept]]


def move_places(event: Event, movable: Mapping[Place, Rule], kept: Mapping[Place, Kept]) -> Moves:
    """Let an event move what is `kept` at places, by their workflows' rules."""
    moves = Moves([], [], [], {})
    for place, rule in movable.items():
        before = kept.get(place, NOTHING)
        moved = rule.move(standing_of(before), event)
        moves.changes[place] = (before, kept_of(moved.standing, event.received_at))
        moves.by_clock.extend(run_of(rule, fire, event.received_at) for fire in moved.fires if fire.by_deadline)
        new = [run_of(rule, fire, event.received_at) for fire in moved.fires if not fire.by_deadline]
        moves.started.extend(new)
        moves.decisions.append(replace(moved.decision, run_id=new[0].id if new else None))
    return moves


def run_of(rule: Rule, fire: Fire, moment: datetime) -> NewRun:
    """The run that a match starts at a moment."""
    last = fire.matched[-1]
    return NewRun(
        id=uuid7(moment),
        workflow_id=rule.workflow_id,
        version=rule.version,
        match_key=f"{last}@{fire.at.isoformat()}" if fire.by_deadline else str(last),
        event_id=last,
        event_received_at=moment_of(last),
        matched=fire.matched,
    )


@contextmanager
def rolled_back_on_trouble(connection: RawConnection) -> Iterator[None]:
    """Whatever is raised in the block leaves no transaction open behind it."""
    try:
        yield
    except BaseException:
        with suppress(psycopg2.Error):
            match_state.roll_back(connection)
        raise


def standing_of(kept: Kept) -> Standing:
    """What is kept, as rules take it."""
    return Standing(kept.enablement, kept.progress or {}, kept.deadline, kept.last_started_at)


def kept_of(standing: Standing, last_event_at: datetime) -> Kept:
    """What rules give, as it is kept."""
    return Kept(
        enablement=standing.enablement,
        progress=standing.progress,
        deadline=standing.deadline,
        last_event_at=last_event_at,
        last_started_at=standing.last_started_at,
        lapses_at=lapses_at(dict(standing.progress)),
    )


def compile_rules(workflows: Iterable[EnabledWorkflow], known: Rules | None = None) -> Rules:
    """What is enabled in an account, ready to match; versions are never changed, so those in `known` are taken over.

    A version that an older release saved and this one cannot compile is left out and logged: it must not keep the
    account's events from being stored.
    """
    rules = []
    for workflow in workflows:
        before = known.by_workflow.get(workflow.id) if known else None
        if before is not None and (before.enablement, before.workflow) == (workflow.enablement, workflow.name):
            rules.append(before)
            continue
        try:
            rules.append(
                compile_rule(workflow.id, workflow.name, workflow.version, workflow.document, workflow.enablement)
            )
        except Exception:
            _log.exception("a workflow cannot be compiled and looks at no event", workflow=workflow.name)
    return Rules(rules)
