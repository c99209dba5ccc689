"""Tries and simulates a workflow on events, and on all that was stored. Changes and sends nothing."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from app.api.management.access import current
from app.api.management.request_body import invalid
from app.api.management.routes import Blueprint, route
from app.api.management.schemas.workflow_trial import (
    BacktestAnswerSchema,
    BacktestSchema,
    SimulatedSchema,
    SimulateSchema,
    TriedWorkflowSchema,
    TryWorkflowSchema,
)
from app.core.models import EVENTS_READ, WORKFLOWS_READ
from app.core.pacing import pause_if_due
from app.services import simulation, workflow_trial
from app.services.workflow_trial import Trial, TriedEvent

T = TypeVar("T")
blueprint = Blueprint(
    "workflow_trial", __name__, description="Trials: what a workflow would do. Nothing is changed or sent."
)
# Seconds of one request.
_TRIAL_SECONDS, _BACKTEST_SECONDS = 3.0, 5.0
_encoder = msgspec.json.Encoder(decimal_format="number")


@route(
    blueprint,
    "POST",
    "/workflow-try",
    WORKFLOWS_READ,
    body=TryWorkflowSchema,
    answer=TriedWorkflowSchema,
    takes_key=False,
)
def try_workflow(body: dict[str, Any]) -> Any:
    """Try a workflow

    On a stored event, or on the given events: would it start, why not, and what would each step send. Takes at most 3 seconds.
    A stored event needs the scope `events:read`, too.
    """
    if body["event_id"] is not None:
        current().check(EVENTS_READ)
    trial = _try(body)
    names = ("workflow", "missing", "earlier", "is_cut")
    return {
        **{name: getattr(trial, name) for name in names},
        "events": [_shown(event) for event in trial.events],
    }


def _try(body: dict[str, Any]) -> Trial:
    access, source = current(), body["source"]
    context, account_id = access.context, access.account_id
    given = _encoder.encode(body["answers"] or {}).decode()
    answers = _without_fault("answers", lambda: workflow_trial.read_answers(given))
    if body["event_id"] is None:
        text = _encoder.encode(body["events"]).decode()
        events = _without_fault("events", lambda: workflow_trial.read_events(text, context.clock(), account_id))
        return workflow_trial.try_own(context, account_id, source, events, answers, seconds=_TRIAL_SECONDS)
    return workflow_trial.try_stored(context, account_id, source, body["event_id"], answers, seconds=_TRIAL_SECONDS)


def _without_fault(field: str, read: Callable[[], T]) -> T:
    """What `read` returns. Raises Problem 422 when it raises ValueError."""
    try:
        return read()
    except ValueError as exc:
        raise invalid([{"field": field, "message": str(exc)}]) from None


def _shown(tried: TriedEvent) -> dict[str, Any]:
    names = ("at", "started", "contributing", "reason", "run")
    return {
        **{name: getattr(tried, name) for name in names},
        "event": None if tried.event is None else tried.event.event,
    }


@route(
    blueprint,
    "POST",
    "/workflow-simulate",
    WORKFLOWS_READ,
    body=SimulateSchema,
    answer=SimulatedSchema,
    takes_key=False,
)
def simulate_workflow(body: dict[str, Any]) -> Any:
    """Simulate a workflow

    On the given events, in the order of their times: what each contributes and starts, and why, and which deadlines expire.
    Without the steps that runs take, which a trial shows. Takes at most 3 seconds.
    """
    rule = simulation.compile_source(body["source"])
    end = time.monotonic() + _TRIAL_SECONDS
    events = [_read_event(value, number) for number, value in enumerate(body["events"])]
    items, is_cut = [], False
    for step in simulation.simulate(rule, events):
        pause_if_due()
        if is_cut := time.monotonic() > end:
            break
        items.append(_shown_step(step))
    return {"workflow": rule.workflow, "items": items, "is_cut": is_cut}


def _read_event(value: Any, number: int) -> simulation.EventView:
    pause_if_due()
    return _without_fault(f"events.{number}", lambda: simulation.read_event(_encoder.encode(value), number))


def _shown_step(step: simulation.SimulatedStep) -> dict[str, Any]:
    names = ("at", "subject", "started", "contributing", "suppressed", "reason")
    return {
        **{name: getattr(step, name) for name in names},
        "event": None if step.event is None else simulation.line_number(step.event.id),
        "used": [simulation.line_number(event_id) for event_id in step.used],
    }


@route(
    blueprint,
    "POST",
    "/workflow-backtest",
    WORKFLOWS_READ,
    more_scopes=(EVENTS_READ,),
    body=BacktestSchema,
    answer=BacktestAnswerSchema,
    takes_key=False,
)
def backtest_workflow(body: dict[str, Any]) -> Any:
    """Backtest a workflow

    Simulates a document on the stored events, subject by subject, for about 5 seconds. While `next` is not null, send it as
    `after` to continue, and add up the counts.
    """
    access = current()
    rule = simulation.compile_source(body["source"])
    tally, is_complete = simulation.tally_backtest(
        access.context, access.account_id, rule, body["since"], _BACKTEST_SECONDS, after=body["after"]
    )
    names = ("subjects", "started", "starts", "days")
    # "" is before all subjects: not even the first one was finished.
    return {
        **{name: getattr(tally, name) for name in names},
        "next": None if is_complete else tally.last_subject or "",
    }
