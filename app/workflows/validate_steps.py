"""What is wrong with the steps of a document, as (path, message). Pure; `steps.py` walks the ones that are right."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Set
from typing import Any

from app.actions import ACTIONS, retry_policy
from app.actions.templates.render import members_named, texts_in
from app.core.durations import read_duration
from app.workflows.expressions.cel import compile_expression
from app.workflows.expressions.cel_analysis import FilterError
from app.workflows.step_graph import (
    DEEPEST,
    DEFAULT_ROUNDS,
    FEWEST_BLOCKS,
    ID,
    IF,
    LONGEST_TIMEOUT,
    MOST_BLOCKS,
    MOST_ENTERED,
    MOST_ROUNDS,
    MOST_STEPS,
    PAR,
    REPEAT,
    SET,
    VERBS,
    WAIT,
    WAIT_FOR,
    beside,
    blocks_in,
)

Mistakes = list[tuple[str, str]]
# Checks the leaf of a pattern (an event's name, or {event, where}) at a path.
CheckLeaf = Callable[[Any, str], Mistakes]

_IN_CEL = {name: re.compile(rf"(?<![\w.]){name}\.(\w+)") for name in ("steps", "vars")}


def check(steps: Any, check_leaf: CheckLeaf, path: str = "steps") -> Mistakes:
    """All that is wrong with the steps of a document, as (path, message)."""
    checking = _Checking(check_leaf)
    checking.block(steps, path, 0)
    if checking.count > MOST_STEPS:
        checking.mistakes.append((path, f"has {checking.count} steps in all; {MOST_STEPS} are allowed"))
    if checking.entered > MOST_ENTERED:
        checking.mistakes.append(
            (path, f"may enter {checking.entered} steps, each round counted; {MOST_ENTERED} are allowed")
        )
    if not steps and isinstance(steps, list):
        checking.mistakes.append((path, "is empty; a workflow has at least one step"))
    checking.known_variables()
    return checking.mistakes


class _Checking:
    """One walk over all steps in the order of the text; `known` are the ids met so far, `rounds` how often the steps that
    are being looked at may be entered."""

    def __init__(self, check_leaf: CheckLeaf) -> None:
        self._check_leaf = check_leaf
        self.known: dict[str, str] = {}
        self._variables: set[str] = set()
        self._variables_read: list[tuple[str, str]] = []
        self.count = 0
        self.entered = 0
        self.rounds = 1
        self.mistakes: Mistakes = []

    def block(self, steps: Any, path: str, depth: int) -> None:
        """A list of steps."""
        if not isinstance(steps, list):
            self.mistakes.append((path, "has to be a list of steps"))
        elif depth > DEEPEST:
            self.mistakes.append((path, f"is nested deeper than {DEEPEST} blocks"))
        else:
            for index, step in enumerate(steps):
                self._step(step, f"{path}[{index}]", depth)

    def known_variables(self) -> None:
        """What steps read of `vars` has to be set by some step, at whatever place: blocks go on side by side."""
        self.mistakes += [
            (path, f"vars.{name} is not known: no step sets it")
            for path, name in self._variables_read
            if name not in self._variables
        ]

    def _step(self, step: Any, path: str, depth: int) -> None:
        self.count += 1
        self.entered += self.rounds
        if not isinstance(step, Mapping):
            self.mistakes.append((path, "has to be an object such as {wait: 30m} or {log: some text}"))
            return
        verbs = [name for name in step if name in VERBS]
        self._fields(step, path, verbs)
        self._id(step, path)
        for verb in verbs:
            self._verb(verb, step, path)
        if isinstance(step.get("id"), str):
            self.known.setdefault(step["id"], path)
        rounds, self.rounds = self.rounds, self.rounds * _rounds(step)
        for below, block in blocks_in(step):
            name = below.partition("[")[0]
            if any(name == verb or name in beside(verb) for verb in verbs):
                self.block(block, f"{path}.{below}", depth + 1)
        self.rounds = rounds
        if REPEAT in verbs:
            self._until(step, path)

    def _fields(self, step: Mapping[str, Any], path: str, verbs: list[str]) -> None:
        allowed = {name for verb in verbs for name in beside(verb)} or set(beside("log"))
        self.mistakes += [
            (f"{path}.{name}", f"is unknown; a step is one of {', '.join(VERBS)}, and has {', '.join(sorted(allowed))}")
            for name in step
            if name not in allowed and name not in VERBS
        ]
        if not verbs:
            self.mistakes.append((path, f"says nothing that is to be done; it needs one of {', '.join(VERBS)}"))
        if len(verbs) > 1:
            self.mistakes.append((path, f"does several things at once ({', '.join(verbs)}); make them several steps"))

    def _id(self, step: Mapping[str, Any], path: str) -> None:
        if "id" not in step:
            return
        name = step["id"]
        if not isinstance(name, str) or not ID.fullmatch(name):
            self.mistakes.append((f"{path}.id", "has to be up to 63 letters, digits and _, and not begin with a digit"))
        elif name in self.known:
            self.mistakes.append((f"{path}.id", f"{name} is the id of {self.known[name]} already"))

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
                self.mistakes.append((path, "has no then: the steps to take if it is true"))
        elif verb == SET:
            self._set(fields, here)
        elif verb == PAR:
            self._par(fields, here)
        elif verb == REPEAT:
            self._repeat(step, path)
        else:
            self._action(verb, step, path)

    def _expression(self, text: Any, path: str) -> None:
        if not isinstance(text, str):
            self.mistakes.append((path, "has to be a CEL expression (text), such as data.price > 5000"))
            return
        try:
            compile_expression(text)
        except FilterError as wrong:
            self.mistakes.append((path, str(wrong)))
        self._known_steps(path, set(_IN_CEL["steps"].findall(text)))
        self._variables_read += [(path, name) for name in sorted(set(_IN_CEL["vars"].findall(text)))]

    def _set(self, fields: Any, path: str) -> None:
        if not isinstance(fields, Mapping) or not fields:
            self.mistakes.append((path, "has to be an object such as {total: data.price * 2}"))
            return
        for name, value in fields.items():
            if not ID.fullmatch(str(name)):
                wrong = "is no name: up to 63 letters, digits and _, and not a digit first"
                self.mistakes.append((f"{path}.{name}", wrong))
            self._variables.add(str(name))
            if not isinstance(value, bool | int | float):
                self._expression(value, f"{path}.{name}")

    def _par(self, blocks: Any, path: str) -> None:
        if not isinstance(blocks, list) or not FEWEST_BLOCKS <= len(blocks) <= MOST_BLOCKS:
            self.mistakes.append((path, f"has to be a list of {FEWEST_BLOCKS} to {MOST_BLOCKS} lists of steps"))

    def _repeat(self, step: Mapping[str, Any], path: str) -> None:
        if self.rounds > 1:
            self.mistakes.append((f"{path}.{REPEAT}", "stands in another repeat, which is not allowed"))
        if step[REPEAT] == []:
            self.mistakes.append((f"{path}.{REPEAT}", "is empty; it needs at least one step"))
        if "until" not in step:
            self.mistakes.append((path, "has no until: the condition that ends it"))
        most = step.get("most", DEFAULT_ROUNDS)
        if isinstance(most, bool) or not isinstance(most, int) or not 1 <= most <= MOST_ROUNDS:
            self.mistakes.append((f"{path}.most", f"has to be a whole number from 1 to {MOST_ROUNDS}"))

    def _until(self, step: Mapping[str, Any], path: str) -> None:
        """Looked at between rounds, so that it may speak of the steps inside."""
        if "until" in step:
            self._expression(step["until"], f"{path}.until")

    def _action(self, verb: str, step: Mapping[str, Any], path: str) -> None:
        self.mistakes += ACTIONS[verb].check(step[verb], f"{path}.{verb}")
        for place, text in texts_in(step[verb], f"{path}.{verb}"):
            self._known_steps(place, members_named(text, "steps"))
            self._variables_read += [(place, name) for name in sorted(members_named(text, "vars"))]
        if "retry" in step:
            self.mistakes += retry_policy.check(step["retry"], f"{path}.retry")
        if "timeout" in step:
            self.mistakes += _check_timeout(step["timeout"], f"{path}.timeout")
        if "strict" in step:
            self.mistakes += check_strict(step["strict"], f"{path}.strict")

    def _known_steps(self, path: str, names: Set[str]) -> None:
        self.mistakes += [
            (path, f"steps.{name} is not known yet: no step before this one has the id {name}")
            for name in sorted(names - self.known.keys())
        ]


def _rounds(step: Mapping[str, Any]) -> int:
    """How often the blocks of a step may be entered; of a `repeat` in any case more than once."""
    if REPEAT not in step:
        return 1
    most = step.get("most", DEFAULT_ROUNDS)
    return min(max(2, most), MOST_ROUNDS) if isinstance(most, int) else 2


def _check_duration(value: Any, path: str) -> Mistakes:
    if value is None:
        return [(path, "is missing: how long to wait at most, such as 1d")]
    try:
        read_duration(value)
    except ValueError as wrong:
        return [(path, str(wrong))]
    return []


def check_strict(value: Any, path: str) -> Mistakes:
    """What is wrong with a `strict`, of a step or of a whole document."""
    return [] if isinstance(value, bool) else [(path, "has to be true or false")]


def _check_timeout(value: Any, path: str) -> Mistakes:
    try:
        if read_duration(value) > read_duration(LONGEST_TIMEOUT):
            return [(path, f"is longer than {LONGEST_TIMEOUT}")]
    except ValueError as wrong:
        return [(path, str(wrong))]
    return []
