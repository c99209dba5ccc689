"""Counts what workers do with runs, for /metrics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.actions import ACTIONS
from app.core import metrics
from app.core.models import Outcome, Run
from app.db.run_updates import RunUpdate


def count_update(run: Run, update: RunUpdate) -> None:
    """Count a run that a written update ends. The blocks of a run are no runs here."""
    if update.status != "running" and run.parent_id is None:
        metrics.runs_ended.labels(update.status).inc()


def observe_attempt(step: Mapping[str, Any], outcome: Outcome, seconds: float) -> None:
    """Observe one attempt of an action."""
    action = next(name for name in step if name in ACTIONS)
    metrics.attempt_seconds.labels(action, outcome.kind).observe(seconds)
