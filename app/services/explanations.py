"""Says why each workflow did, or did not, start for a person: one sentence for each workflow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from app.core.errors import Problem, ProblemType
from app.core.ids import utc_text
from app.db import explanations, inspection
from app.db.explanations import DecidedEvent, Disabled, StepFault, WorkflowState
from app.db.inspection import RunFilter, RunRow
from app.db.late_decisions import LATE
from app.services.context import AppContext
from app.services.data_subjects import ProgressDetails, find_progress

MAX_WORKFLOWS = 200
# The latest events and runs of a person that are looked at.
MAX_EVENTS, MAX_RUNS = 500, 500
_MAX_FAULTS, _MAX_NAMES = 200, 3
# What became of a workflow for a person.
STARTED, WAITS, DISABLED, NOT_SENT, NOT_STARTED = "started", "waits", "disabled", "not-sent", "not-started"


@dataclass(frozen=True, slots=True)
class Answer:
    """Why a workflow did or did not start: `kind` is one of the constants above. `run`, `event`: what the sentence is about."""

    workflow: str
    kind: str
    sentence: str
    run: UUID | None = None
    event: UUID | None = None


@dataclass(frozen=True, slots=True)
class _Facts:
    """What is known of a person, by the names of workflows."""

    events: Sequence[DecidedEvent]
    runs: Mapping[str, RunRow]
    faults: Mapping[UUID, StepFault]
    progress: Mapping[str, ProgressDetails]
    disabled: Mapping[str, Disabled]
    now: datetime


def explain_starts(context: AppContext, account_id: int, subject: str, workflow: str | None = None) -> list[Answer]:
    """An answer for each workflow of the account, by name, at most MAX_WORKFLOWS; or for one `workflow`. Raises Problem 404."""
    with context.database.transaction() as connection:
        inspection.allow_slow_statements(connection)
        states = explanations.list_workflow_states(connection, account_id, workflow, MAX_WORKFLOWS)
        if workflow is not None and not states:
            raise Problem(ProblemType.NOT_FOUND, f"there is no workflow {workflow!r}")
        wanted = RunFilter(workflow=workflow, subject=subject)
        runs: dict[str, RunRow] = {}
        for run in inspection.find_latest_runs(connection, account_id, wanted, MAX_RUNS):
            runs.setdefault(run.workflow, run)
        ended = [run.id for run in runs.values() if run.status == "done"]
        faults = explanations.find_faults(connection, account_id, ended, _MAX_FAULTS)
        off = [state.name for state in states if state.enabled_version is None]
        facts = _Facts(
            events=explanations.find_decided_events(connection, account_id, subject, MAX_EVENTS),
            runs=runs,
            faults={fault.run_id: fault for fault in faults[::-1]},
            progress={row.workflow: row for row in find_progress(connection, account_id, subject, context.clock())},
            disabled=explanations.find_disabled(connection, account_id, off),
            now=context.clock(),
        )
    return [_explain(state, facts) for state in states]


def _explain(state: WorkflowState, facts: _Facts) -> Answer:
    run, seen = facts.runs.get(state.name), _last_seen(state, facts.events)
    if run is not None:
        return _explain_run(run, seen, facts)
    if state.enabled_version is None:
        return Answer(state.name, DISABLED, _explain_disabled(state, facts.disabled.get(state.name)))
    progress = facts.progress.get(state.name)
    if progress is not None and progress.is_live:
        return Answer(
            state.name,
            WAITS,
            f"It has not started yet: {progress.description}.",
            event=None if seen is None else seen.id,
        )
    if seen is None:
        return Answer(state.name, NOT_SENT, _explain_absence(state, facts.events))
    return Answer(state.name, NOT_STARTED, _explain_decision(state, seen, progress), event=seen.id)


def _last_seen(state: WorkflowState, events: Sequence[DecidedEvent]) -> DecidedEvent | None:
    """The latest event that the workflow has decided about, or else the latest that it would look at."""
    looked = next((event for event in events if _decision_of(state.name, event) is not None), None)
    return looked or next((event for event in events if {"*", event.event} & set(state.names)), None)


def _decision_of(workflow: str, event: DecidedEvent) -> Mapping[str, Any] | None:
    """The decision of a workflow about an event; None when there is none. More than 20 workflows may have one together."""
    found = (one for one in event.decisions if workflow == one["workflow"] or workflow in one.get("workflows", ()))
    return next(found, None)


def _explain_run(run: RunRow, seen: DecidedEvent | None, facts: _Facts) -> Answer:
    sentence = f"It started at {utc_text(run.created_at)}, and {_state_of(run, facts)}."
    decision = None if seen is None or seen.received_at <= run.created_at else _decision_of(run.workflow, seen)
    if seen is not None and decision is not None and not decision["started"]:
        sentence += f" {seen.event} at {utc_text(seen.received_at)} {_describe_later(decision)}."
    return Answer(run.workflow, STARTED, sentence, run.id, run.event_id)


def _describe_later(decision: Mapping[str, Any]) -> str:
    """What an event after the start of a run did not do."""
    reason: str = decision["reason"]
    if reason.startswith(_SUPPRESSED):
        return _describe_limit(reason)
    return f"was taken into account: {reason}" if decision.get("contributing") else f"started no other: {reason}"


def _state_of(run: RunRow, facts: _Facts) -> str:
    """What became of a run, as the end of a sentence."""
    error, ended = f": {run.error}" if run.error else "", utc_text(run.finished_at or run.updated_at)
    if run.status == "failed":
        return f"the run failed at {ended}{error}"
    if run.status == "cancelled":
        return f"the run was cancelled at {ended}{error}"
    if run.status == "exited":
        return f"the run ended early at {ended}{error}"
    if run.status == "done":
        fault = facts.faults.get(run.id)
        return f"the run ended at {ended}" + ("" if fault is None else f", but {_describe_fault(fault)}")
    if run.wake_at is None:
        return f"the run waits at {run.at or 'its end'} for its parallel blocks"
    if run.wake_at > facts.now:
        return f"the run waits at {run.at or 'its end'} until {utc_text(run.wake_at)} at most"
    return f"the run is at {run.at or 'its end'}, and due since {utc_text(run.wake_at)}"


def _describe_fault(fault: StepFault) -> str:
    verb = "was skipped" if fault.status == "skipped" else "failed"
    return f"{fault.path} ({fault.action}) {verb}" + (f": {fault.error}" if fault.error else "")


def _explain_disabled(state: WorkflowState, disabled: Disabled | None) -> str:
    if disabled is not None:
        return f"The workflow is disabled since {utc_text(disabled.at)} (by {disabled.actor})."
    return "The workflow is disabled." if state.enablement else "The workflow was never enabled."


def _explain_absence(state: WorkflowState, events: Sequence[DecidedEvent]) -> str:
    names = ", ".join(state.names[:_MAX_NAMES]) + (" …" if len(state.names) > _MAX_NAMES else "")
    if "*" in state.names or not events:
        return "No event of this person is stored" + ("." if "*" in state.names else f", so none named {names}.")
    among = f"the latest {MAX_EVENTS} events" if len(events) == MAX_EVENTS else "the stored events"
    return f"The event {names} was never sent: {among} of this person have other names."


def _explain_decision(state: WorkflowState, seen: DecidedEvent, progress: ProgressDetails | None) -> str:
    """Why the last event that concerns the workflow did not start it."""
    came = f"{seen.event} at {utc_text(seen.received_at)}"
    decision = _decision_of(state.name, seen)
    if decision is None:
        return f"{came} came when the workflow was not enabled, or with another version of it."
    reason = decision["reason"]
    if decision["started"]:
        return f"{came} started it, but the run is not stored any more."
    if reason == "the filter is false":
        where = _filter_text(state, seen.event) if decision["version"] == state.enabled_version else ""
        return f"{came} came, but the filter {where}was false."
    if reason == LATE:
        return f"{came} came, and a worker has not evaluated it yet."
    if reason.startswith(_SUPPRESSED):
        last = progress and progress.last_started_at
        limit = reason.removeprefix("suppressed: again ").strip("()")
        return f"{came} matched, but the person is limited: {limit}" + (
            f"; it last started at {utc_text(last)}." if last else "."
        )
    return f"{came} came, but did not start it: {reason}."


_SUPPRESSED = "suppressed: again "


def _describe_limit(reason: str) -> str:
    """What `again` of a workflow has prevented."""
    return f"matched, but the person is limited: {reason.removeprefix(_SUPPRESSED).strip('()')}"


def _filter_text(state: WorkflowState, name: str) -> str:
    """The filter of a pattern of one event, with a space behind it; empty for other patterns."""
    on = state.document.get("on")
    where = on.get("where") if isinstance(on, Mapping) and on.get("event") in (name, "*") else None
    return f"{where} " if isinstance(where, str) else ""
