"""Builds steps for both versions of the notation: names of variables, parallel blocks, text fields, and options."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from app.workflows.cxengage.cel_writer import RESERVED
from app.workflows.cxengage.clojure_semantics import Value
from app.workflows.cxengage.endpoints import Parameter, TextField
from app.workflows.cxengage.notation_parser import (
    A_DURATION,
    Form,
    Node,
    TemplateName,
    Text,
    arguments,
    duration_of,
    expect_count,
    expect_list,
    one_of,
    read_map,
    unexpected,
)
from app.workflows.cxengage.source_map import SourceMap
from app.workflows.cxengage.text_fields import as_liquid, as_text, rename_variables, verbatim

Steps = list[dict[str, Any]]
MAX_RETRIES = 99
MAX_TIMEOUT = "2m"
MAX_BLOCKS = 20
MAX_ROUNDS = 1_000
_MAX_STEPS = 1_000
_MAX_NAME_LENGTH = 50
# Steps that all rounds of loops together may enter; a run may enter 20,000.
MAX_ENTERED = 19_000


@dataclass(slots=True)
class StepBuilder:
    """The state of compiling one document. `templates` are by name (`TM1`)."""

    templates: Mapping[str, str]
    source_map: SourceMap = field(default_factory=SourceMap)
    count: int = 0
    _names: set[str] = field(default_factory=lambda: set(RESERVED))

    def fresh_name(self, word: str) -> str:
        """An unused name like `word` for a variable, valid in CEL, Liquid and Mustache: `cust-seg` becomes `cust_seg`, a
        second one `cust_seg_2`."""
        plain = re.sub(r"\W", "_", word, flags=re.ASCII)[:_MAX_NAME_LENGTH]
        plain = f"_{plain}" if plain[:1].isdigit() else plain
        name, number = plain, 1
        while name in self._names:
            number += 1
            name = f"{plain}_{number}"
        self._names.add(name)
        return name

    def mark(self, step: dict[str, Any], node: Node) -> dict[str, Any]:
        """Record the position of a step. Raises Unexpected for far more steps than a document may have."""
        self.count += 1
        if self.count > _MAX_STEPS:
            raise unexpected(node, "fewer steps", f"more than {_MAX_STEPS}")
        return self.source_map.mark(step, node)

    def parallel(self, blocks: list[Steps], node: Node) -> Steps:
        """Steps that run several blocks in parallel."""
        if len(blocks) == 1:
            return blocks[0]
        while len(blocks) > MAX_BLOCKS:
            parts = [blocks[start : start + MAX_BLOCKS] for start in range(0, len(blocks), MAX_BLOCKS)]
            blocks = [self.parallel(part, node) for part in parts]
        return [self.mark({"par": blocks}, node)]

    def text_field(self, value: Value, before: dict[str, str]) -> str:
        """The Liquid text of a value. A value that Liquid cannot express becomes a variable in `before`, CEL by name."""
        if value.is_constant:
            if (text := verbatim(as_text(value.constant))) is not None:
                return text
        elif value.path is not None and (expression := as_liquid(value.path)) is not None:
            return expression
        name = self.fresh_name("value")
        before[name] = value.text
        return f"{{{{ vars.{name} }}}}"

    def template(self, node: Node, scope: Mapping[str, str]) -> dict[str, Any]:
        """`+TM1` or a text as a Mustache template; `scope` maps the variables to their names."""
        if isinstance(node, Text):
            return self.source_map.mark({"mustache": rename_variables(node.value, scope)}, node)
        known = [f"+{name}" for name in self.templates]
        if not isinstance(node, TemplateName) or node.name not in self.templates:
            raise unexpected(node, one_of(known) if known else "a text: there are no templates")
        return self.source_map.mark({"mustache": rename_variables(self.templates[node.name], scope)}, node)


def read_options(nodes: Sequence[Node], allowed: tuple[str, ...], parent: Form) -> dict[str, Form]:
    """The options in the last members of a list by name, each at most once; raises Unexpected."""
    options: dict[str, Form] = {}
    for node in nodes:
        form = expect_list(node, allowed)
        word = "timeout" if form.head == "within" else form.head
        if word in options:
            raise unexpected(form, f'"{form.head}" only once in "({parent.head} …)"')
        options[word] = form
    return options


def limits_of(options: Mapping[str, Form], *, counts_first: bool = False) -> dict[str, Any]:
    """The fields `retry` and `timeout` of a step. `(retries N)` is N more attempts than one or, if `counts_first`, N in all."""
    limits: dict[str, Any] = {}
    if (form := options.get("retries")) is not None:
        what, first = ("how many attempts in all", 1) if counts_first else ("how many retries", 0)
        count = expect_count(arguments(form, (what,))[0], first, MAX_RETRIES + first, what)
        limits["retry"] = {"attempts": count + 1 - first}
    if (form := options.get("timeout")) is not None:
        limits["timeout"] = duration_of(*arguments(form, A_DURATION), maximum=MAX_TIMEOUT)
    return limits


def parameters_of(node: Node, text_field: Callable[[Node], TextField]) -> list[Parameter]:
    """The parameters in a map; the value of a vector is a list. Raises Unexpected."""
    params = []
    for key, value in read_map(node).values():
        if isinstance(value, Form) and value.bracket == "[":
            params.append(Parameter(key, [text_field(member) for member in value.members], value))
        else:
            params.append(Parameter(key, text_field(value), value))
    return params


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
