"""What both generations need to make steps: settings of variables in a row, options of an interaction, blocks side by side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from app.workflows.cxengage.durations import a_span
from app.workflows.cxengage.endpoints import Given, find_endpoint, step_of
from app.workflows.cxengage.parser import Form, Node, a_count, a_list, arguments, unexpected
from app.workflows.cxengage.source_map import Places
from app.workflows.cxengage.text_fields import Wording
from app.workflows.cxengage.variable_names import Names

Steps = list[dict[str, Any]]
MOST_RETRIES = 99
LONGEST_TIMEOUT = "2m"
MOST_BLOCKS = 20
MOST_ROUNDS = 1_000
_MOST_MADE = 1_000
# Of the steps that the rounds of all loops together may enter, with some room for the others.
MOST_ENTERED = 19_000


@dataclass(slots=True)
class Workshop:
    """What goes through the making of one document: its templates, names and places; `subject` is its own name,
    as Liquid."""

    templates: Mapping[str, str]
    subject: str
    names: Names = field(default_factory=Names)
    places: Places = field(default_factory=Places)
    wording: Wording = field(init=False)
    count: int = 0

    def __post_init__(self) -> None:
        self.wording = Wording(self.templates, self.names, self.places)

    def mark(self, step: dict[str, Any], node: Node) -> dict[str, Any]:
        """The step, its place remembered. Far more of them than a document may have are not made to the end."""
        self.count += 1
        if self.count > _MOST_MADE:
            raise unexpected(node, "fewer steps", f"more than {_MOST_MADE}")
        return self.places.mark(step, node)

    def setting(self, steps: Steps, variables: Mapping[str, str], node: Node) -> None:
        """Add a step that sets variables, or set them with the step before if that only sets others."""
        if not variables:
            return
        last = steps[-1] if steps else {}
        if set(last) == {"set"} and last["set"].keys().isdisjoint(variables):
            last["set"].update(variables)
        else:
            steps.append(self.mark({"set": dict(variables)}, node))

    def side_by_side(self, blocks: list[Steps], node: Node) -> Steps:
        """Steps that go through several blocks at the same time."""
        if len(blocks) == 1:
            return blocks[0]
        while len(blocks) > MOST_BLOCKS:
            parts = [blocks[at : at + MOST_BLOCKS] for at in range(0, len(blocks), MOST_BLOCKS)]
            blocks = [self.side_by_side(part, node) for part in parts]
        return [self.mark({"par": blocks}, node)]

    def interaction(self, form: Form, endpoint: Node, action: Node, given: list[Given]) -> dict[str, Any]:
        """The step of an interaction without its options."""
        return self.mark(step_of(find_endpoint(endpoint, action), given, form, self.subject), form)


@dataclass(slots=True)
class Options:
    """What may stand at the end of an interaction, by its word; each at most once."""

    found: dict[str, Form] = field(default_factory=dict)

    @classmethod
    def read(cls, nodes: tuple[Node, ...], known: tuple[str, ...], around: Form) -> Options:
        """The options among the last members of a list."""
        options = cls()
        for node in nodes:
            form = a_list(node, known)
            word = "timeout" if form.head == "within" else form.head
            if word in options.found:
                raise unexpected(form, f'"{form.head}" once in "({around.head} …)"')
            options.found[word] = form
        return options

    def limits(self) -> dict[str, Any]:
        """`retry` and `timeout` of a step."""
        limits: dict[str, Any] = {}
        if (form := self.found.get("retries")) is not None:
            count = a_count(arguments(form, ("how many retries",))[0], 0, MOST_RETRIES, "how many retries")
            limits["retry"] = {"attempts": count + 1}
        if (form := self.found.get("timeout")) is not None:
            count_node, unit = arguments(form, ("a number", "a unit of time"))
            limits["timeout"] = a_span(count_node, unit, most=LONGEST_TIMEOUT)
        return limits


def split_interaction(form: Form) -> tuple[Node, Node, tuple[Node, ...]]:
    """The endpoint, the action and what follows, of `(verb endpoint action …)`."""
    from_here = ("an endpoint", "what the endpoint is to do")
    found = form.rest
    for place, expected in enumerate(from_here):
        if place >= len(found):
            raise unexpected(form.end, expected, f'the end of "({form.head} …)"')
    return found[0], found[1], found[2:]


def is_map(node: Node) -> bool:
    """Whether a node is a map."""
    return isinstance(node, Form) and node.bracket == "{"


def both(first: list[Given], second: list[Given]) -> list[Given]:
    """Parameters, and those of a template over them."""
    over = {each.key.name for each in second}
    return [each for each in first if each.key.name not in over] + second
