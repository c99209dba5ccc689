"""The order of the steps of a valid document: which step comes first, which comes next, which blocks a step has.

A step is identified by its path, such as `steps[2]`. The blocks of that step begin at `steps[2].then[0]`,
`steps[2].repeat[0]` or, if they run in parallel, `steps[2].par[1][0]`. The last step of a block is followed by the step
after the one that has the block; the last step of a `repeat` by the `repeat` itself; the last step of a block of `par` by
none.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from app.actions import ACTIONS

DEFAULT_TIMEOUT = "15s"
MAX_TIMEOUT = "2m"
MAX_STEPS = 200
# The steps that a run may enter, counting each round of a `repeat`.
MAX_STEP_ENTRIES = 20_000
MAX_DEPTH = 10
MIN_BLOCKS, MAX_BLOCKS = 2, 20
MAX_ROUNDS, DEFAULT_ROUNDS = 1_000, 100

WAIT, WAIT_FOR, IF, SET, PAR, REPEAT = "wait", "wait_for", "if", "set", "par", "repeat"
VERBS = (WAIT, WAIT_FOR, IF, SET, PAR, REPEAT, *ACTIONS)
# The fields that a step may have in addition to its verb.
_ACTION_FIELDS = ("id", "retry", "timeout", "strict", "then", "else")
_FIELDS = {
    WAIT: ("id",),
    WAIT_FOR: ("id", "timeout", "then", "else"),
    IF: ("id", "strict", "then", "else"),
    SET: ("id", "strict"),
    PAR: ("id",),
    REPEAT: ("id", "strict", "until", "most"),
}
_BLOCKS = ("then", "else", REPEAT, PAR)
ID = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")
_PATH = re.compile(r"(?P<block>.+)\[(?P<index>\d+)\]")
_PART = re.compile(r"(\w+)((?:\[\d+\])+)")
_INDEX = re.compile(r"\[(\d+)\]")
# Names whose values are expensive to load.
_REFERENCED = re.compile(r"\b(matched|latest|vars|last|steps|mustache)\b")


def next_step(document: Mapping[str, Any], at: str) -> str | None:
    """The path of the step after the one at `at`; None at the end of the document or of a block of a `par`."""
    while match := _PATH.fullmatch(at):
        block, index = match["block"], int(match["index"]) + 1
        if index < len(_find_block(document, block)):
            return f"{block}[{index}]"
        if block.endswith("]"):
            return None
        at, _, name = block.rpartition(".")
        if name == REPEAT:
            return at
    return None


def find_step(document: Mapping[str, Any], at: str) -> Mapping[str, Any]:
    """The step at a path. Raises LookupError."""
    match = _PATH.fullmatch(at)
    if match is None:
        raise LookupError(f"{at} is not the path of a step")
    step = _find_block(document, match["block"])[int(match["index"])]
    assert isinstance(step, Mapping)
    return step


def _find_block(document: Mapping[str, Any], path: str) -> Any:
    found: Any = document
    for part in path.split("."):
        match = _PART.fullmatch(part)
        found = found[match[1] if match else part]
        for index in _INDEX.findall(part):
            found = found[int(index)]
    return found


def enter_block(document: Mapping[str, Any], at: str, branch: str) -> str | None:
    """The path of the first step of the block `branch` (then, else or repeat) of the step at `at`, or of the next step if
    the block is empty or absent."""
    if find_step(document, at).get(branch):
        return f"{at}.{branch}[0]"
    return next_step(document, at)


def parallel_blocks(document: Mapping[str, Any], at: str) -> list[tuple[int, str]]:
    """The non-empty blocks of the `par` at `at`: their numbers, and the paths of their first steps."""
    blocks = find_step(document, at)[PAR]
    return [(number, f"{at}.{PAR}[{number}][0]") for number, block in enumerate(blocks) if block]


def find_verb(step: Mapping[str, Any]) -> str:
    """The verb of a valid step: `wait`, `wait_for`, `if` …, or the name of an action."""
    return next(name for name in step if name in VERBS)


def allowed_fields(verb: str) -> tuple[str, ...]:
    """The fields that a step may have in addition to its verb."""
    return _FIELDS.get(verb, _ACTION_FIELDS)


def is_strict(document: Mapping[str, Any], step: Mapping[str, Any]) -> bool:
    """Whether a missing value fails a step of a valid document."""
    return bool(step.get("strict", document.get("strict", False)))


def blocks_in(step: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """All blocks of a step, each with its path relative to the step."""
    for branch in _BLOCKS[:3]:
        if branch in step:
            yield branch, step[branch]
    if isinstance(step.get(PAR), list):
        yield from ((f"{PAR}[{number}]", block) for number, block in enumerate(step[PAR]))


def walk_steps(steps: Any) -> Iterator[Mapping[str, Any]]:
    """All steps of a valid list, including those in blocks."""
    for step in steps or ():
        yield step
        for _, block in blocks_in(step):
            yield from walk_steps(block)


def to_stored(steps: Any) -> Any:
    """Steps as they are stored, valid or not: each `set` is a list of objects with one name, since jsonb does not keep the
    order of names and later values can use earlier ones."""
    if isinstance(steps, list):
        return [to_stored(step) for step in steps]
    if not isinstance(steps, Mapping):
        return steps
    stored = {name: to_stored(part) if name in _BLOCKS else part for name, part in steps.items()}
    if isinstance(stored.get(SET), Mapping):
        stored[SET] = [{name: value} for name, value in stored[SET].items()]
    return stored


def list_assignments(step: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """The names and expressions of a `set`, in order."""
    values = step[SET]
    parts = [values] if isinstance(values, Mapping) else values
    return [pair for part in parts for pair in part.items()]


def find_awaited_leaves(document: Mapping[str, Any]) -> list[Any]:
    """The leaves of `wait_for` and `exit_on` of a valid document: what its runs may wait for or end by."""
    found = [document["exit_on"]] if "exit_on" in document else []
    return found + [step[WAIT_FOR] for step in walk_steps(document["steps"]) if WAIT_FOR in step]


def has_parallel_blocks(document: Mapping[str, Any]) -> bool:
    """Whether a valid document has blocks that run in parallel."""
    return any(PAR in step for step in walk_steps(document["steps"]))


def find_referenced_names(document: Mapping[str, Any]) -> frozenset[str]:
    """Which of the names `matched latest vars last steps` the texts of a document may reference. May include further
    ones."""
    found = set(_REFERENCED.findall(repr(document["steps"])))
    if "mustache" in found:
        found |= {"latest", "vars"}
    return frozenset(found)
