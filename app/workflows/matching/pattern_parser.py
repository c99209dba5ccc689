"""Compiles a pattern document to a tree of nodes, or finds every mistake in it with its path."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from app.actions.field_checks import FieldErrors
from app.core.durations import read_duration
from app.workflows.matching.pattern_ast import (
    AllOf,
    AnyOf,
    CompileFilter,
    Leaf,
    LeafTest,
    Node,
    Pattern,
    Seq,
    SharedAll,
    Times,
    TrailingNone,
    may_overlap,
)
from app.workflows.matching.progress_bound import compute_bound

MAX_DEPTH = 20
MAX_LEAVES = 200
MAX_TIMES = 1000
MAX_REFERENCES = 20_000

# The fields that may occur with each form.
FIELDS = {
    "event": {"event", "where", "within", "unless"},
    "times": {"times", "of", "within", "unless"},
    "seq": {"seq", "within", "unless"},
    "all": {"all", "within", "unless"},
    "any": {"any", "within", "unless"},
    "none": {"none", "for"},
}
CANCELLING_FIELDS = {"event": {"event", "where"}, "any": {"any"}}

TOO_LARGE = (
    f"may have to remember more than {MAX_REFERENCES:,} events per subject: lower the counts, or use different event"
    " names in the members of `all`"
)


class PatternError(ValueError):
    """The document is not a pattern. `mistakes` holds (path, message) for each reason."""

    def __init__(self, mistakes: FieldErrors) -> None:
        super().__init__("; ".join(f"{path}: {message}" for path, message in mistakes))
        self.mistakes = tuple(mistakes)


def check(document: object, compile_filter: CompileFilter, path: str = "on") -> FieldErrors:
    """Every mistake in the document as (path, message). An empty list means that it compiles."""
    try:
        compile_pattern(document, compile_filter, path)
    except PatternError as exc:
        return list(exc.mistakes)
    return []


def compile_pattern(document: object, compile_filter: CompileFilter, path: str = "on") -> Pattern:
    """Compile a pattern document. Raises PatternError.

    `compile_filter(text)` returns a predicate over the caller's events and raises ValueError for an invalid text. The
    predicate raises FilterFailed when it cannot be evaluated.
    """
    parser = _Parser(compile_filter)
    root, trailing_none = parser.parse_root(document, path)
    if root is None or parser.mistakes:
        raise PatternError(parser.mistakes)
    bound = compute_bound(root, has_trailing_none=trailing_none is not None)
    if bound.references > MAX_REFERENCES:
        raise PatternError([(path, TOO_LARGE)])
    tests = tuple(parser.tests.values())
    return Pattern(root, trailing_none, tests, frozenset(test.name for test in tests), bound)


class _Parser:
    """Parses one document. Collects mistakes instead of stopping at the first one."""

    def __init__(self, compile_filter: CompileFilter) -> None:
        self.compile_filter = compile_filter
        self.mistakes: FieldErrors = []
        self.tests: dict[tuple[str, str | None], LeafTest] = {}
        self.leaves = 0

    def add_mistake(self, path: str, message: str) -> None:
        self.mistakes.append((path, message))

    def parse_root(self, document: object, path: str) -> tuple[Node | None, TrailingNone | None]:
        if not isinstance(document, dict) or not _ends_in_none(document.get("seq")):
            return self.parse(document, path), None
        *rest, last = document["seq"]
        if not rest:
            self.add_mistake(f"{path}.seq[0]", "`none` must have another member before it")
        trailing_none = self.parse_none(last, f"{path}.seq[{len(rest)}]")
        return (self.parse({**document, "seq": rest}, path) if rest else None), trailing_none

    def parse(self, document: object, path: str, ranks_by_start: bool = False, depth: int = 1) -> Node | None:
        """`ranks_by_start`: an enclosing window or repetition makes a later start better."""
        if isinstance(document, str):
            return self.parse_leaf({"event": document}, path)
        if depth > MAX_DEPTH:
            self.add_mistake(path, f"nested deeper than {MAX_DEPTH}")
            return None
        form = self.parse_form(document, path, FIELDS)
        if form is None or not isinstance(document, dict):
            return None
        if form == "none":
            self.add_mistake(path, "`none` is allowed only as the last member of the outermost `seq`")
            return None
        within = self.parse_duration(document["within"], f"{path}.within") if "within" in document else None
        unless = self.parse_cancelling(document["unless"], f"{path}.unless") if "unless" in document else frozenset()
        if form == "event":
            return self.parse_leaf(document, path)
        if form == "times":
            return self.parse_times(document, path, within, unless, depth)
        ranks_by_start = ranks_by_start or within is not None
        members = self.parse_members(document[form], f"{path}.{form}", ranks_by_start, depth)
        if members is None:
            return None
        if form == "all":
            return AllOf(path, within, unless, members, _group_members(members, path, ranks_by_start))
        return (Seq if form == "seq" else AnyOf)(path, within, unless, members)

    def parse_form(self, document: object, path: str, allowed: dict[str, set[str]]) -> str | None:
        """Which of the allowed forms the document has."""
        names = ", ".join(allowed)
        if not isinstance(document, dict):
            self.add_mistake(path, f"expected an event name or an object with one of {names}")
            return None
        forms = [form for form in allowed if form in document]
        if len(forms) != 1:
            self.add_mistake(path, f"expected exactly one of {names}")
            return None
        for field in document:
            if field not in allowed[forms[0]]:
                self.add_mistake(f"{path}.{field}", f"unknown field next to `{forms[0]}`")
        return forms[0]

    def parse_leaf(self, document: dict[Any, Any], path: str) -> Leaf | None:
        self.leaves += 1
        if self.leaves == MAX_LEAVES + 1:
            self.add_mistake(path, f"more than {MAX_LEAVES} events in one pattern")
        name, where = document["event"], document.get("where")
        if not isinstance(name, str) or not name:
            self.add_mistake(f"{path}.event", "expected an event name")
            return None
        if "where" in document and not isinstance(where, str):
            self.add_mistake(f"{path}.where", "expected a filter as text")
            return None
        if (name, where) not in self.tests and not self.add_test(name, where, path):
            return None
        return Leaf(path, None, frozenset(), self.tests[name, where].kind, name)

    def add_test(self, name: str, where: str | None, path: str) -> bool:
        try:
            passes = None if where is None else self.compile_filter(where)
        except ValueError as exc:
            self.add_mistake(f"{path}.where", str(exc))
            return False
        self.tests[name, where] = LeafTest(len(self.tests), path, name, passes)
        return True

    def parse_times(
        self, document: dict[Any, Any], path: str, within: timedelta | None, unless: frozenset[int], depth: int
    ) -> Times | None:
        count = document["times"]
        if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= MAX_TIMES:
            self.add_mistake(f"{path}.times", f"expected a whole number from 1 to {MAX_TIMES}")
        if "of" not in document:
            self.add_mistake(f"{path}.of", "is missing: the pattern to repeat")
            return None
        of = self.parse(document["of"], f"{path}.of", True, depth + 1)
        return None if of is None else Times(path, within, unless, count, of)

    def parse_members(self, members: object, path: str, ranks_by_start: bool, depth: int) -> tuple[Node, ...] | None:
        if not isinstance(members, list) or not members:
            self.add_mistake(path, "expected a list with at least one member")
            return None
        parsed = [self.parse(each, f"{path}[{at}]", ranks_by_start, depth + 1) for at, each in enumerate(members)]
        nodes = tuple(node for node in parsed if node is not None)
        return nodes if len(nodes) == len(parsed) else None

    def parse_none(self, document: dict[Any, Any], path: str) -> TrailingNone | None:
        self.parse_form(document, path, {"none": FIELDS["none"]})
        kinds = self.parse_cancelling(document["none"], f"{path}.none")
        if "for" not in document:
            self.add_mistake(f"{path}.for", "is missing: a duration such as 30m")
            return None
        wait = self.parse_duration(document["for"], f"{path}.for")
        names = dict.fromkeys(name for (name, _), test in self.tests.items() if test.kind in kinds)
        return None if wait is None else TrailingNone(kinds, tuple(names), wait)

    def parse_duration(self, text: object, path: str) -> timedelta | None:
        try:
            return read_duration(text)
        except ValueError as exc:
            self.add_mistake(path, str(exc))
            return None

    def parse_cancelling(self, document: object, path: str) -> frozenset[int]:
        """The kinds of a leaf or of an `any` of leaves."""
        return frozenset(leaf.kind for leaf in self.cancelling_leaves(document, path) if leaf is not None)

    def cancelling_leaves(self, document: object, path: str, in_any: bool = False) -> Iterator[Leaf | None]:
        if isinstance(document, str):
            yield self.parse_leaf({"event": document}, path)
            return
        allowed = {"event": CANCELLING_FIELDS["event"]} if in_any else CANCELLING_FIELDS
        form = self.parse_form(document, path, allowed)
        if form is None or not isinstance(document, dict):
            return
        if form == "event":
            yield self.parse_leaf(document, path)
        elif not isinstance(document["any"], list) or not document["any"]:
            self.add_mistake(f"{path}.any", "expected a list with at least one member")
        else:
            for index, member in enumerate(document["any"]):
                yield from self.cancelling_leaves(member, f"{path}.any[{index}]", in_any=True)


def _ends_in_none(members: object) -> bool:
    return isinstance(members, list) and bool(members) and isinstance(members[-1], dict) and "none" in members[-1]


def _group_members(members: tuple[Node, ...], path: str, ranks_by_start: bool) -> tuple[Node, ...]:
    """Group the members that may match the same event. A member that is alone in its group stays as it is."""
    groups: list[tuple[frozenset[str], list[int]]] = []
    for index, member in enumerate(members):
        names, indexes = _event_names(member), [index]
        for group in [group for group in groups if may_overlap(group[0], names)]:
            groups.remove(group)
            names, indexes = names | group[0], group[1] + indexes
        groups.append((names, indexes))
    sorted_groups = sorted(sorted(indexes) for _, indexes in groups)
    return tuple(_build_part(members, indexes, path, ranks_by_start) for indexes in sorted_groups)


def _build_part(members: tuple[Node, ...], indexes: list[int], path: str, ranks_by_start: bool) -> Node:
    if len(indexes) == 1:
        return members[indexes[0]]
    chosen = tuple(members[index] for index in indexes)
    return SharedAll(f"{path}.all[{','.join(map(str, indexes))}]", None, frozenset(), chosen, ranks_by_start)


def _event_names(node: Node) -> frozenset[str]:
    """The event names that a node matches."""
    match node:
        case Leaf():
            return frozenset({node.name})
        case Times():
            return _event_names(node.of)
        case Seq() | AnyOf() | AllOf():
            return frozenset().union(*map(_event_names, node.members))
    raise TypeError(node)
