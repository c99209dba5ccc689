"""What steps and events do to runs: a claimed run and what happened become the `RunUpdate` to write. Pure.

`app/worker/executor.py` performs actions and writes the updates, `app/worker/event_correlation.py` finds the events;
`workflow_trial.py` tries a workflow by the same rules and writes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from random import Random
from typing import Any

import msgspec

from app.actions import ACTIONS, retry_policy
from app.core.durations import read_duration
from app.core.ids import utc_text
from app.core.models import Event, Outcome, Run
from app.db.run_trees import FailedBlock
from app.db.run_updates import NewBlock, RunUpdate, StepRow
from app.workflows import step_graph
from app.workflows.expressions.cel import compile_expression
from app.workflows.expressions.work_budget import Budget

# A step may be deferred for this long without using up its attempts.
_MAX_DEFERRED = timedelta(days=1)
# Bytes of all variables of a run, as JSON.
_MAX_VARIABLES = 256 * 1024
_JSON = msgspec.json.Encoder(decimal_format="number")

# The steps that are not actions.
CONTROL_STEPS = tuple(verb for verb in step_graph.VERBS if verb not in ACTIONS)


def template_names(run: Run, now: datetime) -> dict[str, Any]:
    """The names that templates and expressions of a run's steps can read."""
    latest: dict[str, Any] = {}
    for event in run.matched:
        latest |= event.data
    return {
        **event_names(run.event),
        "now": now,
        "run": {"id": str(run.id), "workflow": run.workflow, "version": run.version},
        "steps": run.outputs,
        "matched": [event_names(event) for event in run.matched],
        "vars": run.variables,
        "latest": latest,
        "last": run.last,
    }


def event_names(event: Event) -> dict[str, Any]:
    """What templates and expressions can read of an event."""
    return {
        "event": event.event,
        "distinct_id": event.distinct_id,
        "phone": event.phone,
        "data": event.data,
        "received_at": event.received_at,
        "occurred_at": event.occurred_at,
    }


def last_result(status: str, output: Mapping[str, Any] | None, error: str | None) -> Mapping[str, Any]:
    """What later steps read of an action as `last`: the fields of the response body, or the error."""
    if status == "failed":
        return {"error": error}
    if output is None or "body" not in output:
        return output or {}
    body = output["body"]
    return body if isinstance(body, Mapping) else {"body": body}


# Waits and events


def wait(run: Run, now: datetime) -> RunUpdate:
    """A `wait`: entered for the first time it begins; the second time it is over."""
    if run.step_started_at is None:
        return begin_wait(run, now, now + read_duration(_step(run)["wait"]))
    row = _step_row(run, "done", run.step_started_at)
    return _advance(run, row, step_graph.next_step(run.document, str(run.at)), now)


def begin_wait(run: Run, now: datetime, until: datetime) -> RunUpdate:
    """The run waits at its step; its next job is due `until`."""
    row = _step_row(run, "waiting", now)
    return replace(_same_step(run, row), attempt=0, job=run.job + 1, wake_at=until, step_started_at=now)


def event_received(run: Run, event: Event, now: datetime) -> RunUpdate:
    """The event of a `wait_for` has come: continue in `then`, by a new job that is due now."""
    names = event_names(event)
    times = {name: None if names[name] is None else utc_text(names[name]) for name in ("received_at", "occurred_at")}
    output = {"arrived": True, **names, **times, "id": str(event.id)}
    row = _step_row(run, "done", run.step_started_at or now, output)
    update = _advance(run, row, step_graph.enter_block(run.document, str(run.at), "then"), now)
    return update if update.at is None else replace(update, job=run.job + 1)


def wait_timed_out(run: Run, now: datetime, why: str | None = None) -> RunUpdate:
    """The event of a `wait_for` has not come in time: continue in `else`. `why`: its filter could not be evaluated."""
    output = {"arrived": False, **({"why": why} if why else {})}
    row = _step_row(run, "done", run.step_started_at or now, output, why)
    return _advance(run, row, step_graph.enter_block(run.document, str(run.at), "else"), now)


def exit_run(run: Run, event: Event, now: datetime) -> RunUpdate:
    """The run ends at its step by `exit_on`."""
    reason = exit_reason(event)
    row = _step_row(run, "skipped", run.step_started_at or now, error=reason)
    return replace(_same_step(run, row), status="exited", error=reason)


def exit_reason(event: Event) -> str:
    """Why a run has ended by `exit_on`, in one line."""
    return f"exit_on: {event.event} (event {event.id})"


# Control steps


def choose_branch(run: Run, now: datetime, budget: Budget) -> RunUpdate:
    """An `if`: continue in `then` or `else`. A condition that cannot be evaluated is false; in a strict step it fails the run."""
    holds, why = compile_expression(_step(run)["if"]).evaluate(template_names(run, now), budget)
    if why is not None and _is_strict(run):
        return _fail_evaluation(run, f"{step_graph.IF}: {why}", now)
    branch = "then" if holds else "else"
    row = _step_row(run, "done", now, {"taken": branch, **({"why": why} if why else {})}, why)
    return _advance(run, row, step_graph.enter_block(run.document, str(run.at), branch), now)


def set_variables(run: Run, now: datetime, budget: Budget) -> RunUpdate:
    """A `set`: each value can read those before it. A value that cannot be evaluated is null, and the step says why; in a
    strict step it fails the run."""
    names, variables, reasons = template_names(run, now), dict(run.variables), []
    output = {}
    for name, text in step_graph.list_assignments(_step(run)):
        value, why = (text, None)
        if isinstance(text, str):
            value, why = compile_expression(text).value({**names, "vars": variables}, budget)
        if len(_JSON.encode({**variables, name: value})) > _MAX_VARIABLES:
            value, why = None, f"all variables together exceed {_MAX_VARIABLES} bytes"
        if why is not None and _is_strict(run):
            return _fail_evaluation(run, f"{step_graph.SET}.{name}: {why}", now)
        variables[name] = output[name] = value
        if why is not None:
            reasons.append(f"{name}: {why}")
    row = _step_row(run, "done", now, output, "; ".join(reasons)[:1_000] or None)
    return _advance(run, row, step_graph.next_step(run.document, str(run.at)), now)


def repeat(run: Run, now: datetime, budget: Budget) -> RunUpdate:
    """A `repeat`, before each round: begin another round, or continue after the step.

    A condition that cannot be evaluated is false. In a strict step it fails the run, except before the first round, since
    the condition may read what a round does.
    """
    step = _step(run)
    is_over, why = compile_expression(step["until"]).evaluate(template_names(run, now), budget)
    if why is not None and run.rounds > 0 and _is_strict(run):
        return _fail_evaluation(run, f"until: {why}", now)
    ended = "until" if is_over else "most" if run.rounds >= step.get("most", step_graph.DEFAULT_ROUNDS) else None
    output = {"rounds": run.rounds, **({"ended": ended} if ended else {}), **({"why": why} if why else {})}
    row = _step_row(run, "done", now, output, why)
    if ended:
        return replace(_advance(run, row, step_graph.next_step(run.document, str(run.at)), now), rounds=0)
    inside = step_graph.enter_block(run.document, str(run.at), step_graph.REPEAT)
    return replace(_advance(run, row, inside, now), rounds=run.rounds + 1)


def _fail_evaluation(run: Run, reason: str, now: datetime) -> RunUpdate:
    """The run fails at a strict step; `reason` begins with the field of the step."""
    error = f"{run.at}.{reason}"
    return _failed(run, _step_row(run, "failed", now, error=error), error, "expression")


def fork(run: Run, now: datetime) -> RunUpdate:
    """A `par` begins: its blocks start, and the last one that ends enqueues the run's next job."""
    blocks = [NewBlock(number, at) for number, at in step_graph.parallel_blocks(run.document, str(run.at))]
    if not blocks:
        return join(run, [], now)
    return replace(begin_wait(run, now, now), wake_at=None, blocks=blocks)


def join(run: Run, failed: Sequence[FailedBlock], now: datetime) -> RunUpdate:
    """All blocks of a `par` have ended: continue after it, or fail if any of them failed."""
    started_at = run.step_started_at or now
    if not failed:
        row = _step_row(run, "done", started_at)
        return _advance(run, row, step_graph.next_step(run.document, str(run.at)), now)
    error = "; ".join(block.error for block in failed)[:1_000]
    row, first = _step_row(run, "failed", started_at, error=error), failed[0]
    return replace(_failed(run, row, error, first.error_class), error_target=first.error_target)


# Actions


def apply_outcome(
    run: Run, outcome: Outcome, started_at: datetime, clock: Callable[[], datetime], rng: Random
) -> RunUpdate:
    """What the outcome of an attempt does: continue, retry, or fail."""
    step, step_started_at = _step(run), run.step_started_at or started_at
    row = _step_row(run, "done", step_started_at, outcome.output, outcome.error)
    if outcome.kind == "done":
        return _advance(run, row, step_graph.enter_block(run.document, str(run.at), "then"), started_at, outcome)
    if outcome.kind == "later" and started_at - step_started_at > _MAX_DEFERRED:
        outcome = replace(outcome, kind="retry")
    attempts = run.attempt + 1
    update = replace(
        _same_step(run, replace(row, status="waiting", output=None)),
        attempt=attempts,
        job=run.job + 1,
        step_started_at=step_started_at,
        outcome=outcome,
        tried_at=started_at,
    )
    if outcome.kind == "later":
        # A deferred step does not count as an attempt; its row says why it waits.
        wake_at = clock() + timedelta(seconds=outcome.retry_after or 1.0)
        return replace(
            update, attempt=run.attempt, wake_at=wake_at, outcome=None, tried_at=None, held_by=outcome.held_by
        )
    policy = step.get("retry", {})
    if outcome.kind == "retry" and attempts - run.forgiven < retry_policy.attempts(policy):
        pause = outcome.retry_after
        if pause is None:
            pause = retry_policy.pause(policy, attempts - run.forgiven, rng)
        return replace(update, wake_at=clock() + timedelta(seconds=pause))
    return _fail(run, update, replace(row, status="failed"), replace(outcome, kind="failed"), started_at)


def _fail(run: Run, update: RunUpdate, row: StepRow, outcome: Outcome, started_at: datetime) -> RunUpdate:
    """No attempts are left: continue in `else` if the step has one; otherwise the run fails."""
    if "else" in _step(run):
        return _advance(run, row, step_graph.enter_block(run.document, str(run.at), "else"), started_at, outcome)
    attempts = run.attempt + 1
    error = f"{run.at} ({row.action}): {outcome.error}" + (f" after {attempts} attempts" if attempts > 1 else "")
    return replace(
        update, status="failed", job=run.job, error=error, step=row, outcome=outcome, error_target=outcome.target,
        error_class=outcome.error_class,
    )  # fmt: skip


def fail_run(run: Run, error: str, error_class: str, now: datetime) -> RunUpdate:
    """The run fails at its step, also if the step has an `else`: the step cannot be executed."""
    row = _step_row(run, "failed", run.step_started_at or now, error=error)
    outcome = Outcome("failed", error=error, error_class=error_class)
    update = _failed(run, row, f"{run.at} ({row.action}): {error}", error_class)
    return replace(update, attempt=run.attempt + 1, outcome=outcome, tried_at=now)


def apply_update(run: Run, update: RunUpdate, updated_at: datetime) -> Run | None:
    """The run after `update` was written at `updated_at`; None when this job has nothing more to do for it."""
    if update.status != "running" or update.job != run.job:
        return None
    row, outputs, variables, last = update.step, dict(run.outputs), run.variables, run.last
    if row.name is not None:
        failed = {"error": row.error} if row.status == "failed" else {}
        outputs[row.name] = {**(row.output or {}), **failed} if failed else row.output
    if row.action == step_graph.SET:
        variables = {**variables, **(row.output or {})}
    if row.action in ACTIONS:
        last = last_result(row.status, row.output, row.error)
    return replace(
        run, at=update.at, ordinal=update.ordinal, attempt=0, forgiven=0, turn=run.turn + 1, outputs=outputs,
        step_started_at=None, updated_at=updated_at, rounds=update.rounds, variables=variables, last=last,
    )  # fmt: skip


def _is_strict(run: Run) -> bool:
    return step_graph.is_strict(run.document, _step(run))


def _step(run: Run) -> Mapping[str, Any]:
    return step_graph.find_step(run.document, str(run.at))


def _step_row(
    run: Run, status: str, started_at: datetime, output: Mapping[str, Any] | None = None, error: str | None = None
) -> StepRow:
    step = _step(run)
    return StepRow(str(run.at), step.get("id"), step_graph.find_verb(step), status, started_at, output, error)


def _same_step(run: Run, row: StepRow) -> RunUpdate:
    """The run remains at its step."""
    return RunUpdate(
        status="running",
        at=run.at,
        ordinal=run.ordinal,
        attempt=run.attempt,
        job=run.job,
        wake_at=None,
        step_started_at=run.step_started_at,
        error=None,
        step=row,
        rounds=run.rounds,
    )


def _failed(run: Run, row: StepRow, error: str, error_class: str | None) -> RunUpdate:
    """The run fails at its step, without a call that failed."""
    return replace(_same_step(run, row), status="failed", error=error, error_class=error_class)


def _advance(run: Run, row: StepRow, at: str | None, now: datetime, outcome: Outcome | None = None) -> RunUpdate:
    """The step is done: continue at the step `at`, or end the run (None)."""
    return RunUpdate(
        status="done" if at is None else "running",
        at=at,
        ordinal=run.ordinal + 1,
        attempt=0,
        job=run.job,
        wake_at=None if at is None else now,
        step_started_at=None,
        error=None,
        step=row,
        outcome=outcome,
        tried_at=now if outcome else None,
        rounds=run.rounds,
    )
