"""What is written of an accepted event: the record and its JSON columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import msgspec

from app.core.models import Decision, Event, NewRun
from app.core.unstorable import replace_unstorable
from app.db.idempotency_keys import EarlierEvent

_encoder = msgspec.json.Encoder()


@dataclass(frozen=True, slots=True)
class EventRecord:
    """An event with its decisions and new runs. It is written only if `account_version` is the account's current version.
    `awaited`: a job is enqueued that looks for runs which wait for the event or end by it."""

    account_version: int
    event: Event
    decisions: Sequence[Decision]
    runs: Sequence[NewRun]
    awaited: bool = False


@dataclass(frozen=True, slots=True)
class RecordResult:
    """Whether an event was recorded.

    `stale`: nothing was written, since the account snapshot is stale. `earlier`: nothing was written, since the idempotency
    key stands for that event. Neither: the event is recorded.
    """

    stale: bool = False
    earlier: EarlierEvent | None = None


class _DecisionRow(msgspec.Struct, omit_defaults=True, gc=False):
    """A decision in the `decisions` column."""

    workflow: str
    version: int | None
    started: bool
    reason: str
    run: UUID | None = None
    contributing: bool = False


def decisions_json(decisions: Sequence[Decision]) -> str | None:
    """The `decisions` column: a list of objects, one per workflow that looked at the event; None when none did."""
    if not decisions:
        return None
    return to_json(
        [
            _DecisionRow(
                decision.workflow,
                decision.version,
                decision.started,
                # The reason may quote an unstorable character of a filter.
                replace_unstorable(decision.reason),
                decision.run_id,
                decision.contributing and not decision.started,
            )
            for decision in decisions
        ]
    )


def warnings_json(event: Event) -> str | None:
    """The `warnings` column."""
    return to_json(event.warnings) if event.warnings else None


def to_json(value: Any) -> str:
    """JSON text. Raises ValueError when `value` contains a lone surrogate."""
    return _encoder.encode(value).decode()
