"""Events, runs and subjects as JSON objects, for `--json`: numbers exact, times in UTC with microseconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec

from app.cli.terminal_text import visible_json
from app.core.ids import utc_text
from app.db.inspection import RunRow, StoredEvent
from app.services.inspection import EventDetails, RunDetails

if TYPE_CHECKING:
    from app.services.data_subjects import SubjectDetails

_RUN_FIELDS = (
    "id", "account_id", "workflow", "version", "status", "distinct_id", "event_id", "at", "attempt", "wake_at", "error",
    "created_at", "updated_at", "finished_at",
)  # fmt: skip
_JSON = msgspec.json.Encoder(decimal_format="number")


def to_json(value: Mapping[str, Any]) -> str:
    """An object as one line of JSON."""
    return visible_json(_JSON.encode(_with_utc_text(value)).decode())


def _with_utc_text(value: Any) -> Any:
    if isinstance(value, datetime):
        return utc_text(value)
    if isinstance(value, Mapping):
        return {name: _with_utc_text(member) for name, member in value.items()}
    return [_with_utc_text(member) for member in value] if isinstance(value, list | tuple) else value


def event_fields(event: StoredEvent) -> dict[str, Any]:
    """An event."""
    return {
        "id": event.id,
        "account_id": event.account_id,
        "event": event.event,
        "distinct_id": event.distinct_id,
        "phone": event.phone,
        "data": msgspec.Raw(event.data_json.encode()),
        "extra": msgspec.Raw((event.extra_json or "null").encode()),
        "augmented": msgspec.Raw((event.augmented_json or "null").encode()),
        "received_at": event.received_at,
        "occurred_at": event.occurred_at,
        "decisions": event.decisions,
        "idempotency_key": event.idempotency_key,
        "warnings": event.warnings,
    }


def run_fields(run: RunRow) -> dict[str, Any]:
    """A run without its steps."""
    return {name: getattr(run, name) for name in _RUN_FIELDS}


def event_details(details: EventDetails) -> dict[str, Any]:
    """An event with the runs that it started."""
    return {**event_fields(details.event), "runs": [run_fields(run) for run in details.runs]}


def run_details(details: RunDetails) -> dict[str, Any]:
    """A run with its event (null: deleted), the ids of the events of its match, its steps, attempts and blocks. A step and its
    attempts have the same `ordinal`; `until` is when a waiting step ends at the latest."""
    return {
        **run_fields(details.run),
        "matched": details.run.matched,
        "event": details.event and event_fields(details.event),
        "steps": [{**asdict(step), "until": details.ends.get(step.ordinal)} for step in details.steps],
        "attempts": [asdict(attempt) for attempt in details.attempts],
        "blocks": [run_details(block) for block in details.blocks],
    }


def subject_details(subject: str, details: SubjectDetails) -> dict[str, Any]:
    """What is stored about a subject."""
    return {
        "distinct_id": subject,
        "progress": [asdict(row) for row in details.progress],
        "runs": [run_fields(run) for run in details.runs],
        "events": [event_fields(event) for event in details.events],
    }
