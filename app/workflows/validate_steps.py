"""Validates the steps of a workflow document."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from typing import Any

from app.actions import ACTIONS, retry_policy
from app.actions.field_checks import FieldErrors
from app.actions.templates.render import find_texts, members_read
from app.core.durations import read_duration
from app.core.pacing import pause_if_due
from app.workflows import step_graph
from app.workflows.expressions import cel_check
from app.workflows.expressions.cel_analysis import FilterError
from app.workflows.step_graph import IF, PAR, REPEAT, SET, VERBS, WAIT, WAIT_FOR, allowed_fields, blocks_in

# Checks the leaf of a pattern (an event's name, or {event, where}) at a path.
CheckLeaf = Callable[[Any, str], FieldErrors]


def check(steps: Any, check_leaf: CheckLeaf, path: str = "steps") -> FieldErrors:
    """Every mistake in the steps of a document, as (path, message)."""
    checker = _StepChecker(check_leaf)
    checker.block(steps, path, 0)
    if checker.count > step_graph.MAX_STEPS:
        checker.mistakes.append((path, f"has {checker.count} steps; at most {step_graph.MAX_STEPS} are allowed"))
    if checker.entered > step_graph.MAX_STEP_ENTRIES:
        checker.mistakes.append(
            (
                path,
                f"may enter {checker.entered} steps, counting each round; at most {step_graph.MAX_STEP_ENTRIES} are allowed",
            )
        )
    if not steps and isinstance(steps, list):
        checker.mistakes.append((path, "is empty; a workflow needs at least one step"))
    checker.check_variables()
    return checker.mistakes


class _StepChecker:
    """Checks all steps in the order of the text. `ids` are the ids so far, `rounds` is how often the current steps may be
    entered."""

    def __init__(self, check_leaf: CheckLeaf) -> None:
        self._check_leaf = check_leaf
        self.ids: dict[str, str] = {}
        self._variables: set[str] = set()
        self._variables_read: list[tuple[str, str]] = []
        self.count = 0
        self.entered = 0
        self.rounds = 1
        self.mistakes: FieldErrors = []

    def block(self, steps: Any, path: str, depth: int) -> None:
        """Check a list of steps."""
        if not isinstance(steps, list):
            self.mistakes.append((path, "must be a list of steps"))
        elif depth > step_graph.MAX_DEPTH:
            self.mistakes.append((path, f"is nested deeper than {step_graph.MAX_DEPTH} blocks"))
        else:
            for index, step in enumerate(steps):
                self._step(step, f"{path}[{index}]", depth)

    def check_variables(self) -> None:
        """Every variable that is read must be set by some step, in any position: blocks run in parallel."""
        self.mistakes += [
            (path, f"vars.{name} is not known: no step sets it")
            for path, name in self._variables_read
            if name not in self._variables
        ]

    def _step(self, step: Any, path: str, depth: int) -> None:
        pause_if_due()
        self.count += 1
        self.entered += self.rounds
        if not isinstance(step, Mapping):
            self.mistakes.append((path, "must be an object such as {wait: 30m} or {log: some text}"))
            return
        verbs = [name for name in step if name in VERBS]
        self._fields(step, path, verbs)
        self._id(step, path)
        for verb in verbs:
            self._verb(verb, step, path)
        if any("strict" in allowed_fields(verb) for verb in verbs):
            self.mistakes += check_strict(step.get("strict", False), f"{path}.strict")
        if isinstance(step.get("id"), str):
            self.ids.setdefault(step["id"], path)
        rounds, self.rounds = self.rounds, self.rounds * _rounds(step)
        for below, block in blocks_in(step):
            name = below.partition("[")[0]
            if any(name == verb or name in allowed_fields(verb) for verb in verbs):
                self.block(block, f"{path}.{below}", depth + 1)
        self.rounds = rounds
        if REPEAT in verbs and "until" in step:
            # Evaluated between rounds, so that it can use the steps of the round.
            self._expression(step["until"], f"{path}.until")

    def _fields(self, step: Mapping[str, Any], path: str, verbs: list[str]) -> None:
        allowed = {name for verb in verbs for name in allowed_fields(verb)} or set(allowed_fields("log"))
        self.mistakes += [
            (f"{path}.{name}", f"is unknown; a step is one of {', '.join(VERBS)}, and has {', '.join(sorted(allowed))}")
            for name in step
            if name not in allowed and name not in VERBS
        ]
        if not verbs:
            self.mistakes.append((path, f"must have one of {', '.join(VERBS)}"))
        if len(verbs) > 1:
            self.mistakes.append((path, f"has several actions ({', '.join(verbs)}); use one step for each"))

    def _id(self, step: Mapping[str, Any], path: str) -> None:
        if "id" not in step:
            return
        name = step["id"]
        if not isinstance(name, str) or not step_graph.ID.fullmatch(name):
            self.mistakes.append((f"{path}.id", "must be up to 63 letters, digits and _, and not begin with a digit"))
        elif name in self.ids:
            self.mistakes.append((f"{path}.id", f"{name} is already the id of {self.ids[name]}"))

    def _verb(self, verb: str, step: Mapping[str, Any], path: str) -> None:
        fields, here = step[verb], f"{path}.{verb}"
        if verb == WAIT:
            self.mistakes += _check_duration(fields, here)
        elif verb == WAIT_FOR:
            self.mistakes += self._check_leaf(fields, here)
            self.mistakes += _check_duration(step.get("timeout"), f"{path}.timeout")
        elif verb == IF:
            self._expression(fields, here)
            if "then" not in step:
                self.mistakes.append((path, "needs then: the steps to run if the condition is true"))
        elif verb == SET:
            self._set(fields, here)
        elif verb == PAR:
            self._par(fields, here)
        elif verb == REPEAT:
            self._repeat(step, path)
        else:
            self._action(verb, step, path)

    def _expression(self, text: Any, path: str, *, is_condition: bool = True) -> None:
        if not isinstance(text, str):
            self.mistakes.append((path, "must be a CEL expression (text) such as data.price > 5000"))
            return
        try:
            cel_check.check_expression(text, is_condition=is_condition)
        except FilterError as exc:
            self.mistakes.append((path, str(exc)))
        self._check_step_ids(path, cel_check.members_read(text, "steps"))
        self._variables_read += [(path, name) for name in sorted(cel_check.members_read(text, "vars"))]

    def _set(self, fields: Any, path: str) -> None:
        if not isinstance(fields, Mapping) or not fields:
            self.mistakes.append((path, "must be an object such as {total: data.price * 2}"))
            return
        for name, value in fields.items():
            if not step_graph.ID.fullmatch(str(name)):
                message = "must be up to 63 letters, digits and _, and not begin with a digit"
                self.mistakes.append((f"{path}.{name}", message))
            self._variables.add(str(name))
            if not isinstance(value, bool | int | float):
                self._expression(value, f"{path}.{name}", is_condition=False)

    def _par(self, blocks: Any, path: str) -> None:
        if not isinstance(blocks, list) or not step_graph.MIN_BLOCKS <= len(blocks) <= step_graph.MAX_BLOCKS:
            self.mistakes.append(
                (path, f"must be a list of {step_graph.MIN_BLOCKS} to {step_graph.MAX_BLOCKS} lists of steps")
            )

    def _repeat(self, step: Mapping[str, Any], path: str) -> None:
        if self.rounds > 1:
            self.mistakes.append((f"{path}.{REPEAT}", "is inside of another repeat, which is not allowed"))
        if step[REPEAT] == []:
            self.mistakes.append((f"{path}.{REPEAT}", "is empty; it needs at least one step"))
        if "until" not in step:
            self.mistakes.append((path, "needs until: the condition that ends it"))
        rounds = step.get("most", step_graph.DEFAULT_ROUNDS)
        if isinstance(rounds, bool) or not isinstance(rounds, int) or not 1 <= rounds <= step_graph.MAX_ROUNDS:
            self.mistakes.append((f"{path}.most", f"must be a whole number from 1 to {step_graph.MAX_ROUNDS}"))

    def _action(self, verb: str, step: Mapping[str, Any], path: str) -> None:
        self.mistakes += ACTIONS[verb].check(step[verb], f"{path}.{verb}")
        for text_path, text in find_texts(step[verb], f"{path}.{verb}"):
            self._check_step_ids(text_path, members_read(text, "steps"))
            self._variables_read += [(text_path, name) for name in sorted(members_read(text, "vars"))]
        if "retry" in step:
            self.mistakes += retry_policy.check(step["retry"], f"{path}.retry")
        if "timeout" in step:
            self.mistakes += _check_duration(step["timeout"], f"{path}.timeout", maximum=step_graph.MAX_TIMEOUT)

    def _check_step_ids(self, path: str, names: Set[str]) -> None:
        self.mistakes += [
            (path, f"steps.{name} is not known: no earlier step has the id {name}")
            for name in sorted(names - self.ids.keys())
        ]


def _rounds(step: Mapping[str, Any]) -> int:
    """How often the blocks of a step may be entered. A `repeat` counts as at least two rounds."""
    if REPEAT not in step:
        return 1
    rounds = step.get("most", step_graph.DEFAULT_ROUNDS)
    return min(max(2, rounds), step_graph.MAX_ROUNDS) if isinstance(rounds, int) else 2


def _check_duration(value: Any, path: str, maximum: str | None = None) -> FieldErrors:
    if value is None:
        return [(path, "is missing: a duration such as 1d")]
    try:
        if maximum is not None and read_duration(value) > read_duration(maximum):
            return [(path, f"is longer than {maximum}")]
        read_duration(value)
    except ValueError as exc:
        return [(path, str(exc))]
    return []


def check_strict(value: Any, path: str) -> FieldErrors:
    """Every mistake in a `strict` of a step or a document."""
    return [] if isinstance(value, bool) else [(path, "must be true or false")]
