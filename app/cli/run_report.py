"""The story of a run, or of an event, in lines for people. Pure; what customers and destinations sent is made visible."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

import msgspec

from app.cli.formatting import cut, distance, exact_moment, span, visible
from app.core.timestamps import utc_text
from app.db.inspection import AttemptDetails, RunRow, StepDetails, StoredEvent
from app.services.inspection import MAX_BLOCKS_SHOWN, EventDetails, RunDetails

RUNNING = "running"
_LONGEST = 200
_SHOWN_OF_ANSWER = 300
_INDENT = " " * 26


def run_lines(story: RunDetails, now: datetime) -> Iterator[str]:
    """A run from its start to its end, or to where it stands."""
    run = story.run
    yield _field("run", run.id)
    yield _field("workflow", f"{run.workflow}, version {run.version}, account {run.account}")
    yield _field("subject", run.distinct_id)
    if run.root_id is not None:
        yield _field("block of", run.root_id)
    yield _field("status", _status(run, now, story.verb))
    yield ""
    yield _at(run.created_at, f"started by {_starter(story)}")
    if len(run.matched) > 1:
        yield _INDENT + f"matched {len(run.matched)} events: {', '.join(map(str, run.matched))}"
    yield from _way_lines(story, now)
    yield _end(story, now)


def _way_lines(story: RunDetails, now: datetime) -> Iterator[str]:
    """The steps in the order in which they were entered, each with its attempts and its blocks."""
    for step in story.steps:
        tried = [attempt for attempt in story.attempts if attempt.ordinal == step.ordinal]
        blocks = [block for block in story.blocks if block.run.parent_ordinal == step.ordinal]
        yield from _step_lines(story, step, tried, blocks, now)
    if len(story.blocks) == MAX_BLOCKS_SHOWN:
        yield (
            _INDENT
            + f"(only the first {MAX_BLOCKS_SHOWN} blocks are told; `flask run show` tells each of them by its id)"
        )
    known = {step.ordinal for step in story.steps}
    for attempt in story.attempts:
        if attempt.ordinal not in known:
            yield from _attempt_lines(attempt)


def _block_lines(story: RunDetails, now: datetime) -> Iterator[str]:
    """A block of a `par`, moved in by two letters."""
    number = story.run.match_key.rpartition(".")[2]
    yield _at(story.run.created_at, f"  block {number} started (run {story.run.id})")
    for line in (*_way_lines(story, now), _end(story, now)):
        yield line[: len(_INDENT)] + "  " + line[len(_INDENT) :]


def _starter(story: RunDetails) -> str:
    run = story.run
    name = _short(story.event.event) if story.event else "an event that is gone"
    if "@" in run.match_key:
        return f"the clock, a deadline after {name} (event {run.event_id})"
    return f"{name} (event {run.event_id})"


def _status(run: RunRow, now: datetime, verb: str | None = None) -> str:
    if run.status == RUNNING:
        place = f"{run.at} ({verb})" if verb else f"{run.at}"
        return f"running at {place}, next wake-up {_wake_up(run, now)}"
    ended = f" {exact_moment(run.finished_at)}" if run.finished_at else ""
    return f"{run.status}{ended}" + (f": {run.error}" if run.error else "")


def _wake_up(run: RunRow, now: datetime) -> str:
    if run.wake_at is None:
        return "when its blocks have ended"
    return f"{exact_moment(run.wake_at)} ({distance(run.wake_at, now)})" if run.wake_at > now else "now"


def _step_lines(
    story: RunDetails, step: StepDetails, tried: list[AttemptDetails], blocks: list[RunDetails], now: datetime
) -> Iterator[str]:
    name = f"{step.path} {step.action}" + (f" {step.name}" if step.name else "")
    at_once = step.finished_at is not None and not tried and not blocks and step.action not in ("wait", "wait_for")
    if not at_once:
        until = f", until {exact_moment(story.ends[step.ordinal])}" if step.ordinal in story.ends else ""
        yield _at(step.started_at, f"{name} entered{until}")
    for attempt in tried:
        yield from _attempt_lines(attempt)
    for block in blocks:
        yield from _block_lines(block, now)
    if step.finished_at is not None:
        yield _at(step.finished_at, f"{name} {step.status}{_how(step)}")
    elif step.error and not (tried and tried[-1].error == step.error):
        yield _INDENT + f"{name} is held back: {_short(step.error)}"


def _how(step: StepDetails) -> str:
    """How a step ended, where its status does not say it all."""
    output = step.output or {}
    if step.status in ("failed", "skipped"):
        return f": {_short(step.error or '')}"
    if step.finished_at is not None and step.action == "wait":
        return f" after {span(step.finished_at - step.started_at)}"
    if step.action == "wait_for":
        came = f": {_short(output.get('event'))} came (event {output.get('id')})"
        return came if output.get("arrived") else ": it did not come in time"
    if step.action == "if":
        return f": {output.get('taken')}" + (f" ({_short(output['why'])})" if "why" in output else "")
    if step.action == "repeat":
        return _round(output)
    if step.action == "set":
        given = ", ".join(f"{name} = {_EXACT_JSON.encode(value).decode()}" for name, value in output.items())
        return f": {_short(given)}" + (f" ({_short(step.error)})" if step.error else "")
    return f": {_short(output['text'])}" if "text" in output else ""


def _round(output: Mapping[str, Any]) -> str:
    rounds, why = output.get("rounds"), f" ({_short(output['why'])})" if "why" in output else ""
    if "ended" not in output:
        return f": round {rounds + 1 if isinstance(rounds, int) else '?'} begins{why}"
    ended = "until is true" if output["ended"] == "until" else "that is the most that may be"
    return f": over after {rounds} round{'' if rounds == 1 else 's'}, {ended}{why}"


def _short(value: object) -> str:
    return cut(visible(value), _LONGEST)


def _attempt_lines(attempt: AttemptDetails) -> Iterator[str]:
    request, response = attempt.request or {}, attempt.response or {}
    spent = timedelta(milliseconds=response["ms"]) if isinstance(response.get("ms"), int | float) else None
    took = span(spent if spent is not None else attempt.finished_at - attempt.started_at)
    line = " ".join(filter(None, (_request_line(request), _answered(response), f"in {took}")))
    said = f", {attempt.error}" if attempt.error else ""
    yield _at(attempt.started_at, f"  attempt {attempt.attempt}: {line}: {attempt.outcome}{said}")
    body = response.get("body")
    if body not in (None, ""):
        shown = body if isinstance(body, str) else _EXACT_JSON.encode(body).decode()
        yield _INDENT + "    answer: " + cut(visible(shown), _SHOWN_OF_ANSWER)


def _request_line(request: Mapping[str, Any]) -> str:
    """What was sent, in a few words: the method and URL of a call, else the first of its fields."""
    if "url" in request:
        return f"{request.get('method', 'POST')} {_short(request['url'])}"
    return _short(", ".join(f"{name} {value}" for name, value in request.items() if isinstance(value, str | int)))


def _answered(response: Mapping[str, Any]) -> str:
    return f"→ {response['status']}" if "status" in response else ""


def _end(story: RunDetails, now: datetime) -> str:
    run = story.run
    if run.status != RUNNING or run.finished_at is not None:
        ended = run.finished_at or run.updated_at
        return _at(
            ended, f"{run.status} after {span(ended - run.created_at)}" + (f": {run.error}" if run.error else "")
        )
    if run.wake_at is None:
        return _at(now, f"waits for its blocks, at {run.at} ({story.verb})")
    if run.wake_at > now:
        return _at(run.wake_at, f"next wake-up, {distance(run.wake_at, now)}, at {run.at} ({story.verb})")
    return _at(now, f"its job is due, at {run.at} ({story.verb})")


def event_lines(story: EventDetails, account: str, now: datetime) -> Iterator[str]:
    """An event, what each workflow concluded about it, and where the runs stand that it has started."""
    event = story.event
    yield _field("event", event.id)
    yield _field("name", event.event)
    yield _field("account", account)
    yield _field("subject", event.distinct_id)
    yield _field("phone", event.phone or "-")
    yield _field("received", f"{exact_moment(event.received_at)} ({distance(event.received_at, now)})")
    if event.idempotency_key is not None:
        yield _field("key", event.idempotency_key)
    for warning in event.warnings:
        yield _field("warning", warning)
    yield from _json_lines("data", event.data_json)
    if event.extra_json is not None:
        yield from _json_lines("extra", event.extra_json)
    if event.augmented_json is not None:
        yield from _json_lines("augmented", event.augmented_json)
    yield ""
    yield "decisions:" if event.decisions else "decisions: none, no enabled workflow asked for events of this name"
    yield from (f"  {_decision(decision)}" for decision in event.decisions)
    yield ""
    yield "runs:" if story.runs else "runs: none"
    yield from _runs_of_event(story, now)


def _json_lines(name: str, text: str) -> Iterator[str]:
    """JSON with every number as it is stored, a line for each member."""
    shown = msgspec.json.format(text.encode(), indent=2).decode().split("\n")
    yield _field(name, shown[0])
    yield from (" " * 11 + visible(line) for line in shown[1:])


def _decision(decision: Mapping[str, Any]) -> str:
    # A decision without a version speaks of several workflows at once.
    version = f" version {decision['version']}" if decision.get("version") else ""
    name = f"{decision.get('workflow')}{version}"
    end = f"started run {decision.get('run')}" if decision.get("started") else "did not start"
    return visible(f"{name} {end}: {decision.get('reason')}")


def _runs_of_event(story: EventDetails, now: datetime) -> Iterable[str]:
    decided = {str(decision.get("run")) for decision in story.event.decisions}
    for run in story.runs:
        later = "" if str(run.id) in decided else f", started {exact_moment(run.created_at)}"
        yield visible(f"  {run.id} {run.workflow} version {run.version}{later}: {_status(run, now)}")


def event_object(event: StoredEvent) -> bytes:
    """An event as one JSON object, every number exact."""
    return _JSON.encode(
        {
            "id": str(event.id),
            "account_id": event.account_id,
            "event": event.event,
            "distinct_id": event.distinct_id,
            "phone": event.phone,
            "data": msgspec.Raw(event.data_json.encode()),
            "extra": msgspec.Raw((event.extra_json or "null").encode()),
            "augmented": msgspec.Raw((event.augmented_json or "null").encode()),
            "received_at": utc_text(event.received_at),
            "decisions": event.decisions,
            "idempotency_key": event.idempotency_key,
            "warnings": event.warnings,
        }
    )


_JSON = msgspec.json.Encoder()
_EXACT_JSON = msgspec.json.Encoder(decimal_format="number")


def _field(name: str, value: object) -> str:
    return f"{name:<11}{visible(value)}"


def _at(moment: datetime, text: str) -> str:
    return f"{exact_moment(moment)}  {visible(text)}"
