"""Reports about a run or an event as lines of text, with control characters from the outside escaped."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

import msgspec

from app.cli.program import paste
from app.cli.terminal_text import counted, cut, field_line, format_relative, visible
from app.core.durations import format_duration
from app.core.ids import utc_text
from app.db.inspection import AttemptDetails, RunRow, StepDetails
from app.services.inspection import MAX_BLOCKS_SHOWN, EventDetails, RunDetails

RUNNING = "running"
_MAX_TEXT = 200
_MAX_RESPONSE = 300
_INDENT = " " * 29


def run_lines(details: RunDetails, now: datetime) -> Iterator[str]:
    """A run from its start to its end, or to its current step."""
    run = details.run
    yield field_line("run", run.id)
    yield field_line("workflow", f"{run.workflow}, version {run.version}, account {run.account}")
    yield field_line("subject", run.distinct_id)
    if run.root_id is not None:
        yield field_line("block of", run.root_id)
    yield field_line("status", _status(run, now, details.verb))
    yield ""
    yield _at(run.created_at, f"started by {_starter(details)}")
    if len(run.matched) > 1:
        yield _INDENT + f"matched {len(run.matched)} events: {', '.join(map(str, run.matched))}"
    yield from _progress_lines(details, now)
    yield _end(details, now)


def _progress_lines(details: RunDetails, now: datetime) -> Iterator[str]:
    """The steps in the order in which they were entered, with their attempts and blocks."""
    for step in details.steps:
        attempts = [attempt for attempt in details.attempts if attempt.ordinal == step.ordinal]
        blocks = [block for block in details.blocks if block.run.parent_ordinal == step.ordinal]
        yield from _step_lines(details, step, attempts, blocks, now)
    if len(details.blocks) == MAX_BLOCKS_SHOWN:
        yield (
            _INDENT
            + f"(only the first {MAX_BLOCKS_SHOWN} blocks are shown; {paste('run', 'show', 'ID')} shows each block)"
        )
    known = {step.ordinal for step in details.steps}
    for attempt in details.attempts:
        if attempt.ordinal not in known:
            yield from _attempt_lines(attempt)


def _block_lines(details: RunDetails, now: datetime) -> Iterator[str]:
    """A block of a `par`, indented by two more columns."""
    number = details.run.match_key.rpartition(".")[2]
    yield _at(details.run.created_at, f"  block {number} started (run {details.run.id})")
    for line in (*_progress_lines(details, now), _end(details, now)):
        yield line[: len(_INDENT)] + "  " + line[len(_INDENT) :]


def _starter(details: RunDetails) -> str:
    run = details.run
    name = _short(details.event.event) if details.event else "a deleted event"
    if "@" in run.match_key:
        return f"the clock, a deadline after {name} (event {run.event_id})"
    return f"{name} (event {run.event_id})"


def _status(run: RunRow, now: datetime, verb: str | None = None) -> str:
    if run.status == RUNNING:
        step = f"{run.at} ({verb})" if verb else f"{run.at}"
        return f"running at {step}, next wake-up {_wake_up(run, now)}"
    ended = f" {utc_text(run.finished_at)}" if run.finished_at else ""
    return f"{run.status}{ended}" + (f": {run.error}" if run.error else "")


def _wake_up(run: RunRow, now: datetime) -> str:
    if run.wake_at is None:
        return "when its blocks have ended"
    return f"{utc_text(run.wake_at)} ({format_relative(run.wake_at, now)})" if run.wake_at > now else "now"


def _step_lines(
    details: RunDetails, step: StepDetails, attempts: list[AttemptDetails], blocks: list[RunDetails], now: datetime
) -> Iterator[str]:
    name = f"{step.path} {step.action}" + (f" {step.name}" if step.name else "")
    is_instant = (
        step.finished_at is not None and not attempts and not blocks and step.action not in ("wait", "wait_for")
    )
    if not is_instant:
        until = f", until {utc_text(details.ends[step.ordinal])}" if step.ordinal in details.ends else ""
        yield _at(step.started_at, f"{name} entered{until}")
    for attempt in attempts:
        yield from _attempt_lines(attempt)
    for block in blocks:
        yield from _block_lines(block, now)
    if step.finished_at is not None:
        yield _at(step.finished_at, f"{name} {step.status}{_result(step)}")
    elif step.error and not (attempts and attempts[-1].error == step.error):
        yield _INDENT + f"{name} is deferred: {_short(step.error)}"


def _result(step: StepDetails) -> str:
    """How a step ended, in addition to its status."""
    output = step.output or {}
    if step.status in ("failed", "skipped"):
        return f": {_short(step.error or '')}"
    if step.finished_at is not None and step.action == "wait":
        return f" after {format_duration(step.finished_at - step.started_at)}"
    if step.action == "wait_for":
        arrived = f": {_short(output.get('event'))} arrived (event {output.get('id')})"
        return arrived if output.get("arrived") else ": no event arrived in time" + _why(output)
    if step.action == "if":
        return f": {output.get('taken')}" + _why(output)
    if step.action == "repeat":
        return _round(output)
    if step.action == "set":
        given = ", ".join(f"{name} = {_EXACT_JSON.encode(value).decode()}" for name, value in output.items())
        return f": {_short(given)}" + (f" ({_short(step.error)})" if step.error else "")
    return f": {_short(output['text'])}" if "text" in output else ""


def _why(output: Mapping[str, Any]) -> str:
    """Why a condition could not be evaluated."""
    return f" ({_short(output['why'])})" if "why" in output else ""


def _round(output: Mapping[str, Any]) -> str:
    rounds, reason = output.get("rounds"), _why(output)
    if "ended" not in output:
        return f": round {rounds + 1 if isinstance(rounds, int) else '?'} begins{reason}"
    ended = "until is true" if output["ended"] == "until" else "the limit is reached"
    return f": ended after {counted(rounds, 'round') if isinstance(rounds, int) else rounds}, {ended}{reason}"


def _short(value: object) -> str:
    return cut(visible(value), _MAX_TEXT)


def _attempt_lines(attempt: AttemptDetails) -> Iterator[str]:
    request, response = attempt.request or {}, attempt.response or {}
    measured = timedelta(milliseconds=response["ms"]) if isinstance(response.get("ms"), int | float) else None
    duration = format_duration(measured if measured is not None else attempt.finished_at - attempt.started_at)
    line = " ".join(filter(None, (_request_line(request), _response_line(response), f"in {duration}")))
    error = f", {attempt.error}" if attempt.error else ""
    error += f" ({attempt.error_class})" if attempt.error_class else ""
    yield _at(attempt.started_at, f"  attempt {attempt.attempt}: {line}: {attempt.outcome}{error}")
    body = response.get("body")
    if body not in (None, ""):
        shown = body if isinstance(body, str) else _EXACT_JSON.encode(body).decode()
        yield _INDENT + "    response: " + cut(visible(shown), _MAX_RESPONSE)


def _request_line(request: Mapping[str, Any]) -> str:
    """The method and URL of a request, or its first fields."""
    if "url" in request:
        return f"{request.get('method', 'POST')} {_short(request['url'])}"
    return _short(", ".join(f"{name} {value}" for name, value in request.items() if isinstance(value, str | int)))


def _response_line(response: Mapping[str, Any]) -> str:
    return f"→ {response['status']}" if "status" in response else ""


def _end(details: RunDetails, now: datetime) -> str:
    run = details.run
    if run.status != RUNNING or run.finished_at is not None:
        ended = run.finished_at or run.updated_at
        return _at(
            ended,
            f"{run.status} after {format_duration(ended - run.created_at)}" + (f": {run.error}" if run.error else ""),
        )
    if run.wake_at is None:
        return _at(now, f"waits for blocks, at {run.at} ({details.verb})")
    if run.wake_at > now:
        return _at(run.wake_at, f"next wake-up, {format_relative(run.wake_at, now)}, at {run.at} ({details.verb})")
    return _at(now, f"its job is due, at {run.at} ({details.verb})")


def event_lines(details: EventDetails, account: str, now: datetime) -> Iterator[str]:
    """An event with the decision of each workflow and the status of the runs that it started."""
    event = details.event
    yield field_line("event", event.id)
    yield field_line("name", event.event)
    yield field_line("account", account)
    yield field_line("subject", event.distinct_id)
    yield field_line("phone", event.phone or "-")
    yield field_line("received", f"{utc_text(event.received_at)} ({format_relative(event.received_at, now)})")
    if event.occurred_at is not None:
        yield field_line("occurred", f"{utc_text(event.occurred_at)} ({format_relative(event.occurred_at, now)})")
    if event.idempotency_key is not None:
        yield field_line("key", event.idempotency_key)
    for warning in event.warnings:
        yield field_line("warning", warning)
    yield from _json_lines("data", event.data_json)
    if event.extra_json is not None:
        yield from _json_lines("extra", event.extra_json)
    if event.augmented_json is not None:
        yield from _json_lines("augmented", event.augmented_json)
    yield ""
    yield "decisions:" if event.decisions else "decisions: none, no enabled workflow looked at events of this name"
    for decision in event.decisions:
        yield f"  {_decision(decision)}"
        if members := decision.get("workflows"):
            yield f"    {', '.join(f'{name} version {version}' for name, version in members.items())}"
    yield ""
    yield "runs:" if details.runs else "runs: none"
    yield from _runs_of_event(details, now)


def _json_lines(name: str, text: str) -> Iterator[str]:
    """Indented JSON with every number as stored."""
    shown = msgspec.json.format(text.encode(), indent=2).decode().split("\n")
    yield field_line(name, shown[0])
    yield from (" " * 11 + visible(line) for line in shown[1:])


def _decision(decision: Mapping[str, Any]) -> str:
    # A decision without a version is about several workflows.
    version = f" version {decision['version']}" if decision.get("version") else ""
    name = f"{decision.get('workflow')}{version}"
    end = f"started run {decision.get('run')}" if decision.get("started") else "did not start"
    return visible(f"{name} {end}: {decision.get('reason')}")


def _runs_of_event(details: EventDetails, now: datetime) -> Iterable[str]:
    decided = {str(decision.get("run")) for decision in details.event.decisions}
    for run in details.runs:
        later = "" if str(run.id) in decided else f", started {utc_text(run.created_at)}"
        yield visible(f"  {run.id} {run.workflow} version {run.version}{later}: {_status(run, now)}")


_EXACT_JSON = msgspec.json.Encoder(decimal_format="number")


def _at(time: datetime, text: str) -> str:
    return f"{utc_text(time)}  {visible(text)}"
