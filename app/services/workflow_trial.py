"""Tries a workflow on stored or own events: would it start, why not, and what would each step send. Changes and sends nothing."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from functools import partial
from math import inf
from typing import Any
from uuid import UUID

from app.actions.http_request import EXACT_JSON
from app.core.errors import Problem, ProblemType
from app.core.event_times import read_event_time
from app.core.ids import uuid7
from app.core.models import Event, Run
from app.db import event_queries, inspection, runs
from app.db.inspection import EventFilter
from app.services import integrations
from app.services.context import AppContext
from app.services.run_trial import TrialContext, TriedRun, try_run
from app.services.simulation import read_phone, read_subject, read_timestamp
from app.services.workflows import checked_document
from app.workflows.matching.rule import Rule, compile_rule, view_event
from app.workflows.matching.simulation import SimulatedStep, simulate
from app.workflows.validate import awaited_names, to_stored

# Stored events of the subject before the tried one, and after it; bytes of their data together.
MAX_NEAR, MAX_NEAR_BYTES = 1_000, 2 * 1024 * 1024
# Own events; runs with their steps.
MAX_OWN, MAX_RUNS = 100, 20


@dataclass(frozen=True, slots=True)
class TriedEvent:
    """What an event, or a deadline (`event` is None), would do, and the run that it would start (None also beyond MAX_RUNS)."""

    at: datetime
    event: Event | None
    started: bool
    contributing: bool
    reason: str
    run: TriedRun | None


@dataclass(frozen=True, slots=True)
class Trial:
    """The events in their order, with the runs. `missing`: what the account lacks; placeholders were used. `earlier`: how many
    stored events of the subject before them were looked at. `is_cut`: the time limit was reached before the last event."""

    workflow: str
    events: Sequence[TriedEvent]
    missing: Sequence[str]
    earlier: int = 0
    is_cut: bool = False


def try_file(context: AppContext, source: str, events: Sequence[Event], answers: Mapping[str, Any]) -> Trial:
    """Try a document on own events, without a database: integrations and secrets are placeholders. Raises InvalidDocument."""
    return _try_own(source, events, TrialContext(context.settings, answers=answers))


def try_own(
    context: AppContext,
    account_id: int,
    source: str,
    events: Sequence[Event],
    answers: Mapping[str, Any] | None = None,
    *,
    seconds: float = inf,
) -> Trial:
    """Try a document on own events for so many seconds, with the account's integrations. Raises InvalidDocument."""
    return _try_own(source, events, _trial_context(context, account_id, answers or {}, seconds))


def _try_own(source: str, events: Sequence[Event], trial_context: TrialContext) -> Trial:
    document = to_stored(checked_document(source).value)
    return _try(_compile(document), document, sorted(events, key=lambda event: event.received_at), trial_context)


def try_stored(
    context: AppContext,
    account_id: int,
    source: str,
    event_id: UUID,
    answers: Mapping[str, Any] | None = None,
    *,
    seconds: float = inf,
) -> Trial:
    """Try a document on a stored event, after the earlier events of its subject and before the later ones, as if the workflow had
    been enabled all the time. Raises InvalidDocument, and Problem 404."""
    document = to_stored(checked_document(source).value)
    event = runs.find_event(context.database, account_id, event_id)
    if event is None:
        raise Problem(ProblemType.NOT_FOUND, f"there is no event {event_id}")
    rule = _compile(document)
    earlier = [] if rule.is_stateless else _find_near(context, event, rule.triggers, are_later=False)
    later = _find_near(context, event, rule.triggers.union(awaited_names(document)), are_later=True)
    trial_context = _trial_context(context, account_id, answers or {}, seconds)
    trial = _try(rule, document, [*earlier, event, *later], trial_context, event)
    return replace(trial, earlier=len(earlier))


def _find_near(context: AppContext, event: Event, names: Iterable[str], *, are_later: bool) -> list[Event]:
    with context.database.transaction() as connection:
        inspection.allow_slow_statements(connection)
        return event_queries.find_events_of_subject_near(
            connection, event, sorted(names), are_later=are_later, limit=MAX_NEAR, max_bytes=MAX_NEAR_BYTES
        )


def find_latest_event(context: AppContext, account_id: int, name: str) -> UUID:
    """The id of the latest stored event of this name. Raises Problem 404."""
    with context.database.transaction() as connection:
        inspection.allow_slow_statements(connection)
        found = inspection.find_latest_events(connection, account_id, EventFilter(name), 1)
    if not found:
        raise Problem(ProblemType.NOT_FOUND, f"no event {name!r} is stored")
    return found[0].id


def read_events(text: str, now: datetime, account_id: int = 0) -> list[Event]:
    """Own events: one JSON object, a list of them, or one in each line. Without `received_at` they come now. Raises
    ValueError."""
    values = _read_values(text)
    if not 1 <= len(values) <= MAX_OWN:
        raise ValueError(f"expected 1 to {MAX_OWN} events, not {len(values):,}")
    return [read_event(value, number, now, account_id) for number, value in enumerate(values, start=1)]


def _read_values(text: str) -> list[Any]:
    try:
        whole = _parse(text)
    except ValueError:
        lines = [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
        if len(lines) < 2 or not lines[0][1].rstrip().endswith("}"):
            raise
        return [_parse(line, f"line {number}: ") for number, line in lines]
    return whole if isinstance(whole, list) else [whole]


def _parse(text: str, where: str = "") -> Any:
    try:
        return json.loads(text, parse_float=Decimal)
    except json.JSONDecodeError as exc:
        position = where or f"line {exc.lineno}, "
        raise ValueError(f"{position}not JSON: {exc.msg} at column {exc.colno}") from None
    except RecursionError:
        raise ValueError("nested too deeply") from None


def read_answers(text: str) -> Mapping[str, Any]:
    """The answers that steps get, by their ids or paths: each an object with `status`, `headers` and `body`, or a list of them
    for a step that is entered several times. Raises ValueError."""
    answers = _parse(text)
    if not isinstance(answers, dict):
        raise ValueError('expected an object such as {"ask": {"status": 200, "body": {}}}')
    for name, answer in answers.items():
        if not all(isinstance(one, dict) for one in (answer if isinstance(answer, list) else [answer])):
            raise ValueError(f"{name}: expected an object with status, headers and body, or a list of such objects")
    return answers


def read_event(value: Any, number: int, now: datetime, account_id: int = 0) -> Event:
    """An event as it would be stored; `number` makes its id. Raises ValueError."""
    if not isinstance(value, dict) or not isinstance(value.get("event"), str) or not value["event"]:
        raise ValueError('an event is an object such as {"event": "order_placed", "distinct_id": "1", "data": {}}')
    data = value.get("data") or {}
    if not isinstance(data, dict):
        raise ValueError("data must be an object")
    phone = read_phone(value.get("phone"))
    received_at = now if value.get("received_at") is None else read_timestamp(str(value["received_at"]))
    return Event(
        id=UUID(int=number),
        account_id=account_id,
        event=value["event"],
        distinct_id=read_subject(value, phone),
        phone=phone,
        data=data,
        data_json=EXACT_JSON.encode(data).decode(),
        extra_json=None,
        received_at=received_at,
        occurred_at=read_event_time(value.get("occurred_at")),
    )


def _compile(document: Mapping[str, Any]) -> Rule:
    return compile_rule(UUID(int=0), document["name"], 1, document)


def _trial_context(context: AppContext, account_id: int, answers: Mapping[str, Any], seconds: float) -> TrialContext:
    config = integrations.find_outbound_config(context, account_id)
    return TrialContext(
        context.settings,
        partial(integrations.open_integration, context, config),
        config.secrets.__contains__,
        answers,
        time.monotonic() + seconds,
    )


def _try(
    rule: Rule,
    document: Mapping[str, Any],
    events: Sequence[Event],
    trial_context: TrialContext,
    about: Event | None = None,
) -> Trial:
    """Match the events, and try each run that starts. `about`: only what this event has a part in."""
    by_id = {event.id: event for event in events}
    found: list[TriedEvent] = []
    left, is_cut = MAX_RUNS, False
    for step in simulate(rule, [view_event(event) for event in events]):
        if is_cut := trial_context.is_over:
            break
        event = None if step.event is None else by_id[UUID(step.event.id)]
        if about is not None and event is not about and about.id not in step.used:
            continue
        run = None
        if step.started and left > 0:
            left -= 1
            matched = tuple(by_id[event_id] for event_id in step.used) or ((event,) if event else ())
            run = try_run(_new_run(rule, document, matched, step), step.at, events, trial_context)
        found.append(TriedEvent(step.at, event, step.started, step.contributing, step.reason, run))
    return Trial(rule.workflow, found, sorted(trial_context.missing), is_cut=is_cut)


def _new_run(rule: Rule, document: Mapping[str, Any], matched: tuple[Event, ...], step: SimulatedStep) -> Run:
    """A run as it is when it has just been started."""
    return Run(
        id=uuid7(step.at),
        account_id=matched[-1].account_id,
        workflow_id=rule.workflow_id,
        workflow=rule.workflow,
        version=rule.version,
        document=document,
        status="running",
        at="steps[0]" if document["steps"] else None,
        ordinal=0,
        attempt=0,
        forgiven=0,
        turn=0,
        job=0,
        event=matched[-1],
        outputs={},
        matched=matched,
        used=tuple(str(event.id) for event in matched),
    )
