"""The commands of a 4.2 script, and what the forms of a script contain."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from app.workflows.cxengage.notation_parser import Dollar, Form, Node, Word, expect_word, unexpected
from app.workflows.cxengage.v41_events import CONSTANTS

VERBS = ("fetch", "perform", "create", "update", "delete")
BRANCHES = ("if", "when", "cond", "case", "do")
A_NAME = "the name of a variable"
BINDINGS = "names and values such as [total (sum (all $amount))]"
COMMANDS = (*VERBS, "def", "set", "let", "if-let", "when-let", *BRANCHES, "unless", "until", "times", "delay")


def walk(nodes: Iterable[Node]) -> list[Node]:
    """Nodes and everything in them."""
    found = list(nodes)
    for node in found:
        if isinstance(node, Form):
            found.extend(node.members)
    return found


def is_interaction(node: Node) -> bool:
    """Whether a form calls an endpoint."""
    return isinstance(node, Form) and node.head in VERBS


def is_independent(node: Node) -> bool:
    """Whether a statement consists of interactions and branches only, so that no later statement depends on it."""
    heads = [form.head for form in walk([node]) if isinstance(form, Form)]
    allowed = (*VERBS, *BRANCHES)
    return all(head in allowed or head not in COMMANDS for head in heads) and any(head in VERBS for head in heads)


def reads_events(node: Node) -> bool:
    """Whether a form reads fields of events or calls an endpoint."""
    return any(isinstance(each, Dollar) or is_interaction(each) for each in walk([node]))


def words_in(node: Node) -> set[str]:
    """The words that may be variables, and the first parts of dotted words."""
    words = {each.name for each in walk([node]) if isinstance(each, Word) and each.name not in CONSTANTS}
    return words | {word.split(".")[0] for word in words}


def words_set(nodes: Sequence[Node]) -> set[str]:
    """The variables that forms assign."""
    return {
        form.members[1].name
        for form in walk(nodes)
        if isinstance(form, Form) and form.head in ("set", "def") and len(form.members) > 1
        if isinstance(form.members[1], Word)
    }


def bindings_of(form: Form) -> list[tuple[Word, Node]]:
    """The names and values in the vector of a `let`; raises Unexpected."""
    vector = form.members[1] if len(form.members) > 1 else None
    if not isinstance(vector, Form) or vector.bracket != "[":
        raise unexpected(vector or form.end, BINDINGS)
    bindings = []
    for index in range(0, len(vector.members), 2):
        word = expect_word(vector.members[index], A_NAME)
        if index + 1 == len(vector.members):
            raise unexpected(vector.end, f'a value for "{word.name}"', '"]"')
        bindings.append((word, vector.members[index + 1]))
    if not bindings:
        raise unexpected(vector.end, A_NAME, '"]"')
    return bindings
