"""Tries a run: goes through its steps as a worker does, skips the waits, and sends nothing.

What an action would be answered is given by the id or the path of its step; by default it is a good answer. Events that a
`wait_for` or `exit_on` looks at are those that come after the run's start.
"""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from math import inf
from random import Random
from typing import Any
from urllib.parse import parse_qsl
from uuid import UUID

import msgspec

from app import actions
from app.actions.http_request import EXACT_JSON
from app.actions.integration_kinds import KINDS
from app.core.config import Settings
from app.core.durations import read_duration
from app.core.models import Event, Outcome, Run
from app.core.pacing import pause_if_due
from app.db.run_trees import FailedBlock
from app.db.run_updates import RunUpdate
from app.services import transitions
from app.workflows import step_graph
from app.workflows.expressions.cel import compile_expression
from app.workflows.expressions.work_budget import SHARED_EXPRESSION_UNITS, Budget
from app.workflows.matching.rule import DISTINCT_ID, evaluate_leaf, event_variables, find_subject

# Steps of a run.
MAX_STEPS = 200
# The parts of an action context that a preview does not use.
_UNUSED: Any = None
_PLACEHOLDER = "placeholder-credential"
_SECRET_URL = re.compile(r"\s*\{\{-?\s*secrets\.")
# What an account without an integration would send with.
_INTEGRATIONS: Mapping[str, Mapping[str, str]] = {
    "whatsapp": {"access_token": _PLACEHOLDER, "phone_number_id": "10000"},
    "twilio": {"account_sid": f"AC{0:032d}", "auth_token": _PLACEHOLDER, "from": "+15005550006"},
    "sendgrid": {"api_key": _PLACEHOLDER, "from": "shop@example.com"},
    "smtp": {"host": "mail.example.com", "from": "shop@example.com"},
}
assert _INTEGRATIONS.keys() == KINDS.keys()
_DECISIONS: Mapping[str, Callable[[Run, datetime, Budget], RunUpdate]] = {
    step_graph.IF: transitions.choose_branch,
    step_graph.SET: transitions.set_variables,
    step_graph.REPEAT: transitions.repeat,
}
_CONDITIONS = {step_graph.IF: step_graph.IF, step_graph.REPEAT: "until"}


@dataclass(frozen=True, slots=True)
class TrialContext:
    """What a trial takes from the account: the fields of an integration of a kind (None: there is none) and whether there is a
    secret, and the `answers` of steps. All credentials are placeholders: a text could print a part of a value, or its length.
    `missing` collects what there is none of. `deadline`: when the trial has to end, in seconds of time.monotonic()."""

    settings: Settings
    integration: Callable[[str], Mapping[str, str] | None] = lambda kind: None
    has_secret: Callable[[str], bool] = lambda name: False
    answers: Mapping[str, Any] = field(default_factory=dict)
    deadline: float = inf
    missing: set[str] = field(default_factory=set)

    @property
    def is_over(self) -> bool:
        """Whether the time of the trial is over. Other requests of the process may run during the call."""
        pause_if_due()
        return time.monotonic() > self.deadline

    def find_integration(self, kind: str) -> Mapping[str, str]:
        """The integration with placeholders for its secret fields, or a placeholder."""
        found = self.integration(kind)
        if found is None:
            self.missing.add(f"the {kind} integration")
            return _INTEGRATIONS[kind]
        secret = {field.name for field in KINDS[kind].fields if field.secret}
        return {name: _PLACEHOLDER if name in secret else value for name, value in found.items()}

    def find_secret(self, name: str, *, is_url: bool = False) -> str:
        """A placeholder; `is_url`: one with which a URL begins."""
        if not self.has_secret(name):
            self.missing.add(f"the secret {name}")
        return f"https://placeholder.example/{name}" if is_url else f"placeholder-for-{name}"


@dataclass(frozen=True, slots=True)
class TriedStep:
    """A step that a run would enter `at`. `until`: when its wait ends. `values`: what a condition read. `request`: what an action
    would send, with secrets masked."""

    path: str
    verb: str
    name: str | None
    at: datetime
    until: datetime | None
    status: str
    output: Mapping[str, Any] | None
    error: str | None
    request: Mapping[str, Any] | None = None
    values: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TriedRun:
    """How a run would go. `status`: done, failed, exited, or cut: it has more steps than a trial shows."""

    started_at: datetime
    used: tuple[UUID, ...]
    steps: Sequence[TriedStep]
    status: str
    ended_at: datetime
    error: str | None


def try_run(run: Run, started_at: datetime, later: Sequence[Event], trial_context: TrialContext) -> TriedRun:
    """Go through the steps of a new run. `later`: the events after its start, in order."""
    trial = _Trial(trial_context, later, run)
    status, error, ended_at, _ = trial.follow(run, started_at)
    used = tuple(event.id for event in run.matched)
    return TriedRun(started_at, used, trial.steps, status, ended_at, error)


class _Trial:
    """One run with its blocks: the steps so far, and the events that a `wait_for` has taken."""

    def __init__(self, trial_context: TrialContext, later: Sequence[Event], run: Run) -> None:
        self.steps: list[TriedStep] = []
        self._context = trial_context
        self._later = [event for event in later if _is_of_subject(event, run)]
        self._taken: set[UUID] = set()
        self._answered: dict[str, int] = {}

    def follow(self, run: Run, now: datetime) -> tuple[str, str | None, datetime, Run]:
        """From the run's step to the end of the run or block: status, error, when, and the run then."""
        while run.at is not None:
            if len(self.steps) >= MAX_STEPS or self._context.is_over:
                return "cut", None, now, run
            update, now, run = self._enter(run, now)
            run = _after(run, update, now)
            if update.status != "running":
                return update.status, update.error, now, run
        return "done", None, now, run

    def _enter(self, run: Run, now: datetime) -> tuple[RunUpdate, datetime, Run]:
        """Carry out the run's step: the update, when it is over, and the run."""
        step = step_graph.find_step(run.document, str(run.at))
        verb = step_graph.find_verb(step)
        if (event := self._find_exit(run, now)) is not None:
            return self._note(now, transitions.exit_run(run, event, now)), now, run
        if verb == step_graph.WAIT:
            return self._wait(run, now)
        if verb == step_graph.WAIT_FOR:
            return self._wait_for(run, now, step)
        if verb == step_graph.PAR:
            return self._par(run, now)
        if verb in _DECISIONS:
            update = _DECISIONS[verb](run, now, Budget(SHARED_EXPRESSION_UNITS))
            return self._note(now, update, values=_values_read(run, step, verb, now)), now, run
        outcome = self._perform(run, step, now)
        update = transitions.apply_outcome(run, outcome, now, lambda: now, Random(0))
        return self._note(now, update, request=outcome.request), now, run

    def _note(self, at: datetime, update: RunUpdate, until: datetime | None = None, **more: Any) -> RunUpdate:
        row = update.step
        self.steps.append(
            TriedStep(row.path, row.action, row.name, at, until, row.status, row.output, row.error, **more)
        )
        return update

    def _wait(self, run: Run, now: datetime) -> tuple[RunUpdate, datetime, Run]:
        update = transitions.wait(run, now)
        if update.step.status != "waiting" or update.wake_at is None:
            return self._note(now, update), now, run
        until, waiting = update.wake_at, replace(run, step_started_at=now)
        if (event := self._find_exit(run, until)) is not None:
            update = self._note(now, transitions.exit_run(waiting, event, event.received_at), event.received_at)
            return update, event.received_at, waiting
        return self._note(now, transitions.wait(waiting, until), until), until, waiting

    def _wait_for(self, run: Run, now: datetime, step: Mapping[str, Any]) -> tuple[RunUpdate, datetime, Run]:
        until, waiting = now + read_duration(step["timeout"]), replace(run, step_started_at=now)
        why = None
        for event in self._events_until(until):
            matches, reason = evaluate_leaf(step[step_graph.WAIT_FOR], event)
            why = reason or why
            if matches:
                self._taken.add(event.id)
                came = max(now, event.received_at)
                return self._note(now, transitions.event_received(waiting, event, came), came), came, waiting
            if self._ends(run, event):
                update = self._note(now, transitions.exit_run(waiting, event, event.received_at))
                return update, max(now, event.received_at), waiting
        return self._note(now, transitions.wait_timed_out(waiting, until, why), until), until, waiting

    def _par(self, run: Run, now: datetime) -> tuple[RunUpdate, datetime, Run]:
        """The blocks one after the other, though each begins now. The step is over when the last one is."""
        failed, end, merged = [], now, replace(run, step_started_at=now)
        for number, at in step_graph.parallel_blocks(run.document, str(run.at)):
            block = replace(run, at=at, parent_id=run.id, root_id=run.root_id or run.id)
            status, error, ended_at, block = self.follow(block, now)
            end = max(end, ended_at)
            merged = replace(
                merged,
                outputs={**merged.outputs, **block.outputs},
                variables={**merged.variables, **block.variables},
                last=block.last,
            )
            if status == "exited":
                update = replace(transitions.join(merged, [], end), status="exited", error=error)
                return update, ended_at, merged
            if status == "failed":
                failed.append(FailedBlock(number, str(error)))
        return self._note(now, transitions.join(merged, failed, end), end), end, merged

    def _perform(self, run: Run, step: Mapping[str, Any], now: datetime) -> Outcome:
        """What the action would send, with the answer that was given for it."""
        begins_with_secret = _SECRET_URL.match(str(step.get("http", {}).get("url", ""))) is not None
        context = actions.ActionContext(
            run=run,
            names=transitions.template_names(run, now),
            idempotency_key=f"{run.id}-{run.ordinal}",
            signing_secret=f"whsec_{base64.b64encode(_PLACEHOLDER.encode()).decode()}",
            timeout=0.0,
            now=now,
            session=_UNUSED,
            circuit_breakers=_UNUSED,
            renderer=_UNUSED,
            settings=self._context.settings,
            integration=self._context.find_integration,
            find_secret=partial(self._context.find_secret, is_url=begins_with_secret),
            disabled={},
            save_message=_UNUSED,
        )
        outcome = actions.preview(step, context)
        answer = self._next_answer(str(step.get("id", run.at)))
        if outcome.kind != "done" or answer is None:
            return outcome
        output = {**outcome.output, **answer}
        status = output.get("status", 200)
        if isinstance(status, int) and not 200 <= status < 300:
            return replace(outcome, kind="failed", error=f"the answer has the status {status}", output={})
        return replace(outcome, output=output)

    def _next_answer(self, key: str) -> Mapping[str, Any] | None:
        """The answer for a step; of a list the next one, and then always the last."""
        answer = self._context.answers.get(key)
        if isinstance(answer, list):
            number = self._answered.get(key, 0)
            self._answered[key] = number + 1
            answer = answer[min(number, len(answer) - 1)] if answer else None
        return answer

    # Events

    def _events_until(self, until: datetime) -> Iterator[Event]:
        return (event for event in self._later if event.received_at <= until and event.id not in self._taken)

    def _find_exit(self, run: Run, until: datetime) -> Event | None:
        """The event by which `exit_on` has ended the run until then."""
        return next((event for event in self._events_until(until) if self._ends(run, event)), None)

    def _ends(self, run: Run, event: Event) -> bool:
        return "exit_on" in run.document and evaluate_leaf(run.document["exit_on"], event)[0]


def _after(run: Run, update: RunUpdate, now: datetime) -> Run:
    """The run after an update, also when that ends it."""
    going_on = transitions.apply_update(run, replace(update, status="running", job=run.job), now)
    assert going_on is not None
    return going_on


def _is_of_subject(event: Event, run: Run) -> bool:
    """Whether an event comes after a run's start, for its subject."""
    if event.id == run.event.id or event.received_at < run.event.received_at:
        return False
    key = run.document.get("key", DISTINCT_ID)
    return find_subject(key, event_variables(event)) == find_subject(key, event_variables(run.event))


def _values_read(run: Run, step: Mapping[str, Any], verb: str, now: datetime) -> dict[str, Any]:
    """The values that a condition has read, by their paths; nothing for what is missing."""
    if verb not in _CONDITIONS:
        return {}
    names, found = transitions.template_names(run, now), {}
    for path in sorted(compile_expression(step[_CONDITIONS[verb]]).cost.reads):
        value: Any = names
        for part in path:
            value = value.get(part) if isinstance(value, Mapping) else None
        if value is not None:
            found[".".join(path)] = value
    return found


def request_parts(request: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What an action would send as (name, text) to read: method and URL, the body or its parts, at last the headers."""
    parts = [(str(request["method"]), str(request["url"]))] if "url" in request else []
    headers = {str(name): str(value) for name, value in request.get("headers", {}).items()}
    body = str(request.get("body", ""))
    if "form-urlencoded" in headers.get("Content-Type", ""):
        parts += parse_qsl(body, keep_blank_values=True)
    elif body:
        parts.append(("body", _indented(body)))
    parts += [(name, str(request[name])) for name in ("text", "html") if name in request]
    if request.get("data"):
        parts.append(("data", EXACT_JSON.encode(request["data"]).decode()))
    return [*parts, ("headers", "\n".join(f"{name}: {value}" for name, value in headers.items()))] if headers else parts


def _indented(body: str) -> str:
    """JSON indented, with numbers as they are; other texts as they are."""
    if not body.lstrip().startswith(("{", "[")):
        return body
    try:
        text: str = msgspec.json.format(body, indent=2)
    except msgspec.DecodeError:
        return body
    return text
