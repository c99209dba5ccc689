"""A pattern document comes in; a tree of nodes goes out, or every mistake in the document with its path."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from app.core.durations import read_duration
from app.workflows.matching.pattern_ast import (
    AllOf,
    AnyOf,
    CompileFilter,
    Leaf,
    LeafTest,
    Node,
    Pattern,
    Quiet,
    Seq,
    Tangle,
    Times,
    may_meet,
)
from app.workflows.matching.state_bound import bound_of

DEEPEST = 20
MOST_LEAVES = 200
MOST_TIMES = 1000
MOST_REFERENCES = 20_000

FIELDS = {
    "event": {"event", "where", "within", "unless"},
    "times": {"times", "of", "within", "unless"},
    "seq": {"seq", "within", "unless"},
    "all": {"all", "within", "unless"},
    "any": {"any", "within", "unless"},
    "none": {"none", "for"},
}
CANCELLING_FIELDS = {"event": {"event", "where"}, "any": {"any"}}

TOO_MUCH = (
    f"may have to remember more than {MOST_REFERENCES:,} events per subject: lower the counts, or give the members of"
    " `all` different event names"
)

Mistake = tuple[str, str]


class PatternError(ValueError):
    """A document that is not a pattern; `mistakes` holds (path, message) for each reason."""

    def __init__(self, mistakes: list[Mistake]) -> None:
        super().__init__("; ".join(f"{path}: {message}" for path, message in mistakes))
        self.mistakes = tuple(mistakes)


def check(document: object, compile_filter: CompileFilter, path: str = "on") -> list[Mistake]:
    """Every mistake in the document as (path, message); an empty list means that it compiles."""
    try:
        compile_pattern(document, compile_filter, path)
    except PatternError as error:
        return list(error.mistakes)
    return []


def compile_pattern(document: object, compile_filter: CompileFilter, path: str = "on") -> Pattern:
    """Compile once, advance many times.

    `compile_filter(text)` gives a predicate over the caller's events and raises ValueError for a bad text; the
    predicate raises FilterFailed where it cannot be evaluated. Raises PatternError.
    """
    reader = Reader(compile_filter)
    root, quiet = reader.read_root(document, path)
    if root is None or reader.mistakes:
        raise PatternError(reader.mistakes)
    bound = bound_of(root, quiet is not None)
    if bound.references > MOST_REFERENCES:
        raise PatternError([(path, TOO_MUCH)])
    tests = tuple(reader.tests.values())
    return Pattern(root, quiet, tests, frozenset(test.name for test in tests), bound)


class Reader:
    """Reads one document and collects what is wrong with it instead of stopping at the first mistake."""

    def __init__(self, compile_filter: CompileFilter) -> None:
        self.compile_filter = compile_filter
        self.mistakes: list[Mistake] = []
        self.tests: dict[tuple[str, str | None], LeafTest] = {}
        self.leaves = 0

    def mistake(self, path: str, message: str) -> None:
        self.mistakes.append((path, message))

    def read_root(self, document: object, path: str) -> tuple[Node | None, Quiet | None]:
        if not isinstance(document, dict) or not ends_in_none(document.get("seq")):
            return self.read(document, path), None
        *rest, last = document["seq"]
        if not rest:
            self.mistake(f"{path}.seq[0]", "`none` needs something before it")
        quiet = self.read_quiet(last, f"{path}.seq[{len(rest)}]")
        return (self.read({**document, "seq": rest}, path) if rest else None), quiet

    def read(self, document: object, path: str, by_start: bool = False, depth: int = 1) -> Node | None:
        """`by_start`: something further out makes a later beginning worth more."""
        if isinstance(document, str):
            return self.read_leaf({"event": document}, path)
        if depth > DEEPEST:
            self.mistake(path, f"nested deeper than {DEEPEST}")
            return None
        form = self.read_form(document, path, FIELDS)
        if form is None or not isinstance(document, dict):
            return None
        if form == "none":
            self.mistake(path, "`none` is allowed only as the last member of the outermost `seq`")
            return None
        within = self.read_within(document, path)
        unless = self.read_cancelling(document["unless"], f"{path}.unless") if "unless" in document else frozenset()
        if form == "event":
            return self.read_leaf(document, path)
        by_start = by_start or within is not None
        if form == "times":
            return self.read_times(document, path, within, unless, depth)
        members = self.read_members(document[form], f"{path}.{form}", by_start, depth)
        if members is None:
            return None
        if form == "all":
            return AllOf(path, within, unless, members, untangle(members, path, by_start))
        return (Seq if form == "seq" else AnyOf)(path, within, unless, members)

    def read_form(self, document: object, path: str, allowed: dict[str, set[str]]) -> str | None:
        names = ", ".join(allowed)
        if not isinstance(document, dict):
            self.mistake(path, f"expected an event name or a mapping with one of {names}")
            return None
        forms = [form for form in allowed if form in document]
        if len(forms) != 1:
            self.mistake(path, f"expected exactly one of {names}")
            return None
        unknown = [field for field in document if field not in allowed[forms[0]]]
        for field in unknown:
            self.mistake(f"{path}.{field}", f"unknown field next to `{forms[0]}`")
        return forms[0]

    def read_leaf(self, document: dict[Any, Any], path: str) -> Leaf | None:
        self.leaves += 1
        if self.leaves == MOST_LEAVES + 1:
            self.mistake(path, f"more than {MOST_LEAVES} events in one pattern")
        name, where = document["event"], document.get("where")
        if not isinstance(name, str) or not name:
            self.mistake(f"{path}.event", "expected an event name")
            return None
        if "where" in document and not isinstance(where, str):
            self.mistake(f"{path}.where", "expected a filter as text")
            return None
        if (name, where) not in self.tests and not self.add_test(name, where, path):
            return None
        return Leaf(path, None, frozenset(), self.tests[name, where].kind, name)

    def add_test(self, name: str, where: str | None, path: str) -> bool:
        try:
            passes = None if where is None else self.compile_filter(where)
        except ValueError as error:
            self.mistake(f"{path}.where", str(error))
            return False
        self.tests[name, where] = LeafTest(len(self.tests), path, name, passes)
        return True

    def read_times(
        self, document: dict[Any, Any], path: str, within: timedelta | None, unless: frozenset[int], depth: int
    ) -> Times | None:
        count = document["times"]
        if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= MOST_TIMES:
            self.mistake(f"{path}.times", f"expected a whole number from 1 to {MOST_TIMES}")
        if "of" not in document:
            self.mistake(f"{path}.of", "missing: what has to happen so many times?")
            return None
        of = self.read(document["of"], f"{path}.of", True, depth + 1)
        return None if of is None else Times(path, within, unless, count, of)

    def read_members(self, members: object, path: str, by_start: bool, depth: int) -> tuple[Node, ...] | None:
        if not isinstance(members, list) or not members:
            self.mistake(path, "expected a list with at least one member")
            return None
        nodes = [self.read(member, f"{path}[{at}]", by_start, depth + 1) for at, member in enumerate(members)]
        found = tuple(node for node in nodes if node is not None)
        return found if len(found) == len(nodes) else None

    def read_quiet(self, document: dict[Any, Any], path: str) -> Quiet | None:
        self.read_form(document, path, {"none": FIELDS["none"]})
        kinds = self.read_cancelling(document["none"], f"{path}.none")
        if "for" not in document:
            self.mistake(f"{path}.for", "missing: for how long?")
            return None
        wait = self.read_time(document["for"], f"{path}.for")
        names = dict.fromkeys(name for (name, _), test in self.tests.items() if test.kind in kinds)
        return None if wait is None else Quiet(kinds, tuple(names), wait)

    def read_within(self, document: dict[Any, Any], path: str) -> timedelta | None:
        return self.read_time(document["within"], f"{path}.within") if "within" in document else None

    def read_time(self, text: object, path: str) -> timedelta | None:
        try:
            return read_duration(text)
        except ValueError as error:
            self.mistake(path, str(error))
            return None

    def read_cancelling(self, document: object, path: str) -> frozenset[int]:
        """The kinds of a leaf or of an `any` of leaves."""
        leaves = list(self.cancelling_leaves(document, path))
        return frozenset(leaf.kind for leaf in leaves if leaf is not None)

    def cancelling_leaves(self, document: object, path: str, inside: bool = False) -> Iterator[Leaf | None]:
        if isinstance(document, str):
            yield self.read_leaf({"event": document}, path)
            return
        form = self.read_form(document, path, {"event": CANCELLING_FIELDS["event"]} if inside else CANCELLING_FIELDS)
        if form is None or not isinstance(document, dict):
            return
        if form == "event":
            yield self.read_leaf(document, path)
        elif not isinstance(document["any"], list) or not document["any"]:
            self.mistake(f"{path}.any", "expected a list with at least one member")
        else:
            for at, member in enumerate(document["any"]):
                yield from self.cancelling_leaves(member, f"{path}.any[{at}]", inside=True)


def ends_in_none(members: object) -> bool:
    return isinstance(members, list) and bool(members) and isinstance(members[-1], dict) and "none" in members[-1]


def untangle(members: tuple[Node, ...], path: str, by_start: bool) -> tuple[Node, ...]:
    """Gather members that may want the same event; what is left alone can be followed on its own."""
    groups: list[tuple[frozenset[str], list[int]]] = []
    for at, member in enumerate(members):
        names, places = names_of(member), [at]
        for group in [group for group in groups if may_meet(group[0], names)]:
            groups.remove(group)
            names, places = names | group[0], group[1] + places
        groups.append((names, places))
    return tuple(part(members, sorted(places), path, by_start) for _, places in sorted(groups, key=lambda g: min(g[1])))


def part(members: tuple[Node, ...], places: list[int], path: str, by_start: bool) -> Node:
    if len(places) == 1:
        return members[places[0]]
    chosen = tuple(members[place] for place in places)
    return Tangle(f"{path}.all[{','.join(map(str, places))}]", None, frozenset(), chosen, by_start)


def names_of(node: Node) -> frozenset[str]:
    """The event names that a node reads."""
    match node:
        case Leaf():
            return frozenset({node.name})
        case Times():
            return names_of(node.of)
        case Seq() | AnyOf() | AllOf():
            return frozenset().union(*map(names_of, node.members))
    raise TypeError(node)
