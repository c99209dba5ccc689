"""Compiles expressions of 4.2 into CEL: arithmetic, lists and comparisons of event fields and variables."""

from __future__ import annotations

from collections import ChainMap
from dataclasses import dataclass, replace

from app.workflows.cxengage.cel_writer import OR, Condition, Not, Path, literal, split_name, write
from app.workflows.cxengage.clojure_semantics import Value, constant_value, containing, is_true, logical, read_from
from app.workflows.cxengage.notation_parser import (
    Dollar,
    Form,
    Node,
    Word,
    arguments,
    at_least,
    expect_list,
    read_map,
    unexpected,
    unsupported,
)
from app.workflows.cxengage.v41_events import CONSTANTS, compare, read_constant
from app.workflows.cxengage.v41_steps import variable

_ARITHMETIC = {"+": "add", "-": "sub", "*": "mul", "/": "div"}
_ONE_OPERAND = {"-": "sub(0, {})", "/": "div(1, {})", "+": "{}", "*": "{}"}
_A_VALUE = "a value"
_UNARY = ("inc", "dec", "abs", "floor", "ceil", "sqrt")
_BINARY = ("mod", "quot", "rem", "pow")
# The arguments of each function that compiles to a call of the same name.
_CALLS = {
    **dict.fromkeys(_BINARY, (_A_VALUE, _A_VALUE)),
    **dict.fromkeys(_UNARY, (_A_VALUE,)),
    "nth": ("a list", "a place in it"),
}
_LIST = ("sum", "min", "max", "avg", "stdev", "count", "first", "last")
_FILTERS = ("filter", "remove")
_COMPARISONS = ("=", ">", "<", ">=", "<=")
_CONDITIONS = (*_COMPARISONS, "not", "and", "or", "contains?")
FUNCTIONS = (*_ARITHMETIC, *_BINARY, *_UNARY, *_LIST, "nth", *_FILTERS, "all", "if", *_CONDITIONS)
_AS_A_FIELD = "send its value as a field of the event"
# What to write instead of functions that are not supported.
_INSTEAD = {
    "even?": "write (= (mod x 2) 0)",
    "odd?": "write (= (mod x 2) 1)",
    **dict.fromkeys(("gcd", "lcm", "rand"), _AS_A_FIELD),
}
# Events that steps of a run can read.
MAX_MATCHED = 100
_PREDICATE = "a predicate such as (> 5)"


@dataclass(frozen=True, slots=True)
class Scope:
    """Compiles the expressions at one point of a script.

    `variables` maps words to names; local ones hide global ones. `matched`: the maximum number of events of a match.
    `stops`: the conditions of the enclosing `unless` and `until`.
    """

    variables: ChainMap[str, str]
    matched: int = 1
    stops: tuple[Condition, ...] = ()

    def with_variable(self, word: str, name: str) -> Scope:
        """The scope with one more local variable."""
        return replace(self, variables=self.variables.new_child({word: name}))

    def value(self, node: Node) -> Value:
        """The value of an expression; raises Unexpected."""
        if isinstance(node, Dollar):
            return read_from(Path("latest", split_name(node.name)))
        if isinstance(node, Word) and node.name not in CONSTANTS:
            return read_from(variable(node, self.variables, "def, set or let"))
        if not isinstance(node, Form):
            return constant_value(read_constant(node, "a value: a constant, $field, a variable or a list"))
        if node.bracket == "[":
            members = [self.value(member) for member in node.members]
            return replace(_call("[{}]", members), is_collection=True)
        if node.bracket == "{":
            return self._map(node)
        if node.head in _INSTEAD:
            raise unsupported(node.members[0], _INSTEAD[node.head])
        form = expect_list(node, FUNCTIONS)
        if form.head in _CONDITIONS:
            return Value(write(self.condition(form), total=True), is_boolean=True, precedence=OR)
        return self._function(form)

    def _map(self, form: Form) -> Value:
        pairs = [(key.name, self.value(value)) for key, value in read_map(form).values()]
        text = ", ".join(f"{literal(name)}: {value.text}" for name, value in pairs)
        return Value(f"{{{text}}}", reads=_reads([value for _, value in pairs]), is_collection=True)

    def _function(self, form: Form) -> Value:
        word = form.head
        if word in _ARITHMETIC:
            values = [self.value(node) for node in at_least(form, _A_VALUE)]
            return _call(_ONE_OPERAND[word] if len(values) == 1 else _ARITHMETIC[word] + "({})", values)
        if word in _CALLS:
            return _call(word + "({})", [self.value(node) for node in arguments(form, _CALLS[word])])
        if word in _LIST:
            return self._list_function(form)
        if word in _FILTERS:
            return self._filtered(form)
        if word == "all":
            return self._all_values(form)
        predicate, *branches = arguments(form, ("a condition", _A_VALUE, _A_VALUE))
        then, other = (self.value(branch) for branch in branches)
        condition = write(self.condition(predicate), total=True)
        return Value(f"({condition}) ? {then.operand} : {other.operand}", reads=_reads([then, other]), precedence=OR)

    def _list_function(self, form: Form) -> Value:
        values = [self.value(node) for node in at_least(form, "a list")]
        if len(values) > 1 and form.head in ("min", "max"):
            return _call(form.head + "([{}])", values)
        arguments(form, ("a list",))
        return _call(form.head + "({})", values)

    def _filtered(self, form: Form) -> Value:
        predicate, listed = arguments(form, (_PREDICATE, "a list"))
        # Cannot clash: variables are below `vars`.
        item = "item"
        condition = self._predicate(Value(item, path=Path(item, ())), predicate)
        if form.head == "remove":
            condition = Not(condition)
        values = self.value(listed)
        return Value(
            f"{values.operand}.filter({item}, {write(condition, total=True)})", reads=values.reads, is_collection=True
        )

    def _all_values(self, form: Form) -> Value:
        field = arguments(form, ("a field such as $amount",))[0]
        if not isinstance(field, Dollar):
            raise unexpected(field, "a field such as $amount")
        if self.matched > MAX_MATCHED:
            expected = f'at most {MAX_MATCHED} events in a pattern whose steps use "all"'
            raise unexpected(form, expected, f"up to {self.matched}")
        return Value(f"values(matched, {literal(field.name)})", is_collection=True)

    def _predicate(self, value: Value, node: Node) -> Condition:
        """The condition of a predicate whose first operand is `value`."""
        form = expect_list(node, _CONDITIONS)
        if (combined := logical(form, _PREDICATE, lambda member: self._predicate(value, member))) is not None:
            return combined
        operand = arguments(form, (_A_VALUE,))[0]
        if form.head == "contains?":
            return containing(value, read_constant(operand))
        return compare(form.head, (form, value), (operand, self.value(operand)))

    def condition(self, node: Node) -> Condition:
        """A comparison, or whether a value is true in Clojure; raises Unexpected."""
        if not isinstance(node, Form) or node.head not in _CONDITIONS:
            return is_true(self.value(node))
        if (combined := logical(node, "a condition", self.condition)) is not None:
            return combined
        left, right = arguments(node, (_A_VALUE, _A_VALUE))
        if node.head == "contains?":
            return containing(self.value(left), read_constant(right))
        return compare(node.head, (left, self.value(left)), (right, self.value(right)))


def _reads(values: list[Value]) -> tuple[Path, ...]:
    return tuple(dict.fromkeys(path for value in values for path in value.reads))


def _call(template: str, values: list[Value]) -> Value:
    return Value(template.replace("{}", ", ".join(value.text for value in values), 1), reads=_reads(values))
