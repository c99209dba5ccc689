"""Builds steps for both versions of the notation: `set` steps, parallel blocks, and interactions with their options."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from app.workflows.cxengage.durations import duration_of
from app.workflows.cxengage.endpoints import Parameter, TextField, find_endpoint, step_of
from app.workflows.cxengage.parser import Form, Node, arguments, expect_count, expect_list, read_map, unexpected
from app.workflows.cxengage.source_map import SourceMap
from app.workflows.cxengage.text_fields import TextFieldWriter
from app.workflows.cxengage.variable_names import VariableNames

Steps = list[dict[str, Any]]
MAX_RETRIES = 99
MAX_TIMEOUT = "2m"
MAX_BLOCKS = 20
MAX_ROUNDS = 1_000
_MAX_STEPS = 1_000
# Steps that all rounds of loops together may enter; a run may enter 20,000.
MAX_ENTERED = 19_000


@dataclass(slots=True)
class StepBuilder:
    """The state of compiling one document. `title` is the pattern's name, as Liquid."""

    templates: Mapping[str, str]
    title: str
    names: VariableNames = field(default_factory=VariableNames)
    source_map: SourceMap = field(default_factory=SourceMap)
    text_fields: TextFieldWriter = field(init=False)
    count: int = 0

    def __post_init__(self) -> None:
        self.text_fields = TextFieldWriter(self.templates, self.names, self.source_map)

    def mark(self, step: dict[str, Any], node: Node) -> dict[str, Any]:
        """Record the position of a step. Raises Unexpected for far more steps than a document may have."""
        self.count += 1
        if self.count > _MAX_STEPS:
            raise unexpected(node, "fewer steps", f"more than {_MAX_STEPS}")
        return self.source_map.mark(step, node)

    def add_variables(self, steps: Steps, variables: Mapping[str, str], node: Node) -> None:
        """Append a `set` step, or extend the last step if it sets only other variables."""
        if not variables:
            return
        last = steps[-1] if steps else {}
        if set(last) == {"set"} and last["set"].keys().isdisjoint(variables):
            last["set"].update(variables)
        else:
            steps.append(self.mark({"set": dict(variables)}, node))

    def parallel(self, blocks: list[Steps], node: Node) -> Steps:
        """Steps that run several blocks in parallel."""
        if len(blocks) == 1:
            return blocks[0]
        while len(blocks) > MAX_BLOCKS:
            parts = [blocks[start : start + MAX_BLOCKS] for start in range(0, len(blocks), MAX_BLOCKS)]
            blocks = [self.parallel(part, node) for part in parts]
        return [self.mark({"par": blocks}, node)]

    def interaction(self, form: Form, endpoint: Node, action: Node, params: list[Parameter]) -> dict[str, Any]:
        """The step of an interaction without its options."""
        return self.mark(step_of(find_endpoint(endpoint, action), params, form, self.title), form)


@dataclass(slots=True)
class Options:
    """The options of an interaction or block, by name."""

    found: dict[str, Form] = field(default_factory=dict)

    @classmethod
    def read(cls, nodes: tuple[Node, ...], allowed: tuple[str, ...], parent: Form) -> Options:
        """The options in the last members of a list, each at most once; raises Unexpected."""
        options = cls()
        for node in nodes:
            form = expect_list(node, allowed)
            word = "timeout" if form.head == "within" else form.head
            if word in options.found:
                raise unexpected(form, f'"{form.head}" only once in "({parent.head} …)"')
            options.found[word] = form
        return options

    def limits(self) -> dict[str, Any]:
        """The fields `retry` and `timeout` of a step."""
        limits: dict[str, Any] = {}
        if (form := self.found.get("retries")) is not None:
            count = expect_count(arguments(form, ("how many retries",))[0], 0, MAX_RETRIES, "how many retries")
            limits["retry"] = {"attempts": count + 1}
        if (form := self.found.get("timeout")) is not None:
            count_node, unit = arguments(form, ("a number", "a unit of time"))
            limits["timeout"] = duration_of(count_node, unit, maximum=MAX_TIMEOUT)
        return limits


def split_interaction(form: Form) -> tuple[Node, Node, tuple[Node, ...]]:
    """The endpoint, the action and the other members of `(verb endpoint action …)`."""
    found = form.rest
    for index, expected in enumerate(("an endpoint", "an action of the endpoint")):
        if index >= len(found):
            raise unexpected(form.end, expected, f'the end of "({form.head} …)"')
    return found[0], found[1], found[2:]


def is_map(node: Node) -> bool:
    """Whether a node is a map."""
    return isinstance(node, Form) and node.bracket == "{"


def parameters_of(node: Node, text_field: Callable[[Node], TextField]) -> list[Parameter]:
    """The parameters in a map; the value of a vector is a list. Raises Unexpected."""
    params = []
    for key, value in read_map(node).values():
        if isinstance(value, Form) and value.bracket == "[":
            params.append(Parameter(key, [text_field(member) for member in value.members], value))
        else:
            params.append(Parameter(key, text_field(value), value))
    return params


def override(params: list[Parameter], overrides: list[Parameter]) -> list[Parameter]:
    """The parameters, with `overrides` in place of those with the same key."""
    keys = {param.key.name for param in overrides}
    return [param for param in params if param.key.name not in keys] + overrides


def count_steps(steps: Steps) -> int:
    """The number of steps, including those in blocks."""
    pending: list[Any] = [steps]
    count = 0
    while pending:
        part = pending.pop()
        if isinstance(part, list):
            pending += part
            count += sum(isinstance(member, dict) for member in part)
        elif isinstance(part, dict):
            pending += [part[name] for name in ("then", "else", "repeat", "par") if name in part]
    return count
