"""Compiles a script of CxEngage 4.2 into a pattern and steps.

A script starts with events and constants (`def`), followed by interactions. Adjacent interactions without a name run in
parallel. A name bound by `let` is local to it.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from app.workflows.cxengage.cel_writer import Condition, Not, Or, write
from app.workflows.cxengage.clojure_semantics import equal, is_true
from app.workflows.cxengage.endpoints import AN_INTERACTION, Parameter, find_endpoint, step_of
from app.workflows.cxengage.notation_parser import (
    A_DURATION,
    Form,
    Keyword,
    Node,
    TemplateName,
    Word,
    arguments,
    at_least,
    duration_of,
    expect_count,
    expect_list,
    expect_word,
    one_of,
    read,
    unexpected,
    unsupported,
)
from app.workflows.cxengage.step_builder import (
    MAX_ENTERED,
    MAX_ROUNDS,
    StepBuilder,
    Steps,
    count_steps,
    limits_of,
    parameters_of,
    read_options,
)
from app.workflows.cxengage.v42_events import FORMS, compile_events, is_event_form, max_events
from app.workflows.cxengage.v42_expressions import Scope
from app.workflows.cxengage.v42_forms import (
    A_NAME,
    BINDINGS,
    COMMANDS,
    VERBS,
    bindings_of,
    is_independent,
    is_interaction,
    reads_events,
    walk,
    words_in,
    words_set,
)

OPTIONS = ("retries", "timeout", "catch")
_A_VARIABLE = 'a variable that "def" or "let" created'
_A_VALUE = "a value"


class ScriptCompiler:
    """Compiles one script."""

    def __init__(self, builder: StepBuilder) -> None:
        self._builder = builder
        self._globals: dict[str, str] = {}
        # The number of `until` loops, which share the maximum of steps that a run may enter.
        self._loops = 1

    def read(self, text: str) -> tuple[dict[str, Any], Steps]:
        """The pattern and the steps of a text; raises Unexpected."""
        forms, end = read(text)
        self._loops = max(1, sum(isinstance(node, Form) and node.head == "until" for node in walk(forms)))
        events: list[dict[str, Any]] = []
        steps: Steps = []
        count = 0
        for form in forms:
            if is_event_form(form):
                events.append(compile_events(form, self._builder.source_map))
            elif isinstance(form, Form) and form.head == "def" and not reads_events(form):
                steps += self._statement(form, Scope(ChainMap(self._globals)))
            else:
                break
            count += 1
        if not events:
            node = forms[count] if count < len(forms) else end
            raise unexpected(node, one_of(FORMS), None if count < len(forms) else "the end of the text")
        on = events[0] if len(events) == 1 else {"seq": events}
        body: Steps = []
        _merge(body, steps)
        _merge(body, self._body(forms[count:], Scope(ChainMap(self._globals), max_events(on))))
        if not body:
            raise unexpected(end, f"an interaction: {one_of(VERBS)}", "the end of the text")
        return on, body

    # Statements

    def _body(self, nodes: Sequence[Node], scope: Scope) -> Steps:
        """Statements in sequence; adjacent independent ones in parallel."""
        steps: Steps = []
        independent: list[Node] = []
        for node in nodes:
            if not scope.stops and is_independent(node):
                independent.append(node)
                continue
            _merge(steps, self._parallel(independent, scope))
            independent = []
            _merge(steps, self._statement(node, scope))
        _merge(steps, self._parallel(independent, scope))
        return steps

    def _parallel(self, nodes: list[Node], scope: Scope) -> Steps:
        if not nodes:
            return []
        return self._builder.parallel([self._statement(node, scope) for node in nodes], nodes[0])

    def _statement(self, node: Node, scope: Scope) -> Steps:
        if is_event_form(node):
            raise unsupported(node, "write two patterns, or a workflow with wait_for", "an event between interactions")
        form = expect_list(node, COMMANDS)
        if form.head in VERBS:
            return self._guarded(self._interaction(form, scope), scope, form)
        return self._compilers[form.head](self, form, scope)

    def _guarded(self, steps: Steps, scope: Scope, node: Node) -> Steps:
        """Steps that are skipped once an enclosing `unless` or `until` is true."""
        if not scope.stops or not steps:
            return steps
        stop = scope.stops[0] if len(scope.stops) == 1 else Or(scope.stops)
        return [self._builder.mark({"if": write(Not(stop)), "then": steps}, node)]

    # Interactions

    def _interaction(self, form: Form, scope: Scope, then: Steps | None = None, other: Steps | None = None) -> Steps:
        """An interaction; `then` follows its success, `other` its final failure."""
        name, action, *rest = at_least(form, *AN_INTERACTION)
        endpoint = find_endpoint(name, action)
        if form.head not in endpoint.verbs:
            words = " ".join(node.name for node in (name, action) if isinstance(node, Word))
            raise unexpected(form.members[0], f'{one_of(endpoint.verbs)} for "{words}"')
        variables: dict[str, str] = {}
        params: list[Parameter] = []
        if rest and isinstance(rest[0], Form) and rest[0].bracket == "{":
            params = parameters_of(rest.pop(0), lambda node: self._parameter(node, scope, variables))
        options = read_options(rest, OPTIONS, form)
        step = self._builder.mark(step_of(endpoint, params, form), form)
        step |= limits_of(options, counts_first=True)
        if then:
            step["then"] = then
        failed: Steps = []
        if (catch := options.get("catch")) is not None:
            _merge(failed, self._do(catch, scope))
        if other is not None:
            _merge(failed, other)
        if catch is not None or other is not None:
            step["else"] = failed
        return [self._builder.mark({"set": variables}, form), step] if variables else [step]

    def _parameter(self, node: Node, scope: Scope, variables: dict[str, str]) -> Any:
        if isinstance(node, TemplateName):
            raise unexpected(node, f'"(template +{node.name})"')
        if isinstance(node, Form) and node.head == "template":
            of = arguments(node, ("a template such as +TM1 or a text",))[0]
            return self._builder.template(of, scope.variables)
        value = scope.value(node)
        if value.is_collection:
            raise unexpected(node, "one text, number or template", "several values")
        return self._builder.text_field(value, variables)

    # Variables

    def _def(self, form: Form, scope: Scope) -> Steps:
        word, value = arguments(form, (A_NAME, _A_VALUE))
        name = expect_word(word, A_NAME).name
        variable = self._globals.get(name) or self._builder.fresh_name(name)
        steps = self._assigned(variable, value, scope, form)
        self._globals[name] = variable
        return self._guarded(steps, scope, form)

    def _set(self, form: Form, scope: Scope) -> Steps:
        word, value = arguments(form, (A_NAME, _A_VALUE))
        name, known = expect_word(word, A_NAME).name, scope.variables
        if name not in known:
            raise unexpected(word, f"a known variable: {one_of(sorted(known))}" if known else _A_VARIABLE)
        return self._guarded(self._assigned(known[name], value, scope, form), scope, form)

    def _assigned(self, name: str, value: Node, scope: Scope, form: Form) -> Steps:
        """Steps that assign a value to a variable; the value of an interaction is its response."""
        if not is_interaction(value):
            return [self._builder.mark({"set": {name: scope.value(value).to_set}}, form)]
        assert isinstance(value, Form)
        response = self._builder.mark({"set": {name: "last"}}, value)
        if not any(isinstance(option, Form) and option.head == "catch" for option in value.rest):
            return [*self._interaction(value, scope), response]
        nothing = self._builder.mark({"set": {name: "null"}}, value)
        return self._interaction(value, scope, [response], [nothing])

    def _let(self, form: Form, scope: Scope) -> Steps:
        steps: Steps = []
        for word, value in bindings_of(form):
            name = self._builder.fresh_name(word.name)
            _merge(steps, self._guarded(self._assigned(name, value, scope, form), scope, form))
            scope = scope.with_variable(word.name, name)
        _merge(steps, self._body(form.members[2:], scope))
        return steps

    def _if_let(self, form: Form, scope: Scope) -> Steps:
        pairs = bindings_of(form)
        _, *branches = arguments(form, (BINDINGS, one_of(COMMANDS)), optional=1)
        return self._bound(form, pairs, branches[:1], branches[1:], scope)

    def _when_let(self, form: Form, scope: Scope) -> Steps:
        pairs = bindings_of(form)
        _, *body = at_least(form, BINDINGS, one_of(COMMANDS))
        return self._bound(form, pairs, body, [], scope)

    def _bound(
        self,
        form: Form,
        pairs: list[tuple[Word, Node]],
        then: list[Node],
        other: list[Node],
        scope: Scope,
    ) -> Steps:
        if len(pairs) > 1:
            raise unexpected(pairs[1][0], '"]": one name and its value')
        word, value = pairs[0]
        name = self._builder.fresh_name(word.name)
        inner = scope.with_variable(word.name, name)
        if is_interaction(value):
            assert isinstance(value, Form)
            response = self._builder.mark({"set": {name: "last"}}, value)
            on_success: Steps = [response]
            _merge(on_success, self._body(then, inner))
            steps = self._interaction(value, scope, on_success, self._body(other, scope))
            return self._guarded(steps, scope, form)
        steps = self._guarded(self._assigned(name, value, scope, form), scope, form)
        condition = is_true(inner.value(Word(word.line, word.column, word.name)))
        return [*steps, self._choice(form, condition, self._body(then, inner), self._body(other, scope))]

    # Branches

    def _choice(self, node: Node, condition: Condition, then: Steps, other: Steps) -> dict[str, Any]:
        step: dict[str, Any] = {"if": write(condition), "then": then}
        if other:
            step["else"] = other
        return self._builder.mark(step, node)

    def _chosen(self, form: Form, test: Node, then: Steps, other: Steps, scope: Scope) -> Steps:
        """One of two blocks. The test may be an interaction, which is true if it succeeds."""
        if is_interaction(test):
            assert isinstance(test, Form)
            return self._guarded(self._interaction(test, scope, then, other), scope, form)
        return [self._choice(form, scope.condition(test), then, other)]

    def _if(self, form: Form, scope: Scope) -> Steps:
        nodes = arguments(form, ("a condition", one_of(COMMANDS)), optional=1)
        return self._chosen(form, nodes[0], self._body(nodes[1:2], scope), self._body(nodes[2:], scope), scope)

    def _when(self, form: Form, scope: Scope) -> Steps:
        test, *body = at_least(form, "a condition", one_of(COMMANDS))
        return self._chosen(form, test, self._body(body, scope), [], scope)

    def _cond(self, form: Form, scope: Scope) -> Steps:
        nodes = at_least(form, "a condition")
        if len(nodes) > 1 and isinstance(nodes[-2], Keyword) and nodes[-2].name == "else" and len(nodes) % 2 == 0:
            nodes = (*nodes[:-2], nodes[-1])
        tests = [(scope.condition(nodes[index]), nodes[index + 1]) for index in range(0, len(nodes) - 1, 2)]
        return self._cascade(form, tests, nodes[-1:] if len(nodes) % 2 else (), scope)

    def _case(self, form: Form, scope: Scope) -> Steps:
        of, *nodes = at_least(form, _A_VALUE, "a constant")
        value = scope.value(of)
        tests = []
        for index in range(0, len(nodes) - 1, 2):
            constant = scope.value(nodes[index])
            if not constant.is_constant:
                raise unexpected(nodes[index], "a constant")
            tests.append((equal(value, constant), nodes[index + 1]))
        return self._cascade(form, tests, nodes[-1:] if len(nodes) % 2 else (), scope)

    def _cascade(self, form: Form, tests: list[tuple[Condition, Node]], default: Sequence[Node], scope: Scope) -> Steps:
        steps = self._body(default, scope)
        for condition, then in reversed(tests):
            steps = [self._choice(form, condition, self._body((then,), scope), steps)]
        return steps

    def _do(self, form: Form, scope: Scope) -> Steps:
        return self._body(at_least(form, one_of(COMMANDS)), scope)

    # Stopping, repeating, waiting

    def _stopping(self, form: Form, scope: Scope) -> tuple[Condition, list[Node], Scope]:
        """The condition of an `unless` or `until`, its body, and the body's scope. If the body may change the condition, it is
        checked before each action."""
        test, *body = at_least(form, "a condition", one_of(COMMANDS))
        if is_event_form(test):
            raise unsupported(test, "write a workflow with exit_on", "stopping at an event")
        condition = scope.condition(test)
        changes = words_in(test) & words_set(body)
        return condition, body, replace(scope, stops=(*scope.stops, condition)) if changes else scope

    def _unless(self, form: Form, scope: Scope) -> Steps:
        condition, body, inner = self._stopping(form, scope)
        steps = self._body(body, inner)
        return [self._builder.mark({"if": write(Not(condition)), "then": steps}, form)]

    def _until(self, form: Form, scope: Scope) -> Steps:
        condition, body, inner = self._stopping(form, scope)
        steps = self._body(body, inner)
        rounds = min(MAX_ROUNDS, MAX_ENTERED // (self._loops * max(1, count_steps(steps))))
        return self._repeated(form, steps, inner, condition, max(1, rounds))

    def _times(self, form: Form, scope: Scope) -> Steps:
        number, *body = at_least(form, "how many times")
        rounds = expect_count(number, 1, MAX_ROUNDS, "how many times")
        if not body:
            raise unexpected(form.end, one_of(COMMANDS), 'the end of "(times …)"')
        return self._repeated(form, self._body(body, scope), scope, None, rounds)

    def _repeated(self, form: Form, steps: Steps, scope: Scope, until: Condition | None, rounds: int) -> Steps:
        ends = [*scope.stops, *([] if until is None or until in scope.stops else [until])]
        text = write(Or(tuple(ends)), total=True) if ends else "false"
        return [self._builder.mark({"repeat": steps, "until": text, "most": rounds}, form)]

    def _delay(self, form: Form, scope: Scope) -> Steps:
        wait = {"wait": duration_of(*arguments(form, A_DURATION))}
        return self._guarded([self._builder.mark(wait, form)], scope, form)

    _compilers: ClassVar[Mapping[str, Callable[[ScriptCompiler, Form, Scope], Steps]]] = {
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


def _merge(steps: Steps, more: Steps) -> None:
    """Append steps; adjacent `set` steps become one."""
    for step in more:
        last = steps[-1] if steps else {}
        if set(step) == {"set"} == set(last) and last["set"].keys().isdisjoint(step["set"]):
            last["set"].update(step["set"])
        else:
            steps.append(step)
