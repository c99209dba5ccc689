"""Match state: how far one subject has come in one workflow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID


@dataclass(frozen=True, slots=True)
class MatchState:
    """The progress of one subject in a workflow's pattern since `enablement`, and when it last started a run."""

    enablement: int | None = None
    progress: Mapping[str, Any] | None = None
    deadline: datetime | None = None
    last_started_at: datetime | None = None


NO_MATCH_STATE = MatchState()


@dataclass(frozen=True, slots=True)
class Match:
    """A complete match: the events that it used in order, and when it was complete. `by_deadline`: a deadline completed
    it, not an event."""

    used: tuple[UUID, ...]
    at: datetime
    by_deadline: bool = False
