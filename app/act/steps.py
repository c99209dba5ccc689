"""The steps of a document: checked, and walked from one to the next. Pure.

A place is a path such as `steps[2]`; a step that has blocks of steps of its own (`then`, `else`) has them at
`steps[2].then[0]`. After the last step of a block comes the one after the step that has the block.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from app.act import ACTIONS, retry
from app.act.template import steps_named, texts_in
from app.durations import read_duration

DEFAULT_TIMEOUT = "15s"
LONGEST_TIMEOUT = "2m"
MOST_STEPS = 200

WAIT = "wait"
VERBS = (WAIT, *ACTIONS)
_OF_ACTIONS = ("id", "retry", "timeout")
_OF_WAITS = ("id",)
_ID = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")
_PLACE = re.compile(r"(?P<block>.+)\[(?P<index>\d+)\]")
_PART = re.compile(r"(\w+)\[(\d+)\]")


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


def verb_of(step: Mapping[str, Any]) -> str:
    """What a checked step does: `wait`, or the name of an action."""
    return next(name for name in step if name in VERBS)


# Checking


def check(steps: Any, path: str = "steps") -> list[tuple[str, str]]:
    """All that is wrong with the steps of a document, as (path, message)."""
    if not isinstance(steps, list):
        return [(path, "has to be a list of steps")]
    if not steps:
        return [(path, "is empty; a workflow has at least one step")]
    if len(steps) > MOST_STEPS:
        return [(path, f"has {len(steps)} steps; {MOST_STEPS} are allowed")]
    errors: list[tuple[str, str]] = []
    known: dict[str, str] = {}
    for index, step in enumerate(steps):
        here = f"{path}[{index}]"
        errors += _check_step(step, here, known)
        name = step.get("id") if isinstance(step, Mapping) else None
        if isinstance(name, str):
            known.setdefault(name, here)
    return errors


def _check_step(step: Any, path: str, known: Mapping[str, str]) -> list[tuple[str, str]]:
    """One step; `known` are the ids of the steps that are over before it."""
    if not isinstance(step, Mapping):
        return [(path, "has to be an object such as {wait: 30m} or {log: some text}")]
    verbs = [name for name in step if name in VERBS]
    allowed = {name for verb in verbs for name in (_OF_WAITS if verb == WAIT else _OF_ACTIONS)} or set(_OF_ACTIONS)
    errors = [
        (f"{path}.{name}", f"is unknown; a step is one of {', '.join(VERBS)}, and has {', '.join(sorted(allowed))}")
        for name in step
        if name not in allowed and name not in VERBS
    ]
    if not verbs:
        errors.append((path, f"says nothing that is to be done; it needs one of {', '.join(VERBS)}"))
    if len(verbs) > 1:
        errors.append((path, f"does several things at once ({', '.join(verbs)}); make them several steps"))
    errors += _check_id(step, path, known)
    for verb in verbs:
        errors += _check_verb(verb, step[verb], f"{path}.{verb}", known)
    if "retry" in step and "retry" in allowed:
        errors += retry.check(step["retry"], f"{path}.retry")
    if "timeout" in step and "timeout" in allowed:
        errors += _check_timeout(step["timeout"], f"{path}.timeout")
    return errors


def _check_id(step: Mapping[str, Any], path: str, known: Mapping[str, str]) -> list[tuple[str, str]]:
    name = step.get("id")
    if "id" not in step:
        return []
    if not isinstance(name, str) or not _ID.fullmatch(name):
        return [(f"{path}.id", "has to be up to 63 letters, digits and _, and not begin with a digit")]
    if name in known:
        return [(f"{path}.id", f"{name} is the id of {known[name]} already")]
    return []


def _check_verb(verb: str, fields: Any, path: str, known: Mapping[str, str]) -> list[tuple[str, str]]:
    if verb == WAIT:
        try:
            read_duration(fields)
        except ValueError as wrong:
            return [(path, str(wrong))]
        return []
    errors = ACTIONS[verb].check(fields, path)
    for place, text in texts_in(fields, path):
        errors += [
            (place, f"steps.{name} is not known yet: no step before this one has the id {name}")
            for name in sorted(steps_named(text) - known.keys())
        ]
    return errors


def _check_timeout(value: Any, path: str) -> list[tuple[str, str]]:
    try:
        if read_duration(value) > read_duration(LONGEST_TIMEOUT):
            return [(path, f"is longer than {LONGEST_TIMEOUT}")]
    except ValueError as wrong:
        return [(path, str(wrong))]
    return []
