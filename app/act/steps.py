"""The steps of a document: checked, and walked from one to the next. Pure.

A place is a path such as `steps[2]`; a step that has blocks of steps of its own (`then`, `else`) has them at
`steps[2].then[0]`. After the last step of a block comes the one after the step that has the block.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Set
from typing import Any

from app.act import ACTIONS, retry
from app.act.template import steps_named, texts_in
from app.durations import read_duration
from app.filters import RUN_NAMES, FilterError, compile_filter

DEFAULT_TIMEOUT = "15s"
LONGEST_TIMEOUT = "2m"
MOST_STEPS = 200
DEEPEST = 10

WAIT, WAIT_FOR, IF = "wait", "wait_for", "if"
VERBS = (WAIT, WAIT_FOR, IF, *ACTIONS)
# What a step may have beside its verb.
_OF_ACTIONS = ("id", "retry", "timeout", "strict")
_BESIDE = {WAIT: ("id",), WAIT_FOR: ("id", "timeout", "then", "else"), IF: ("id", "then", "else")}
ID = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")
_PLACE = re.compile(r"(?P<block>.+)\[(?P<index>\d+)\]")
_PART = re.compile(r"(\w+)\[(\d+)\]")
_STEP_IN_CEL = re.compile(r"\bsteps\.(\w+)")

Mistakes = list[tuple[str, str]]
# Checks the leaf of a pattern (an event's name, or {event, where}) at a path.
CheckLeaf = Callable[[Any, str], Mistakes]


# Walking


def first(document: Mapping[str, Any]) -> str | None:
    """The path of the first step, None when there is none."""
    return "steps[0]" if document["steps"] else None


def following(document: Mapping[str, Any], at: str) -> str | None:
    """The path of the step that comes after the one at `at` is over; None at the end."""
    while match := _PLACE.fullmatch(at):
        index = int(match["index"]) + 1
        if index < len(_block_at(document, match["block"])):
            return f"{match['block']}[{index}]"
        at = match["block"].rpartition(".")[0]
    return None


def step_at(document: Mapping[str, Any], at: str) -> Mapping[str, Any]:
    """The step at a path; LookupError when there is none."""
    match = _PLACE.fullmatch(at)
    if match is None:
        raise LookupError(f"{at} is not the path of a step")
    step = _block_at(document, match["block"])[int(match["index"])]
    assert isinstance(step, Mapping)
    return step


def _block_at(document: Mapping[str, Any], path: str) -> Any:
    above, _, name = path.rpartition(".")
    found: Any = document
    for block, index in _PART.findall(above):
        found = found[block][int(index)]
    return found[name]


def inside(document: Mapping[str, Any], at: str, branch: str) -> str | None:
    """The first step of the block `branch` (then or else) of the step at `at`, or what follows that step when the block
    is empty or not there."""
    if step_at(document, at).get(branch):
        return f"{at}.{branch}[0]"
    return following(document, at)


def verb_of(step: Mapping[str, Any]) -> str:
    """What a checked step does: `wait`, `wait_for`, `if`, or the name of an action."""
    return next(name for name in step if name in VERBS)


def leaves_awaited(document: Mapping[str, Any]) -> list[Any]:
    """All that runs of a checked document may wait for or end by: leaves of `wait_for` and `exit_on`."""
    found = [document["exit_on"]] if "exit_on" in document else []
    return found + list(_awaited_in(document["steps"]))


def _awaited_in(steps: list[Mapping[str, Any]]) -> Iterator[Any]:
    for step in steps:
        if WAIT_FOR in step:
            yield step[WAIT_FOR]
        for branch in ("then", "else"):
            yield from _awaited_in(step.get(branch) or [])


# Checking


def check(steps: Any, check_leaf: CheckLeaf, path: str = "steps") -> Mistakes:
    """All that is wrong with the steps of a document, as (path, message)."""
    checking = _Checking(check_leaf)
    checking.block(steps, path, 0)
    if checking.count > MOST_STEPS:
        checking.mistakes.append((path, f"has {checking.count} steps in all; {MOST_STEPS} are allowed"))
    if not steps and isinstance(steps, list):
        checking.mistakes.append((path, "is empty; a workflow has at least one step"))
    return checking.mistakes


class _Checking:
    """One walk over all steps in the order of the text; `known` are the ids met so far."""

    def __init__(self, check_leaf: CheckLeaf) -> None:
        self._check_leaf = check_leaf
        self.known: dict[str, str] = {}
        self.count = 0
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

    def _step(self, step: Any, path: str, depth: int) -> None:
        self.count += 1
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
        for branch in ("then", "else"):
            if branch in step and any(branch in beside(verb) for verb in verbs):
                self.block(step[branch], f"{path}.{branch}", depth + 1)

    def _fields(self, step: Mapping[str, Any], path: str, verbs: list[str]) -> None:
        allowed = {name for verb in verbs for name in beside(verb)} or set(_OF_ACTIONS)
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
            self._condition(fields, here)
            if "then" not in step:
                self.mistakes.append((path, "has no then: the steps to take if it is true"))
        else:
            self._action(verb, step, path)

    def _condition(self, text: Any, path: str) -> None:
        if not isinstance(text, str):
            self.mistakes.append((path, "has to be a CEL expression (text), such as data.price > 5000"))
            return
        try:
            compile_filter(text, also=RUN_NAMES)
        except FilterError as wrong:
            self.mistakes.append((path, str(wrong)))
        self._known_steps(path, set(_STEP_IN_CEL.findall(text)))

    def _action(self, verb: str, step: Mapping[str, Any], path: str) -> None:
        self.mistakes += ACTIONS[verb].check(step[verb], f"{path}.{verb}")
        for place, text in texts_in(step[verb], f"{path}.{verb}"):
            self._known_steps(place, steps_named(text))
        if "retry" in step:
            self.mistakes += retry.check(step["retry"], f"{path}.retry")
        if "timeout" in step:
            self.mistakes += _check_timeout(step["timeout"], f"{path}.timeout")
        if "strict" in step:
            self.mistakes += check_strict(step["strict"], f"{path}.strict")

    def _known_steps(self, path: str, names: Set[str]) -> None:
        self.mistakes += [
            (path, f"steps.{name} is not known yet: no step before this one has the id {name}")
            for name in sorted(names - self.known.keys())
        ]


def beside(verb: str) -> tuple[str, ...]:
    """What a step may have beside its verb."""
    return _BESIDE.get(verb, _OF_ACTIONS)


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
