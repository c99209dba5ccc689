"""A script of CxEngage 4.2 becomes a pattern and steps of ours.

Comes in: the text. Goes out: what `on` takes, and steps. Events come first, with constants that `def` gives names to; then
interactions. Interactions that are not bound to a name and stand next to each other go on side by side. A name that is bound
inside of `let` is gone after it: a second one gets a name of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from app.workflows.cxengage.cel_writer import Condition, Not, Or, write
from app.workflows.cxengage.clojure_semantics import equal, truth_of
from app.workflows.cxengage.durations import a_span
from app.workflows.cxengage.endpoints import Given, find_endpoint
from app.workflows.cxengage.errors import one_of
from app.workflows.cxengage.parser import (
    Dollar,
    Form,
    Keyword,
    Node,
    TemplateName,
    Word,
    a_count,
    a_list,
    a_map,
    a_word,
    arguments,
    at_least_one,
    read,
    unexpected,
)
from app.workflows.cxengage.step_builder import (
    MOST_ENTERED,
    MOST_ROUNDS,
    Options,
    Steps,
    Workshop,
    is_map,
    split_interaction,
)
from app.workflows.cxengage.v41_events import CONSTANTS
from app.workflows.cxengage.v42_events import FORMS, collects_events, most_events, read_events
from app.workflows.cxengage.v42_expressions import Expressions

VERBS = ("fetch", "perform", "create", "update", "delete")
BRANCHES = ("if", "when", "cond", "case", "do")
COMMANDS = (*VERBS, "def", "set", "let", "if-let", "when-let", *BRANCHES, "unless", "until", "times", "delay")
OPTIONS = ("retries", "timeout", "catch")
_A_NAME = "the name of a variable"
_A_MADE_ONE = 'a variable that "def" or "let" has made'
_A_VALUE = "a value"
# What stands before the last branch of a `cond` where a script names it, as Clojure does.
_OTHERWISE = "else"


@dataclass(frozen=True, slots=True)
class _Scope:
    """What is known at a place: variables by their words (`whole`, of the script, may become more), how many events a match
    uses (`matched`), and conditions that end what is under way (`unless`)."""

    whole: Mapping[str, str]
    matched: int = 1
    local: Mapping[str, str] = field(default_factory=dict)
    stops: tuple[Condition, ...] = ()

    @property
    def variables(self) -> dict[str, str]:
        return {**self.whole, **self.local}

    @property
    def expressions(self) -> Expressions:
        return Expressions(self.variables, self.matched)

    def knowing(self, word: str, name: str) -> _Scope:
        return replace(self, local={**self.local, word: name})


class Script42:
    """One walk over the forms of a script."""

    def __init__(self, workshop: Workshop) -> None:
        self._workshop = workshop
        self._globals: dict[str, str] = {}
        self._loops = 1
        self._matched = 1

    def read(self, text: str) -> tuple[dict[str, Any], Steps]:
        """The pattern and the steps of a whole text."""
        forms, end = read(text)
        self._loops = max(
            1, sum(isinstance(each, Form) and each.head == "until" for form in forms for each in _walk(form))
        )
        events: list[dict[str, Any]] = []
        steps: Steps = []
        count = 0
        for form in forms:
            if collects_events(form):
                events.append(read_events(form, self._workshop.places))
            elif isinstance(form, Form) and form.head == "def" and not _reads_events(form):
                steps += self._statement(form, self._scope())
            else:
                break
            count += 1
        if not events:
            wrong = forms[count] if count < len(forms) else end
            raise unexpected(wrong, one_of(FORMS), None if count < len(forms) else "the end of the text")
        on = events[0] if len(events) == 1 else {"seq": events}
        self._matched = most_events(on)
        body: Steps = []
        self._merge(body, steps)
        self._merge(body, self._body(tuple(forms[count:]), self._scope()))
        if not body:
            raise unexpected(end, f"an interaction: {one_of(VERBS)}", "the end of the text")
        return on, body

    def _merge(self, steps: Steps, more: Steps) -> None:
        """Append steps; settings of variables in a row become one step."""
        for step in more:
            last = steps[-1] if steps else {}
            if set(step) == {"set"} == set(last) and last["set"].keys().isdisjoint(step["set"]):
                last["set"].update(step["set"])
            else:
                steps.append(step)

    def _scope(self) -> _Scope:
        return _Scope(self._globals, self._matched)

    # Statements

    def _body(self, nodes: tuple[Node, ...], scope: _Scope) -> Steps:
        """Statements one after the other; those that are free of each other side by side."""
        steps: Steps = []
        waiting: list[Node] = []
        for node in nodes:
            if not scope.stops and _is_free(node):
                waiting.append(node)
                continue
            self._merge(steps, self._side_by_side(waiting, scope))
            waiting = []
            self._merge(steps, self._statement(node, scope))
        self._merge(steps, self._side_by_side(waiting, scope))
        return steps

    def _side_by_side(self, nodes: list[Node], scope: _Scope) -> Steps:
        if not nodes:
            return []
        return self._workshop.side_by_side([self._statement(node, scope) for node in nodes], nodes[0])

    def _statement(self, node: Node, scope: _Scope) -> Steps:
        if collects_events(node):
            raise unexpected(node, f"{one_of(COMMANDS)}: events come before all interactions")
        form = a_list(node, COMMANDS)
        if form.head in VERBS:
            return self._guarded(self._interaction(form, scope), scope, form)
        return self._makers[form.head](self, form, scope)

    def _guarded(self, steps: Steps, scope: _Scope, node: Node) -> Steps:
        """Steps that are left out once an `unless` or `until` around them has come true."""
        if not scope.stops or not steps:
            return steps
        stop = scope.stops[0] if len(scope.stops) == 1 else Or(scope.stops)
        return [self._workshop.mark({"if": write(Not(stop)), "then": steps}, node)]

    # Interactions

    def _interaction(self, form: Form, scope: _Scope, then: Steps | None = None, other: Steps | None = None) -> Steps:
        """An interaction; `then` follows when it has succeeded, `other` when it has failed for good."""
        endpoint, action, rest = split_interaction(form)
        if form.head not in (verbs := find_endpoint(endpoint, action).verbs):
            raise unexpected(form.members[0], f'{one_of(verbs)} for "{_told(endpoint)} {_told(action)}"')
        parameters = rest[0] if rest and is_map(rest[0]) else None
        options = Options.read(rest[1:] if parameters is not None else rest, OPTIONS, form)
        before: dict[str, str] = {}
        given = [] if parameters is None else self._parameters(parameters, scope, before)
        step = self._workshop.interaction(form, endpoint, action, given)
        step |= options.limits()
        if then:
            step["then"] = then
        failed: Steps = []
        if (catch := options.found.get("catch")) is not None:
            self._merge(failed, self._body(at_least_one(catch, one_of(COMMANDS)), scope))
        if other is not None:
            self._merge(failed, other)
        if catch is not None or other is not None:
            step["else"] = failed
        steps: Steps = []
        self._workshop.setting(steps, before, form)
        return [*steps, step]

    def _parameters(self, node: Node, scope: _Scope, before: dict[str, str]) -> list[Given]:
        given = []
        for key, value in a_map(node).values():
            if isinstance(value, Form) and value.bracket == "[":
                texts = [self._parameter(member, scope, before) for member in value.members]
                given.append(Given(key, texts, value))
            else:
                given.append(Given(key, self._parameter(value, scope, before), value))
        return given

    def _parameter(self, node: Node, scope: _Scope, before: dict[str, str]) -> Any:
        if isinstance(node, TemplateName):
            raise unexpected(node, f'"(template +{node.name})"')
        if isinstance(node, Form) and node.head == "template":
            of = arguments(node, ("a template such as +TM1 or a text",))[0]
            return self._workshop.wording.template(of, scope.variables)
        value = scope.expressions.value(node)
        if value.several:
            raise unexpected(node, "one text, number or template", "several values")
        return self._workshop.wording.field(value, before)

    # Variables

    def _def(self, form: Form, scope: _Scope) -> Steps:
        word, value = arguments(form, (_A_NAME, _A_VALUE))
        name = a_word(word, _A_NAME).name
        made = self._globals.get(name) or self._workshop.names.fresh(name)
        steps = self._assigned(made, value, scope, form)
        self._globals[name] = made
        return self._guarded(steps, scope, form)

    def _set(self, form: Form, scope: _Scope) -> Steps:
        word, value = arguments(form, (_A_NAME, _A_VALUE))
        known = scope.variables
        if a_word(word, _A_NAME).name not in known:
            told = f"a variable that is known here: {one_of(sorted(known))}" if known else _A_MADE_ONE
            raise unexpected(word, told)
        return self._guarded(self._assigned(known[a_word(word, _A_NAME).name], value, scope, form), scope, form)

    def _assigned(self, name: str, value: Node, scope: _Scope, form: Form) -> Steps:
        """Steps after which a variable has a value; that of an interaction is its answer."""
        if not _is_interaction(value):
            return [self._workshop.mark({"set": {name: scope.expressions.value(value).to_set}}, form)]
        assert isinstance(value, Form)
        answer = self._workshop.mark({"set": {name: "last"}}, value)
        if not any(isinstance(option, Form) and option.head == "catch" for option in value.rest):
            return [*self._interaction(value, scope), answer]
        nothing = self._workshop.mark({"set": {name: "null"}}, value)
        return self._interaction(value, scope, [answer], [nothing])

    def _pairs(self, form: Form) -> list[tuple[Word, Node]]:
        bindings = form.members[1] if len(form.members) > 1 else None
        if not isinstance(bindings, Form) or bindings.bracket != "[":
            raise unexpected(bindings or form.end, "names and values such as [total (sum (all $amount))]")
        pairs = []
        for at in range(0, len(bindings.members), 2):
            word = a_word(bindings.members[at], _A_NAME)
            if at + 1 == len(bindings.members):
                raise unexpected(bindings.end, f'a value for "{word.name}"', '"]"')
            pairs.append((word, bindings.members[at + 1]))
        if not pairs:
            raise unexpected(bindings.end, _A_NAME, '"]"')
        return pairs

    def _let(self, form: Form, scope: _Scope) -> Steps:
        steps: Steps = []
        for word, value in self._pairs(form):
            name = self._workshop.names.fresh(word.name)
            self._merge(steps, self._guarded(self._assigned(name, value, scope, form), scope, form))
            scope = scope.knowing(word.name, name)
        self._merge(steps, self._body(form.members[2:], scope))
        return steps

    def _if_let(self, form: Form, scope: _Scope) -> Steps:
        pairs = self._pairs(form)
        branches = form.members[2:]
        if not branches:
            raise unexpected(form.end, one_of(COMMANDS), 'the end of "(if-let …)"')
        if len(branches) > 2:
            raise unexpected(branches[2], 'the end of "(if-let …)"')
        return self._bound(form, pairs, branches[:1], branches[1:], scope)

    def _when_let(self, form: Form, scope: _Scope) -> Steps:
        pairs = self._pairs(form)
        if len(form.members) < 3:
            raise unexpected(form.end, one_of(COMMANDS), 'the end of "(when-let …)"')
        return self._bound(form, pairs, form.members[2:], (), scope)

    def _bound(
        self,
        form: Form,
        pairs: list[tuple[Word, Node]],
        then: tuple[Node, ...],
        other: tuple[Node, ...],
        scope: _Scope,
    ) -> Steps:
        if len(pairs) > 1:
            raise unexpected(pairs[1][0], '"]": one name and its value')
        word, value = pairs[0]
        name = self._workshop.names.fresh(word.name)
        inside = scope.knowing(word.name, name)
        if _is_interaction(value):
            assert isinstance(value, Form)
            answer = self._workshop.mark({"set": {name: "last"}}, value)
            taken: Steps = [answer]
            self._merge(taken, self._body(then, inside))
            made = self._interaction(value, scope, taken, self._body(other, scope))
            return self._guarded(made, scope, form)
        steps = self._guarded(self._assigned(name, value, scope, form), scope, form)
        condition = truth_of(inside.expressions.value(Word(word.line, word.column, word.name)))
        return [*steps, self._choice(form, condition, self._body(then, inside), self._body(other, scope))]

    # Branches

    def _choice(self, node: Node, condition: Condition, then: Steps, other: Steps) -> dict[str, Any]:
        step: dict[str, Any] = {"if": write(condition), "then": then}
        if other:
            step["else"] = other
        return self._workshop.mark(step, node)

    def _chosen(self, form: Form, test: Node, then: Steps, other: Steps, scope: _Scope) -> Steps:
        """One of two blocks; the test may be an interaction, which is true when it succeeds."""
        if _is_interaction(test):
            assert isinstance(test, Form)
            return self._guarded(self._interaction(test, scope, then, other), scope, form)
        return [self._choice(form, scope.expressions.condition(test), then, other)]

    def _if(self, form: Form, scope: _Scope) -> Steps:
        nodes = form.rest
        for place, expected in enumerate(("a condition", one_of(COMMANDS))):
            if place >= len(nodes):
                raise unexpected(form.end, expected, 'the end of "(if …)"')
        if len(nodes) > 3:
            raise unexpected(nodes[3], 'the end of "(if …)"')
        return self._chosen(form, nodes[0], self._body(nodes[1:2], scope), self._body(nodes[2:], scope), scope)

    def _when(self, form: Form, scope: _Scope) -> Steps:
        if len(form.rest) < 2:
            expected = one_of(COMMANDS) if form.rest else "a condition"
            raise unexpected(form.end, expected, 'the end of "(when …)"')
        return self._chosen(form, form.rest[0], self._body(form.rest[1:], scope), [], scope)

    def _cond(self, form: Form, scope: _Scope) -> Steps:
        nodes = at_least_one(form, "a condition")
        if len(nodes) > 1 and isinstance(nodes[-2], Keyword) and nodes[-2].name == _OTHERWISE and len(nodes) % 2 == 0:
            nodes = (*nodes[:-2], nodes[-1])
        tests = [(scope.expressions.condition(nodes[at]), nodes[at + 1]) for at in range(0, len(nodes) - 1, 2)]
        return self._cascade(form, tests, nodes[-1:] if len(nodes) % 2 else (), scope)

    def _case(self, form: Form, scope: _Scope) -> Steps:
        nodes = at_least_one(form, _A_VALUE)[1:]
        if not nodes:
            raise unexpected(form.end, "a constant", 'the end of "(case …)"')
        value = scope.expressions.value(form.rest[0])
        tests = []
        for at in range(0, len(nodes) - 1, 2):
            constant = scope.expressions.value(nodes[at])
            if not constant.is_constant:
                raise unexpected(nodes[at], "a constant")
            tests.append((equal(value, constant), nodes[at + 1]))
        return self._cascade(form, tests, nodes[-1:] if len(nodes) % 2 else (), scope)

    def _cascade(
        self, form: Form, tests: list[tuple[Condition, Node]], default: tuple[Node, ...], scope: _Scope
    ) -> Steps:
        steps = self._body(default, scope)
        for condition, then in reversed(tests):
            steps = [self._choice(form, condition, self._body((then,), scope), steps)]
        return steps

    def _do(self, form: Form, scope: _Scope) -> Steps:
        return self._body(at_least_one(form, one_of(COMMANDS)), scope)

    # Stopping, repeating, waiting

    def _stopping(self, form: Form, scope: _Scope) -> tuple[Condition, tuple[Node, ...], _Scope]:
        """The condition of an `unless` or `until`, its body, and the scope in it: where the body may change the
        condition, it is asked before each action."""
        if len(form.rest) < 2:
            expected = one_of(COMMANDS) if form.rest else "a condition"
            raise unexpected(form.end, expected, f'the end of "({form.head} …)"')
        if collects_events(form.rest[0]):
            raise unexpected(form.rest[0], "a condition: there is no step that stops at an event")
        condition = scope.expressions.condition(form.rest[0])
        body = form.rest[1:]
        changes = _words_in(form.rest[0]) & _words_set(body)
        return condition, body, replace(scope, stops=(*scope.stops, condition)) if changes else scope

    def _unless(self, form: Form, scope: _Scope) -> Steps:
        condition, body, inside = self._stopping(form, scope)
        steps = self._body(body, inside)
        return [self._workshop.mark({"if": write(Not(condition)), "then": steps}, form)]

    def _until(self, form: Form, scope: _Scope) -> Steps:
        condition, body, inside = self._stopping(form, scope)
        steps = self._body(body, inside)
        most = min(MOST_ROUNDS, MOST_ENTERED // (self._loops * max(1, _count_of(steps))))
        return self._repeated(form, steps, inside, condition, max(1, most))

    def _times(self, form: Form, scope: _Scope) -> Steps:
        number, *body = at_least_one(form, "how many times")
        rounds = a_count(number, 1, MOST_ROUNDS, "how many times")
        if not body:
            raise unexpected(form.end, one_of(COMMANDS), 'the end of "(times …)"')
        return self._repeated(form, self._body(tuple(body), scope), scope, None, rounds)

    def _repeated(self, form: Form, steps: Steps, scope: _Scope, until: Condition | None, most: int) -> Steps:
        ends = [*scope.stops, *([] if until is None or until in scope.stops else [until])]
        text = write(Or(tuple(ends)), total=True) if ends else "false"
        return [self._workshop.mark({"repeat": steps, "until": text, "most": most}, form)]

    def _delay(self, form: Form, scope: _Scope) -> Steps:
        count, unit = arguments(form, ("a number", "a unit of time"))
        return self._guarded([self._workshop.mark({"wait": a_span(count, unit)}, form)], scope, form)

    _makers: ClassVar[Mapping[str, Callable[[Script42, Form, _Scope], Steps]]] = {
        "def": _def,
        "set": _set,
        "let": _let,
        "if-let": _if_let,
        "when-let": _when_let,
        "if": _if,
        "when": _when,
        "cond": _cond,
        "case": _case,
        "do": _do,
        "unless": _unless,
        "until": _until,
        "times": _times,
        "delay": _delay,
    }


def _count_of(steps: Steps) -> int:
    """How many steps there are with those in blocks."""
    ahead: list[Any] = [steps]
    found = 0
    while ahead:
        part = ahead.pop()
        if isinstance(part, list):
            ahead += part
            found += sum(isinstance(member, dict) for member in part)
        elif isinstance(part, dict):
            ahead += [part[name] for name in ("then", "else", "repeat", "par") if name in part]
    return found


def _is_interaction(node: Node) -> bool:
    return isinstance(node, Form) and node.head in VERBS


def _is_free(node: Node) -> bool:
    """Whether a statement consists of interactions and branches only: nothing after it can depend on it."""
    found = False
    ahead = [node]
    while ahead:
        form = ahead.pop()
        if not isinstance(form, Form):
            continue
        if form.head in COMMANDS and form.head not in (*VERBS, *BRANCHES):
            return False
        found = found or form.head in VERBS
        ahead += form.members
    return found


def _reads_events(node: Node) -> bool:
    return any(isinstance(each, Dollar) or _is_interaction(each) for each in _walk(node))


def _words_in(node: Node) -> set[str]:
    words = {each.name for each in _walk(node) if isinstance(each, Word) and each.name not in CONSTANTS}
    return words | {word.split(".")[0] for word in words}


def _words_set(nodes: tuple[Node, ...]) -> set[str]:
    found = set()
    for node in nodes:
        for form in _walk(node):
            if isinstance(form, Form) and form.head in ("set", "def") and len(form.members) > 1:
                word = form.members[1]
                found |= {word.name} if isinstance(word, Word) else set()
    return found


def _walk(node: Node) -> list[Node]:
    found = [node]
    for each in found:
        if isinstance(each, Form):
            found.extend(each.members)
    return found


def _told(node: Node) -> str:
    return node.name if isinstance(node, Word) else ""
