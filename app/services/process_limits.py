"""What a process does at most for one account and for all of them at the same time, so that one account cannot use all of it."""

from __future__ import annotations

from copy import copy
from functools import partial

from app.core.concurrency_limit import ConcurrencyLimit
from app.core.config import Settings
from app.core.lookup_budget import LookupBudget
from app.core.work_shares import SHARE, WorkShares
from app.db import api_keys, messages
from app.db.connection import Database

# One account uses at most this fraction of the connections for events, except for those that many events share.
_SHARE = 3
# Connections that are left for these, whatever all accounts do.
_RESERVED = 2
# Large bodies of an account that a process holds at once.
_LARGE_BODIES = 4
# Seconds for which work for people waits at least: about a piece of it is done between two waits.
_WAIT = 0.005
# Pages of the console, and requests of the management API, that a process answers at once.
_CONSOLE, _MANAGEMENT = 2, 4
# Connections that such a request needs: for its use case, and for its Idempotency-Key.
_CONNECTIONS = 2


class ProcessLimits:
    """The limits of one process: concurrent operations, shares of its time, and failed look-ups of secrets."""

    def __init__(self, settings: Settings, database: Database) -> None:
        seconds = settings.connect_timeout
        # A transaction that waits for the lock of a subject, or writes a batch, keeps its connection meanwhile.
        at_once = max(1, settings.database_pool // _SHARE)
        together = max(1, settings.database_pool - _RESERVED)
        self.events = ConcurrencyLimit(at_once, seconds, together=together)
        self.shares = WorkShares()
        # What the console, the management API and CxEngage's resources do for people is slower than events: a quarter of a core
        # for all accounts together, and at its own cost, so that it postpones no events.
        self.shares_of_people = WorkShares(share_of_all=SHARE, tick=_WAIT, other_work=self.shares)
        # Changes of an account wait for its lock, and compile its patterns.
        self.changes = ConcurrencyLimit(1, seconds, shares=self.shares_of_people)
        # Parsing a large body or a batch.
        self.bodies = ConcurrencyLimit(1, seconds)
        # From before a large body is read until its answer.
        self.large_bodies = ConcurrencyLimit(_LARGE_BODIES, seconds)
        # Pages of the console and requests of the management API leave connections to each other. Of the processor, all of them
        # get what `shares_of_people` has, however many there are.
        self.console_pages = ConcurrencyLimit(1, seconds, together=_CONSOLE, shares=self.shares_of_people)
        requests = max(1, min(_MANAGEMENT, together // _CONNECTIONS))
        self.management_requests = ConcurrencyLimit(1, seconds, together=requests, shares=self.shares_of_people)
        self.key_lookups = LookupBudget(partial(api_keys.find_key_owners, database))
        self.client_lookups = LookupBudget(partial(api_keys.find_client_ids, database))
        self.ticket_lookups = LookupBudget(partial(messages.find_ticket_digests, database))

    def with_own_shares(self) -> ProcessLimits:
        """The same limits with shares of their own, in which everything else is shared."""
        limits = copy(self)
        limits.shares = WorkShares()
        return limits
