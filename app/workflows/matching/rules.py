"""Which workflows does this event start or move on? Pure: enabled workflows and progress in, decisions out.

A `Rules` holds what is enabled in one account, compiled once and found by event name. A workflow whose pattern is one event
and that says nothing about starting again decides by the event alone (`decide`); the others also take what is kept of
the subject and give what is to be kept (`move`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import structlog

from app.core.durations import read_duration
from app.core.models import Decision, EnabledWorkflow, Event
from app.workflows.expressions.cel import Converted, Filter, compile_filter
from app.workflows.expressions.cel_analysis import Comparison, FilterError, comparisons_in
from app.workflows.matching import matcher
from app.workflows.matching.describe import describe
from app.workflows.matching.filter_index import Refusal, Screen, screenable
from app.workflows.matching.pattern_ast import ANY_NAME, FilterFailed, Leaf, Pattern, cancelling_kinds

_log = structlog.get_logger()
LONGEST_KEY = 255
ALWAYS, ONCE = "always", "once"
DISTINCT_ID = "distinct_id"
KEY = re.compile(r"distinct_id|phone|data(\.[A-Za-z_][A-Za-z0-9_-]*)+")


@dataclass(frozen=True, slots=True)
class Seen:
    """An event as the matcher and its filters read it."""

    id: str
    event: str
    received_at: datetime
    names: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Fire:
    """A match: the events that it used in order, and when it fired; `by_deadline`: with the clock, without an event."""

    matched: tuple[UUID, ...]
    at: datetime
    by_deadline: bool = False


@dataclass(frozen=True, slots=True)
class Standing:
    """What is kept of one subject in one workflow: progress of its pattern since `enablement`, and the last start."""

    enablement: int | None
    progress: Mapping[str, Any]
    deadline: datetime | None
    last_started_at: datetime | None


@dataclass(frozen=True, slots=True)
class Moved:
    """What an event, or the clock, did: what is to be kept, the fires that start a run, the decision about the event."""

    standing: Standing
    fires: tuple[Fire, ...]
    decision: Decision


@dataclass(frozen=True, slots=True)
class Step:
    """The same without words: `result` is the matcher's own, `started` whether this very event starts a run."""

    standing: Standing
    fires: tuple[Fire, ...]
    result: matcher.Advance
    started: bool


@dataclass(frozen=True, slots=True)
class Rule:
    """One enabled workflow: its pattern, whose progress is counted (`key`), how soon it may start `again`, and how often
    it had been enabled or disabled by then (`enablement`)."""

    workflow_id: UUID
    workflow: str
    version: int
    pattern: Pattern
    filter: Filter | None
    key: str
    again: timedelta | str
    enablement: int

    @property
    def decides_alone(self) -> bool:
        """Whether the event alone decides: one event, and every match starts."""
        return isinstance(self.pattern.root, Leaf) and self.pattern.quiet is None and self.again == ALWAYS

    def decide(self, names: Converted) -> Decision:
        """What a workflow that decides alone concludes about an event (its names) of a name that it asked for."""
        holds, why = True, "matched"
        if self.filter is not None:
            holds, reason = self.filter.holds(names)
            why = "matched" if holds else reason or "the filter is false"
        return self._decision(started=holds, contributing=holds, reason=why)

    def subject_of(self, names: Mapping[str, Any]) -> str | None:
        """Whose progress an event (its names) counts for; None when it lacks the key."""
        return subject_by(self.key, names)

    def without_subject(self) -> Decision:
        """What it concludes about an event that lacks the key."""
        return self._decision(
            started=False,
            contributing=False,
            reason=f"{self.key} is no text or number of up to {LONGEST_KEY} characters, and it is the key",
        )

    def move(self, before: Standing, event: Event) -> Moved:
        """What an event does to a subject, with the decision about it. A deadline that lies before it fires first."""
        step = self.step(before, Seen(str(event.id), event.event, event.received_at, names_of(event)))
        if step.started:
            reason = "matched"
        elif step.result.fired:
            reason = f"suppressed: again ({self._again_in_words()})"
        else:
            reason = self._reason(before, step.result, event)
        decision = self._decision(step.started, step.result.contributing, reason)
        return Moved(step.standing, step.fires, decision)

    def step(self, before: Standing, seen: Seen) -> Step:
        """What an event does to a subject. A deadline that lies before it fires first."""
        standing, fires = self.expire(before, seen.received_at - timedelta(microseconds=1))
        result = matcher.advance(self.pattern, dict(standing.progress), seen)
        last = standing.last_started_at
        started = result.fired and self.may_start(last, seen.received_at)
        if started:
            last = seen.received_at
            fires = (*fires, Fire(tuple(map(UUID, result.matched)), seen.received_at))
        return Step(Standing(self.enablement, result.progress, result.deadline, last), fires, result, started)

    def expire(self, before: Standing, at: datetime) -> tuple[Standing, tuple[Fire, ...]]:
        """The clock has reached `at`: what is kept then, and the fire of a deadline that was reached, if it may start."""
        if before.enablement != self.enablement:
            return Standing(self.enablement, {}, None, before.last_started_at), ()
        deadline = matcher.next_deadline(dict(before.progress))
        if deadline is None or deadline > at:
            return before, ()
        progress, fired, matched = matcher.expire(dict(before.progress), deadline)
        if not fired or not self.may_start(before.last_started_at, deadline):
            return Standing(self.enablement, progress, None, before.last_started_at), ()
        fire = Fire(tuple(map(UUID, matched)), deadline, by_deadline=True)
        return Standing(self.enablement, progress, None, deadline), (fire,)

    def may_start(self, last: datetime | None, at: datetime) -> bool:
        """Whether `again` lets a subject start at a moment that has started for the `last` time then."""
        if last is None or self.again == ALWAYS:
            return True
        return isinstance(self.again, timedelta) and at - last >= self.again

    def _again_in_words(self) -> str:
        return self.again if isinstance(self.again, str) else f"at most once in {self.again}"

    def _reason(self, before: Standing, result: matcher.Advance, event: Event) -> str:
        if result.failures and not result.contributing:
            return "; ".join(f"{path}: {reason}" for path, reason in result.failures)
        told = describe(self.pattern, result.progress, event.received_at)
        if result.contributing:
            return told
        if before.deadline is not None and result.deadline is None:
            return f"disarmed by {event.event}"
        dropped = before.progress and before.progress != result.progress and self._cancels(event.event)
        return f"dropped by {event.event}; {told}" if dropped else f"not asked for now; {told}"

    def _cancels(self, name: str) -> bool:
        """Whether events of this name may cancel partial matches (`unless`)."""
        kinds = cancelling_kinds(self.pattern.root)
        return any(test.kind in kinds and test.name in (name, ANY_NAME) for test in self.pattern.tests)

    def _decision(self, started: bool, contributing: bool, reason: str) -> Decision:
        return Decision(
            self.workflow_id, self.workflow, self.version, started=started, contributing=contributing, reason=reason
        )


# So many workflows are asked one by one, and each has a decision of its own; only beyond that it is worth to sift them.
FEW = 20


@dataclass(frozen=True, slots=True)
class Asked:
    """Whom an event concerns: workflows that decide alone, those that take progress, and why the others were not asked."""

    alone: list[Rule]
    with_progress: list[Rule]
    refusals: list[Refusal]


class _Bench:
    """The workflows that ask for one event name: few as a list, many behind screens."""

    def __init__(self, rules: list[Rule]) -> None:
        self._with_progress = [rule for rule in rules if not rule.decides_alone]
        self._alone = [rule for rule in rules if rule.decides_alone]
        self._screens: list[Screen[Rule]] = []
        if len(self._alone) > FEW:
            self._put_up_screens()

    def _put_up_screens(self) -> None:
        by_path: dict[str, list[tuple[Comparison, Rule]]] = {}
        rest = []
        for rule in self._alone:
            comparisons = comparisons_in(rule.filter.text) if rule.filter else []
            chosen = next(filter(screenable, sorted(comparisons, key=lambda each: each.sign != "==")), None)
            if chosen is None:
                rest.append(rule)
            else:
                by_path.setdefault(chosen.path, []).append((chosen, rule))
        self._alone = rest
        self._screens = [Screen(path, members) for path, members in by_path.items()]

    def ask(self, names: Converted) -> Asked:
        """Whom an event concerns."""
        alone, refusals = list(self._alone), []
        for screen in self._screens:
            worth, refusal = screen.sift(names)
            alone += worth
            if refusal is not None:
                refusals.append(refusal)
        return Asked(alone, self._with_progress, refusals)


class Rules:
    """All enabled workflows of one account by the event names that they ask for."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        self.by_workflow = {rule.workflow_id: rule for rule in rules}
        by_event: dict[str, list[Rule]] = {}
        for rule in self.by_workflow.values():
            # One that asks for any name asks for all of them.
            for name in {ANY_NAME} if ANY_NAME in rule.pattern.names else rule.pattern.names:
                by_event.setdefault(name, []).append(rule)
        self._benches = {name: _Bench(found) for name, found in by_event.items()}

    def asking_for(self, name: str) -> list[Rule]:
        """All workflows that ask for events of this name, one by one."""
        return [rule for rule in self.by_workflow.values() if not rule.pattern.names.isdisjoint((name, ANY_NAME))]

    def ask(self, names: Converted) -> Asked:
        """Whom an event (its names) concerns."""
        benches = [self._benches.get(name) for name in dict.fromkeys((names["event"], ANY_NAME))]
        asked = [bench.ask(names) for bench in benches if bench is not None]
        return Asked(
            [rule for each in asked for rule in each.alone],
            [rule for each in asked for rule in each.with_progress],
            [refusal for each in asked for refusal in each.refusals],
        )


def names_of(event: Event) -> Converted:
    """What filters see of an event."""
    return Converted(
        {
            "event": event.event,
            "distinct_id": event.distinct_id,
            "phone": event.phone,
            "data": event.data,
            "received_at": event.received_at,
        }
    )


def subject_by(key: str, names: Mapping[str, Any]) -> str | None:
    """Whom an event (its names) is about by a workflow's key; None when it lacks the key."""
    value: Any = names
    for name in key.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    if isinstance(value, bool) or not isinstance(value, str | int | float | Decimal) or value == "":
        return None
    return str(value) if len(str(value)) <= LONGEST_KEY else None


def _compile_test(text: str) -> Any:
    """A filter as the matcher asks it: raises FilterFailed with the reason where it cannot be evaluated."""
    compiled = compile_filter(text)

    def passes(seen: Seen) -> bool:
        holds, reason = compiled.holds(seen.names)
        if reason is not None:
            raise FilterFailed(reason)
        return holds

    return passes


def check_pattern(on: Any, path: str = "on") -> list[tuple[str, str]]:
    """All that is wrong with a pattern, as (path, message)."""
    return [(place, message) for place, message in matcher.check(on, _checked_test, path)]


def check_leaf(leaf: Any, path: str) -> list[tuple[str, str]]:
    """All that is wrong with what `wait_for` and `exit_on` take: one event, by its name or as {event, where}."""
    if isinstance(leaf, Mapping) and set(leaf) - {"event", "where"}:
        return [(path, "has to be one event: its name, or {event: NAME, where: CEL}")]
    return check_pattern(leaf, path)


def _checked_test(text: str) -> Any:
    try:
        return _compile_test(text)
    except FilterError as wrong:
        raise ValueError(str(wrong)) from None


def check_key(key: Any, path: str = "key") -> list[tuple[str, str]]:
    """What is wrong with a workflow's `key`."""
    if isinstance(key, str) and KEY.fullmatch(key):
        return []
    return [(path, "has to be distinct_id, phone, or a path into data such as data.order_id")]


def check_again(again: Any, path: str = "again") -> list[tuple[str, str]]:
    """What is wrong with a workflow's `again`."""
    if again in (ALWAYS, ONCE):
        return []
    try:
        read_duration(again)
    except ValueError:
        return [(path, f"{again!r} has to be always, once, or a duration such as 1d")]
    return []


def compile_rule(
    workflow_id: UUID, workflow: str, version: int, document: Mapping[str, Any], enablement: int = 0
) -> Rule:
    """A checked document, ready to match."""
    on, again = document["on"], document.get("again", ALWAYS)
    where = on.get("where") if isinstance(on, Mapping) else None
    return Rule(
        workflow_id=workflow_id,
        workflow=workflow,
        version=version,
        pattern=matcher.compile_pattern(on, _compile_test),
        filter=None if where is None else compile_filter(where),
        key=document.get("key", DISTINCT_ID),
        again=again if again in (ALWAYS, ONCE) else read_duration(again),
        enablement=enablement,
    )


def fits(leaf: Any, event: Event) -> bool:
    """Whether an event matches a checked leaf (of `wait_for` or `exit_on`)."""
    name, where = (leaf, None) if isinstance(leaf, str) else (leaf["event"], leaf.get("where"))
    if name not in (ANY_NAME, event.event):
        return False
    return where is None or compile_filter(where).holds(names_of(event))[0]


def compile_rules(workflows: Iterable[EnabledWorkflow], known: Rules | None = None) -> Rules:
    """What is enabled in an account, ready to match; versions are never changed, so those in `known` are taken over.

    A version that an older release saved and this one cannot compile is left out and logged: it must not keep the
    account's events from being stored.
    """
    rules = []
    for workflow in workflows:
        before = known.by_workflow.get(workflow.id) if known else None
        if before is not None and (before.enablement, before.workflow) == (workflow.enablement, workflow.name):
            rules.append(before)
            continue
        try:
            rules.append(
                compile_rule(workflow.id, workflow.name, workflow.version, workflow.document, workflow.enablement)
            )
        except Exception:
            _log.exception("a workflow cannot be compiled and looks at no event", workflow=workflow.name)
    return Rules(rules)
