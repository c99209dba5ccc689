"""The steps of a document, walked from one to the next. Pure; `checking.py` checks them.

A place is a path such as `steps[2]`; a step that has blocks of steps of its own has them at `steps[2].then[0]`,
`steps[2].repeat[0]` or, where they go on side by side, `steps[2].par[1][0]`. After the last step of a block comes the one
after the step that has the block; after the last of a `repeat` that step itself; after the last of a block of `par` nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from app.actions import ACTIONS

DEFAULT_TIMEOUT = "15s"
LONGEST_TIMEOUT = "2m"
MOST_STEPS = 200
# Counted with the rounds of each `repeat`.
MOST_ENTERED = 20_000
DEEPEST = 10
FEWEST_BLOCKS, MOST_BLOCKS = 2, 20
MOST_ROUNDS, DEFAULT_ROUNDS = 1_000, 100

WAIT, WAIT_FOR, IF, SET, PAR, REPEAT = "wait", "wait_for", "if", "set", "par", "repeat"
VERBS = (WAIT, WAIT_FOR, IF, SET, PAR, REPEAT, *ACTIONS)
# What a step may have beside its verb.
_OF_ACTIONS = ("id", "retry", "timeout", "strict", "then", "else")
_BESIDE = {
    WAIT: ("id",),
    WAIT_FOR: ("id", "timeout", "then", "else"),
    IF: ("id", "then", "else"),
    SET: ("id",),
    PAR: ("id",),
    REPEAT: ("id", "until", "most"),
}
_BLOCKS = ("then", "else", REPEAT, PAR)
ID = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")
_PLACE = re.compile(r"(?P<block>.+)\[(?P<index>\d+)\]")
_PART = re.compile(r"(\w+)((?:\[\d+\])+)")
_INDEX = re.compile(r"\[(\d+)\]")
# What a document may speak of that takes work to find out.
_SPOKEN_OF = re.compile(r"\b(matched|latest|vars|last|steps|mustache)\b")


def first(document: Mapping[str, Any]) -> str | None:
    """The path of the first step, None when there is none."""
    return "steps[0]" if document["steps"] else None


def following(document: Mapping[str, Any], at: str) -> str | None:
    """The path of the step that comes after the one at `at` is over; None at the end of the document, or of the block of
    a `par` in which it stands."""
    while match := _PLACE.fullmatch(at):
        block, index = match["block"], int(match["index"]) + 1
        if index < len(_block_at(document, block)):
            return f"{block}[{index}]"
        if block.endswith("]"):
            return None
        at, _, name = block.rpartition(".")
        if name == REPEAT:
            return at
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
    found: Any = document
    for part in path.split("."):
        match = _PART.fullmatch(part)
        found = found[match[1] if match else part]
        for index in _INDEX.findall(part):
            found = found[int(index)]
    return found


def inside(document: Mapping[str, Any], at: str, branch: str) -> str | None:
    """The first step of the block `branch` (then, else or repeat) of the step at `at`, or what follows that step when the
    block is empty or not there."""
    if step_at(document, at).get(branch):
        return f"{at}.{branch}[0]"
    return following(document, at)


def blocks_of(document: Mapping[str, Any], at: str) -> list[tuple[int, str]]:
    """The blocks of the `par` at `at` that have steps: their numbers, and the paths of their first steps."""
    blocks = step_at(document, at)[PAR]
    return [(number, f"{at}.{PAR}[{number}][0]") for number, block in enumerate(blocks) if block]


def verb_of(step: Mapping[str, Any]) -> str:
    """What a checked step does: `wait`, `wait_for`, `if` …, or the name of an action."""
    return next(name for name in step if name in VERBS)


def beside(verb: str) -> tuple[str, ...]:
    """What a step may have beside its verb."""
    return _BESIDE.get(verb, _OF_ACTIONS)


def blocks_in(step: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """All blocks of steps that a step has, each with its path below the step."""
    for branch in _BLOCKS[:3]:
        if branch in step:
            yield branch, step[branch]
    if isinstance(step.get(PAR), list):
        yield from ((f"{PAR}[{number}]", block) for number, block in enumerate(step[PAR]))


def every_step(steps: Any) -> Iterator[Mapping[str, Any]]:
    """All steps of a checked list, those of their blocks included."""
    for step in steps or ():
        yield step
        for _, block in blocks_in(step):
            yield from every_step(block)


def in_order(steps: Any) -> Any:
    """Steps as they are kept, with whatever mistakes they have: each `set` as a list of objects with one name, since jsonb
    does not keep the order of names and later values see earlier ones."""
    if isinstance(steps, list):
        return [in_order(step) for step in steps]
    if not isinstance(steps, Mapping):
        return steps
    kept = {name: in_order(part) if name in _BLOCKS else part for name, part in steps.items()}
    if isinstance(kept.get(SET), Mapping):
        kept[SET] = [{name: value} for name, value in kept[SET].items()]
    return kept


def values_set(step: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """What a `set` sets: names and expressions, in order."""
    given = step[SET]
    parts = [given] if isinstance(given, Mapping) else given
    return [pair for part in parts for pair in part.items()]


def leaves_awaited(document: Mapping[str, Any]) -> list[Any]:
    """All that runs of a checked document may wait for or end by: leaves of `wait_for` and `exit_on`."""
    found = [document["exit_on"]] if "exit_on" in document else []
    return found + [step[WAIT_FOR] for step in every_step(document["steps"]) if WAIT_FOR in step]


def has_blocks(document: Mapping[str, Any]) -> bool:
    """Whether runs of a checked document may have blocks that go on side by side."""
    return any(PAR in step for step in every_step(document["steps"]))


def spoken_of(document: Mapping[str, Any]) -> frozenset[str]:
    """Which of the names `matched latest vars last steps` the texts of a document may speak of; rather too many than too
    few."""
    found = set(_SPOKEN_OF.findall(repr(document["steps"])))
    if "mustache" in found:
        found |= {"latest", "vars"}
    return frozenset(found)
