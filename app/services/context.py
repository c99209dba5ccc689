"""The state that one process shares: settings, database, clock and secrets, with the limits of the process."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from datetime import datetime

from app.core.config import Settings
from app.core.encryption import Secrets
from app.core.ids import now
from app.core.models import SIGNALBOX, Actor
from app.db.connection import Database
from app.services.process_limits import ProcessLimits


class AppContext:
    """Settings, database, clock and secrets of one process. `limits` bounds what accounts use of it; `actor` is who changes
    something, for the audit log. Opens no connection before the first query."""

    def __init__(self, settings: Settings, *, clock: Callable[[], datetime] = now) -> None:
        self.settings = settings
        self.database = Database(settings)
        self.clock = clock
        self.secrets = Secrets(settings.encryption_keys)
        self.limits = ProcessLimits(settings, self.database)
        self.actor = SIGNALBOX
        # Whether settings and database have fitted once (startup_checks.py).
        self.are_settings_checked = False

    def acting_as(self, actor: Actor) -> AppContext:
        """The same context, for what `actor` changes. They share everything else."""
        context = copy(self)
        context.actor = actor
        return context

    def with_own_shares(self) -> AppContext:
        """The same context with shares of its own, in which everything else is shared: for another thread."""
        context = copy(self)
        context.limits = self.limits.with_own_shares()
        return context
