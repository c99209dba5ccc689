"""Expressions of 4.2 become CEL: arithmetic, lists, comparisons over the matched events and the script's variables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from app.workflows.cxengage.cel_writer import OR, WHOLE, And, Condition, Not, Or, Path, literal, split, write
from app.workflows.cxengage.clojure_semantics import Value, a_constant, containing, read_from, truth_of
from app.workflows.cxengage.parser import Dollar, Form, Node, Word, a_list, a_map, arguments, at_least_one, unexpected
from app.workflows.cxengage.v41_events import CONSTANTS, a_written_constant, compared
from app.workflows.cxengage.v41_steps import variable

_FOLDED = {"+": "add", "-": "sub", "*": "mul", "/": "div"}
_ALONE = {"-": "sub(0, {})", "/": "div(1, {})", "+": "{}", "*": "{}"}
_OF_ONE = ("inc", "dec", "abs", "floor", "ceil", "sqrt")
_OF_TWO = ("mod", "quot", "rem", "pow")
_OF_A_LIST = ("sum", "min", "max", "avg", "stdev", "count", "first", "last")
_SIFTING = ("filter", "remove")
_COMPARING = ("=", ">", "<", ">=", "<=")
_CONDITIONS = (*_COMPARING, "not", "and", "or", "contains?")
FUNCTIONS = (*_FOLDED, *_OF_TWO, *_OF_ONE, *_OF_A_LIST, "nth", *_SIFTING, "all", "if", *_CONDITIONS)
_A_VALUE = "a value"
# A run reads so many of the events that it was started by.
MOST_MATCHED = 100
_PREDICATE = "a predicate such as (> 5)"


@dataclass(frozen=True, slots=True)
class Expressions:
    """Compiles expressions where `variables` are known, by their words; `matched` is how many events a match may use."""

    variables: Mapping[str, str]
    matched: int = 1

    def value(self, node: Node) -> Value:
        """What has a value; raises Unexpected."""
        if isinstance(node, Dollar):
            return read_from(Path("latest", split(node.name)))
        if isinstance(node, Word) and node.name not in CONSTANTS:
            return read_from(variable(node, dict(self.variables), "def, set or let"))
        if not isinstance(node, Form):
            return a_constant(a_written_constant(node, "a value: a constant, $field, a variable or a list"))
        if node.bracket == "[":
            members = [self.value(member) for member in node.members]
            return replace(_called("[{}]", members), several=True)
        if node.bracket == "{":
            return self._map(node)
        form = a_list(node, FUNCTIONS)
        if form.head in _CONDITIONS:
            return Value(write(self.condition(form), total=True), truth=True, level=OR)
        return self._function(form)

    def _map(self, form: Form) -> Value:
        pairs = [(key.name, self.value(value)) for key, value in a_map(form).values()]
        text = ", ".join(f"{literal(name)}: {value.text}" for name, value in pairs)
        return Value(f"{{{text}}}", reads=_reads([value for _, value in pairs]), several=True)

    def _function(self, form: Form) -> Value:
        word = form.head
        if word in _FOLDED:
            values = [self.value(node) for node in at_least_one(form, _A_VALUE)]
            return _folded(word, values)
        if word in _OF_ONE:
            return _called(word + "({})", [self.value(arguments(form, (_A_VALUE,))[0])])
        if word in _OF_TWO:
            return _called(word + "({})", [self.value(node) for node in arguments(form, (_A_VALUE, _A_VALUE))])
        if word in _OF_A_LIST:
            return self._of_a_list(form)
        if word == "nth":
            return _called("nth({})", [self.value(node) for node in arguments(form, ("a list", "a place in it"))])
        if word in _SIFTING:
            return self._sifted(form)
        if word == "all":
            return self._all_values(form)
        predicate, *branches = arguments(form, ("a condition", _A_VALUE, _A_VALUE))
        then, other = (self.value(branch) for branch in branches)
        condition = write(self.condition(predicate), total=True)
        return Value(f"({condition}) ? {_whole(then)} : {_whole(other)}", reads=_reads([then, other]), level=OR)

    def _of_a_list(self, form: Form) -> Value:
        values = [self.value(node) for node in at_least_one(form, "a list")]
        if len(values) > 1 and form.head in ("min", "max"):
            return _called(form.head + "([{}])", values)
        arguments(form, ("a list",))
        return _called(form.head + "({})", values)

    def _sifted(self, form: Form) -> Value:
        predicate, listed = arguments(form, (_PREDICATE, "a list"))
        # Nothing is named so: words of scripts have no such name beside vars.
        item = "item"
        condition = self._about(Value(item, path=Path(item, ())), predicate)
        if form.head == "remove":
            condition = Not(condition)
        values = self.value(listed)
        return Value(
            f"{_whole(values)}.filter({item}, {write(condition, total=True)})", reads=values.reads, several=True
        )

    def _all_values(self, form: Form) -> Value:
        field = arguments(form, ("a field such as $amount",))[0]
        if not isinstance(field, Dollar):
            raise unexpected(field, "a field such as $amount")
        if self.matched > MOST_MATCHED:
            wanted = f'at most {MOST_MATCHED} events in a pattern whose steps ask for "all" values'
            raise unexpected(form, wanted, f"up to {self.matched}")
        return Value(f"values(matched, {literal(field.name)})", several=True)

    def _about(self, value: Value, node: Node) -> Condition:
        """A predicate into which a value is put first."""
        form = a_list(node, _CONDITIONS)
        if form.head in ("and", "or"):
            members = tuple(self._about(value, member) for member in at_least_one(form, _PREDICATE))
            return And(members) if form.head == "and" else Or(members)
        if form.head == "not":
            return Not(self._about(value, arguments(form, (_PREDICATE,))[0]))
        operand = arguments(form, (_A_VALUE,))[0]
        if form.head == "contains?":
            return containing(value, a_written_constant(operand))
        return compared(form.head, (form, value), (operand, self.value(operand)))

    def condition(self, node: Node) -> Condition:
        """What is true or false: a comparison, or any value, by Clojure's rule; raises Unexpected."""
        if not isinstance(node, Form) or node.head not in _CONDITIONS:
            return truth_of(self.value(node))
        if node.head in ("and", "or"):
            members = tuple(self.condition(member) for member in at_least_one(node, "a condition"))
            return And(members) if node.head == "and" else Or(members)
        if node.head == "not":
            return Not(self.condition(arguments(node, ("a condition",))[0]))
        left, right = arguments(node, (_A_VALUE, _A_VALUE))
        if node.head == "contains?":
            return containing(self.value(left), a_written_constant(right))
        return compared(node.head, (left, self.value(left)), (right, self.value(right)))


def _reads(values: list[Value]) -> tuple[Path, ...]:
    return tuple(dict.fromkeys(path for value in values for path in value.reads))


def _whole(value: Value) -> str:
    return value.text if value.level == WHOLE else f"({value.text})"


def _called(shape: str, values: list[Value]) -> Value:
    return Value(shape.replace("{}", ", ".join(value.text for value in values), 1), reads=_reads(values))


def _folded(word: str, values: list[Value]) -> Value:
    if len(values) == 1:
        return _called(_ALONE[word], values)
    return _called(_FOLDED[word] + "({})", values)
