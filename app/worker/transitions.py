"""What steps mean to runs: a run, its step and what came of it become the settlement that is to be written. Pure.

Comes in: a claimed run and the moment; of an action also its outcome. Goes out: a `Settlement`, in which the run stands at
its next place. `advance.py` carries actions out and writes settlements; `arrivals.py` tells what events mean to runs.
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
from app.core.models import Event, Outcome, Run
from app.core.timestamps import utc_text
from app.db.run_blocks import FailedBlock
from app.db.run_updates import NewBlock, RunUpdate, StepRow
from app.workflows import step_graph
from app.workflows.expressions.cel import compile_expression

# A step may be held back for so long without using up its attempts.
_LONGEST_HELD_BACK = timedelta(days=1)
# All variables of a run together, as JSON.
_LARGEST_VARIABLES = 256 * 1024
_JSON = msgspec.json.Encoder(decimal_format="number")

NO_ACTIONS = tuple(verb for verb in step_graph.VERBS if verb not in ACTIONS)


def names_of(run: Run) -> dict[str, Any]:
    """What the texts and expressions of a run's steps see."""
    latest: dict[str, Any] = {}
    for event in run.matched:
        latest |= event.data
    return {
        **seen(run.event),
        "run": {"id": str(run.id), "workflow": run.workflow, "version": run.version},
        "steps": run.outputs,
        "matched": [seen(event) for event in run.matched],
        "vars": run.variables,
        "latest": latest,
        "last": run.last,
    }


def seen(event: Event) -> dict[str, Any]:
    """What they see of an event."""
    return {
        "event": event.event,
        "distinct_id": event.distinct_id,
        "phone": event.phone,
        "data": event.data,
        "received_at": utc_text(event.received_at),
    }


def given_by(status: str, output: Mapping[str, Any] | None, error: str | None) -> Mapping[str, Any]:
    """What later steps see of an action as `last`: the fields of the body that came back, or the error."""
    if status == "failed":
        return {"error": error}
    if output is None or "body" not in output:
        return output or {}
    body = output["body"]
    return body if isinstance(body, Mapping) else {"body": body}


# Steps that take no action


def wait(run: Run, began: datetime) -> RunUpdate:
    """A wait: the first time it is entered and its end enqueued, the second time it is over."""
    if run.step_started_at is None:
        return enter(run, began, began + read_duration(_step(run)["wait"]))
    return _on(run, _row(run, "done", run.step_started_at), step_graph.following(run.document, str(run.at)), began)


def enter(run: Run, began: datetime, until: datetime) -> RunUpdate:
    """The run stands at a step that takes time; its next job is due `until`."""
    return replace(
        _stay(run, _row(run, "waiting", began)), attempt=0, job=run.job + 1, wake_at=until, step_started_at=began
    )


def arrived(run: Run, event: Event, moment: datetime) -> RunUpdate:
    """The awaited event is there: on into `then`, by a job of its own that is due now."""
    output = {"arrived": True, **seen(event), "id": str(event.id)}
    row = _row(run, "done", run.step_started_at or moment, output)
    on = _on(run, row, step_graph.inside(run.document, str(run.at), "then"), moment)
    return on if on.at is None else replace(on, job=run.job + 1)


def not_arrived(run: Run, moment: datetime) -> RunUpdate:
    """The time of a `wait_for` is over: on into `else`."""
    row = _row(run, "done", run.step_started_at or moment, {"arrived": False})
    return _on(run, row, step_graph.inside(run.document, str(run.at), "else"), moment)


def exited(run: Run, event: Event, moment: datetime) -> RunUpdate:
    """`exit_on`: the run ends where it stands."""
    why = exit_reason(event)
    row = _row(run, "skipped", run.step_started_at or moment, error=why)
    return replace(_stay(run, row), status="exited", error=why)


def exit_reason(event: Event) -> str:
    """Why a run has ended by `exit_on`, in one line."""
    return f"exit_on: {event.event} (event {event.id})"


def decide(run: Run, began: datetime) -> RunUpdate:
    """An `if`: on into one of its branches."""
    holds, why = compile_expression(_step(run)["if"]).evaluate(names_of(run))
    branch = "then" if holds else "else"
    row = _row(run, "done", began, {"taken": branch, **({"why": why} if why else {})})
    return _on(run, row, step_graph.inside(run.document, str(run.at), branch), began)


def set_variables(run: Run, began: datetime) -> RunUpdate:
    """A `set`: each value is seen by those after it; one that cannot be told is null, and the step says why."""
    names, variables, reasons = names_of(run), dict(run.variables), []
    given = {}
    for name, text in step_graph.values_set(_step(run)):
        value, why = (text, None)
        if isinstance(text, str):
            value, why = compile_expression(text).value({**names, "vars": variables})
        if len(_JSON.encode({**variables, name: value})) > _LARGEST_VARIABLES:
            value, why = None, f"all variables together are larger than {_LARGEST_VARIABLES} bytes"
        variables[name] = given[name] = value
        if why is not None:
            reasons.append(f"{name}: {why}")
    row = _row(run, "done", began, given, "; ".join(reasons)[:1_000] or None)
    return _on(run, row, step_graph.following(run.document, str(run.at)), began)


def go_round(run: Run, began: datetime) -> RunUpdate:
    """A `repeat`, before each round: into it once more, or on."""
    step = _step(run)
    over, why = compile_expression(step["until"]).evaluate(names_of(run))
    ended = "until" if over else "most" if run.rounds >= step.get("most", step_graph.DEFAULT_ROUNDS) else None
    output = {"rounds": run.rounds, **({"ended": ended} if ended else {}), **({"why": why} if why else {})}
    row = _row(run, "done", began, output)
    if ended:
        return replace(_on(run, row, step_graph.following(run.document, str(run.at)), began), rounds=0)
    inside = step_graph.inside(run.document, str(run.at), step_graph.REPEAT)
    return replace(_on(run, row, inside, began), rounds=run.rounds + 1)


def part(run: Run, began: datetime) -> RunUpdate:
    """A `par` that is entered: its blocks start, and the last one that ends enqueues the run's next job."""
    blocks = [NewBlock(number, at) for number, at in step_graph.blocks_of(run.document, str(run.at))]
    if not blocks:
        return joined(run, [], began)
    entered = enter(run, began, began)
    return replace(entered, wake_at=None, blocks=blocks)


def joined(run: Run, failed: Sequence[FailedBlock], moment: datetime) -> RunUpdate:
    """All blocks of a `par` have ended: on, unless some of them failed."""
    started = run.step_started_at or moment
    if not failed:
        return _on(run, _row(run, "done", started), step_graph.following(run.document, str(run.at)), moment)
    error = "; ".join(block.error for block in failed)[:1_000]
    return replace(_stay(run, _row(run, "failed", started, error=error)), status="failed", error=error)


# Actions


def acted(run: Run, outcome: Outcome, began: datetime, clock: Callable[[], datetime], chance: Random) -> RunUpdate:
    """What came of an attempt: on, another attempt, or the end."""
    step, started = _step(run), run.step_started_at or began
    row = _row(run, "done", started, outcome.output, outcome.error)
    if outcome.kind == "done":
        return _on(run, row, step_graph.inside(run.document, str(run.at), "then"), began, outcome)
    if outcome.kind == "later" and began - started > _LONGEST_HELD_BACK:
        outcome = replace(outcome, kind="retry")
    tries = run.attempt + 1
    here = replace(
        _stay(run, replace(row, status="waiting", output=None)),
        attempt=tries,
        job=run.job + 1,
        step_started_at=started,
        outcome=outcome,
        tried_at=began,
    )
    if outcome.kind == "later":
        # No attempt was made and none is counted; the run comes back later, and its step says why.
        wake_at = clock() + timedelta(seconds=outcome.retry_after or 1.0)
        return replace(here, attempt=run.attempt, wake_at=wake_at, outcome=None, tried_at=None)
    policy = step.get("retry", {})
    if outcome.kind == "retry" and tries - run.forgiven < retry_policy.attempts(policy):
        pause = outcome.retry_after
        if pause is None:
            pause = retry_policy.pause(policy, tries - run.forgiven, chance)
        return replace(here, wake_at=clock() + timedelta(seconds=pause))
    return _failed(run, here, replace(row, status="failed"), replace(outcome, kind="failed"), began)


def _failed(run: Run, here: RunUpdate, row: StepRow, outcome: Outcome, began: datetime) -> RunUpdate:
    """The action failed for good: on into `else` if the step has one, else the run ends."""
    if "else" in _step(run):
        return _on(run, row, step_graph.inside(run.document, str(run.at), "else"), began, outcome)
    tries = run.attempt + 1
    error = f"{run.at} ({row.action}): {outcome.error}" + (f" after {tries} attempts" if tries > 1 else "")
    return replace(here, status="failed", job=run.job, error=error, step=row, outcome=outcome)


def after(run: Run, update: RunUpdate, moment: datetime) -> Run | None:
    """The run as it stands after `settlement`, which was written at `moment`; None when this job has nothing more to do
    for it."""
    if update.status != "running" or update.job != run.job:
        return None
    row, outputs, variables, last = update.step, dict(run.outputs), run.variables, run.last
    if row.name is not None:
        failed = {"error": row.error} if row.status == "failed" else {}
        outputs[row.name] = {**(row.output or {}), **failed} if failed else row.output
    if row.action == step_graph.SET:
        variables = {**variables, **(row.output or {})}
    if row.action in ACTIONS:
        last = given_by(row.status, row.output, row.error)
    return replace(
        run, at=update.at, ordinal=update.ordinal, attempt=0, forgiven=0, turn=run.turn + 1, outputs=outputs,
        step_started_at=None, updated_at=moment, rounds=update.rounds, variables=variables, last=last,
    )  # fmt: skip


def _step(run: Run) -> Mapping[str, Any]:
    return step_graph.step_at(run.document, str(run.at))


def _row(
    run: Run, status: str, started: datetime, output: Mapping[str, Any] | None = None, error: str | None = None
) -> StepRow:
    step = _step(run)
    return StepRow(str(run.at), step.get("id"), step_graph.verb_of(step), status, started, output, error)


def _stay(run: Run, row: StepRow) -> RunUpdate:
    """The run stands where it did."""
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


def _on(run: Run, row: StepRow, at: str | None, began: datetime, outcome: Outcome | None = None) -> RunUpdate:
    """The step is done: on to the one at `at`, or to the end."""
    return RunUpdate(
        status="done" if at is None else "running",
        at=at,
        ordinal=run.ordinal + 1,
        attempt=0,
        job=run.job,
        wake_at=None if at is None else began,
        step_started_at=None,
        error=None,
        step=row,
        outcome=outcome,
        tried_at=began if outcome else None,
        rounds=run.rounds,
    )
