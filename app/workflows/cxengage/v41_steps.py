"""Compiles the `then` of CxEngage 4.1 into steps.

`*field*` is the latest value among the matched events, `$field` a field of the last response. Variables are global.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from app.workflows.cxengage.cel_writer import Condition, Path, split_name, write
from app.workflows.cxengage.clojure_semantics import Value, constant_value, is_true, logical, read_from
from app.workflows.cxengage.endpoints import AN_INTERACTION, Parameter, find_endpoint, step_of
from app.workflows.cxengage.notation_parser import (
    A_DURATION,
    Dollar,
    Field,
    Form,
    Node,
    TemplateName,
    Text,
    Unexpected,
    Word,
    arguments,
    at_least,
    duration_of,
    expect_list,
    expect_word,
    one_of,
    only,
    read,
    read_map,
    unexpected,
    unsupported,
)
from app.workflows.cxengage.step_builder import StepBuilder, Steps, limits_of, parameters_of, read_options
from app.workflows.cxengage.v41_events import CONSTANTS, compare, event_pattern, read_constant
from app.workflows.cxengage.v41_events import condition as event_condition

COMMANDS = ("seq", "par", "send", "delay", "await", "if", "set")
OPTIONS = ("retries", "within", "timeout", "template", "success", "failure")
CONDITIONS = ("=", ">", "<", "not", "and", "or")
_BRANCHES = ("success", "failure")
_OF_BLOCKS = ("retries", *_BRANCHES)
_LAST: tuple[str, tuple[str, ...]] = ("last", ())
_A_VALUE = "a constant, *field*, $field or a variable"


class StepCompiler:
    """Compiles one `then`."""

    def __init__(self, builder: StepBuilder) -> None:
        self._builder = builder
        self._variables: dict[str, str] = {}
        # Where `$field` reads the response of the enclosing interaction, and fields of it whose names differ.
        self._response: tuple[str, tuple[str, ...]] = _LAST
        self._response_names: Mapping[str, str] = {}
        # The variable that records a failure in the enclosing block.
        self._failed: str | None = None

    def read(self, text: str) -> Steps:
        """The steps of a text; raises Unexpected."""
        forms, end = read(text)
        form = only(forms, end, one_of(COMMANDS))
        self._variables = {word: self._builder.fresh_name(word) for word in _set_in(form)}
        return self._command(form)

    def _command(self, node: Node) -> Steps:
        form = expect_list(node, COMMANDS)
        return self._compilers[form.head](self, form)

    def _commands(self, nodes: tuple[Node, ...]) -> Steps:
        """Commands in sequence; after a recorded failure the remaining commands are skipped."""
        steps: Steps = []
        may_have_failed = False
        for node in nodes:
            compiled = self._command(node)
            if may_have_failed:
                compiled = [self._builder.mark({"if": f"!vars.{self._failed}", "then": compiled}, node)]
            may_have_failed = may_have_failed or (self._failed is not None and _may_fail(node))
            steps += compiled
        return steps

    # Blocks

    def _seq(self, form: Form) -> Steps:
        return self._block(form, self._commands)

    def _par(self, form: Form) -> Steps:
        def parallel(members: tuple[Node, ...]) -> Steps:
            return self._builder.parallel([self._command(member) for member in members], form)

        return self._block(form, parallel)

    def _block(self, form: Form, compile_members: Callable[[tuple[Node, ...]], Steps]) -> Steps:
        """A block with its `success` and `failure` branches. With a `failure` branch, a variable records the failure instead
        of failing the run."""
        members, options = _members_and_options(form)
        failure, retries = options.get("failure"), options.get("retries")
        if failure is None:
            if retries is not None:
                whole = f'"retries" of a whole "{form.head}"'
                raise Unexpected(
                    f'{whole} is not supported without "(failure …)": write "retries" in each "send"',
                    retries.line,
                    retries.column,
                )
            return compile_members(members) + self._branch(options.get("success"))
        name = self._builder.fresh_name("failed")
        outer, self._failed = self._failed, name
        steps = [self._builder.mark({"set": {name: False}}, form), *compile_members(members)]
        self._failed = outer
        if "retry" in (limits := limits_of(options)):
            until = f"has(vars.{name}) && !vars.{name}"
            repeated = {"repeat": steps, "until": until, "most": limits["retry"]["attempts"]}
            steps = [self._builder.mark(repeated, form)]
        choice = {"if": f"vars.{name}", "then": self._branch(failure)}
        if success := self._branch(options.get("success")):
            choice["else"] = success
        return [*steps, self._builder.mark(choice, form)]

    def _branch(self, form: Form | None) -> Steps:
        return [] if form is None else self._commands(at_least(form, one_of(COMMANDS)))

    # Interactions

    def _send(self, form: Form) -> Steps:
        name, action, values, *rest = at_least(form, *AN_INTERACTION, "a map such as {:message *text*}")
        variables: dict[str, str] = {}
        params = parameters_of(values, lambda node: self._parameter(node, variables))
        options = read_options(rest, OPTIONS, form)
        if (template := options.get("template")) is not None:
            rendered = self._rendered(template, variables)
            replaced = {param.key.name for param in rendered}
            params = [param for param in params if param.key.name not in replaced] + rendered
        endpoint = find_endpoint(name, action)
        step = self._builder.mark(step_of(endpoint, params, form), form)
        step |= limits_of(options)
        outer = self._response, self._response_names
        for word, branch in (("success", "then"), ("failure", "else")):
            if word in options:
                self._response_names = endpoint.response_names
                step[branch] = self._after_response(options[word])
                self._response, self._response_names = outer
        if self._failed is not None and "else" not in step:
            step["else"] = [self._builder.mark({"set": {self._failed: True}}, form)]
        return [self._builder.mark({"set": variables}, form), step] if variables else [step]

    def _after_response(self, form: Form) -> Steps:
        """A branch of a `send`. `$field` is the response of this `send` in all of it: where another `send` comes in
        between, the response becomes a variable."""
        if not (_sends(form) and _reads_response(form)):
            self._response = _LAST
            return self._branch(form)
        name = self._builder.fresh_name("response")
        self._response = ("vars", (name,))
        return [self._builder.mark({"set": {name: "last"}}, form), *self._branch(form)]

    def _parameter(self, node: Node, variables: dict[str, str]) -> Any:
        if isinstance(node, TemplateName):
            return self._builder.template(node, self._variables)
        return self._builder.text_field(self._value(node), variables)

    def _rendered(self, form: Form, variables: dict[str, str]) -> list[Parameter]:
        """The parameters of `(template …)`: a text is a template, as is `+TM1`; other values are taken as they are."""
        parameters = read_map(arguments(form, ("a map such as {:message +TM1}",))[0]).values()
        return [
            Parameter(
                key,
                self._builder.template(value, self._variables)
                if isinstance(value, Text)
                else self._parameter(value, variables),
                value,
            )
            for key, value in parameters
        ]

    def _await(self, form: Form) -> Steps:
        expected = '"(event …)" to wait for'
        nodes = at_least(form, expected)
        if not isinstance(nodes[0], Form) or nodes[0].head != "event":
            instead = "wait for an event, as in (await (event …) (within 5 minutes) …)"
            raise unsupported(nodes[0], instead, "polling an endpoint")
        event = event_pattern(event_condition(arguments(nodes[0], ("a condition",))[0]))
        options = read_options(nodes[1:], ("within", "timeout", "success", "failure"), form)
        limit = options.get("timeout")
        if limit is None:
            raise unexpected(form.end, '"(within …)", the maximum time to wait', 'the end of "(await …)"')
        timeout = duration_of(*arguments(limit, A_DURATION))
        step: dict[str, Any] = {"wait_for": self._builder.mark(event, nodes[0]), "timeout": timeout}
        for word, branch in (("success", "then"), ("failure", "else")):
            if word in options:
                step[branch] = self._branch(options[word])
        return [self._builder.mark(step, form)]

    # Other commands

    def _delay(self, form: Form) -> Steps:
        return [self._builder.mark({"wait": duration_of(*arguments(form, A_DURATION))}, form)]

    def _set(self, form: Form) -> Steps:
        word, value = arguments(form, ("the name of a variable", _A_VALUE))
        name = self._variables[expect_word(word, "the name of a variable").name]
        return [self._builder.mark({"set": {name: self._value(value).to_set}}, form)]

    def _if(self, form: Form) -> Steps:
        nodes = arguments(form, ("a condition", '"(success …)" or "(failure …)"'), optional=1)
        branches: dict[str, Steps] = {}
        for node, default in zip(nodes[1:], ("success", "failure"), strict=False):
            branch = expect_list(node, _BRANCHES, COMMANDS)
            word = branch.head if branch.head in _BRANCHES else default
            if word in branches:
                raise unexpected(node, f'"{word}" only once in "(if …)"')
            branches[word] = self._branch(branch) if branch.head in _BRANCHES else self._command(branch)
        step: dict[str, Any] = {"if": write(self._condition(nodes[0])), "then": branches.get("success", [])}
        if "failure" in branches:
            step["else"] = branches["failure"]
        return [self._builder.mark(step, form)]

    def _condition(self, node: Node) -> Condition:
        if not isinstance(node, Form):
            return is_true(self._value(node))
        form = expect_list(node, CONDITIONS)
        if (combined := logical(form, "a condition", self._condition)) is not None:
            return combined
        left, right = arguments(form, (_A_VALUE, _A_VALUE))
        return compare(form.head, (left, self._value(left)), (right, self._value(right)))

    def _value(self, node: Node) -> Value:
        if isinstance(node, Field):
            return read_from(Path("latest", split_name(node.name)))
        if isinstance(node, Dollar):
            root, names = self._response
            return read_from(Path(root, (*names, *split_name(self._response_names.get(node.name, node.name)))))
        if isinstance(node, Word) and node.name not in CONSTANTS:
            return read_from(variable(node, self._variables, "set"))
        return constant_value(read_constant(node, _A_VALUE))

    _compilers: ClassVar[Mapping[str, Callable[[StepCompiler, Form], Steps]]] = {
        "seq": _seq,
        "par": _par,
        "send": _send,
        "delay": _delay,
        "await": _await,
        "if": _if,
        "set": _set,
    }


def variable(word: Word, names: Mapping[str, str], setter: str) -> Path:
    """The path of a variable or of a part of it (`result.sid`); raises Unexpected for an unknown variable."""
    if word.name in names:
        return Path("vars", (names[word.name],))
    first, *rest = split_name(word.name)
    if first in names:
        return Path("vars", (names[first], *rest))
    expected = f"a known variable: {one_of(sorted(names))}" if names else f'a variable that "{setter}" created'
    raise unexpected(word, expected)


def _members_and_options(form: Form) -> tuple[tuple[Node, ...], dict[str, Form]]:
    nodes = at_least(form, one_of(COMMANDS))
    count = len(nodes)
    while count and isinstance(option := nodes[count - 1], Form) and option.head in OPTIONS:
        count -= 1
    for option in nodes[count:]:
        if isinstance(option, Form) and option.head not in _OF_BLOCKS:
            what = f'"{option.head}" of a whole "{form.head}"'
            raise unsupported(option, f'write "{option.head}" in each "send"', what)
    if not count:
        raise unexpected(nodes[0], one_of(COMMANDS))
    return nodes[:count], read_options(nodes[count:], _OF_BLOCKS, form)


def _may_fail(node: Node) -> bool:
    """Whether it contains a `send` without a `failure` branch."""
    if not isinstance(node, Form):
        return False
    is_handled = any(isinstance(member, Form) and member.head == "failure" for member in node.rest)
    return (node.head == "send" and not is_handled) or any(map(_may_fail, node.members))


def _sends(root: Node) -> bool:
    """Whether it contains a `send`."""
    return isinstance(root, Form) and (root.head == "send" or any(map(_sends, root.members)))


def _reads_response(root: Node) -> bool:
    """Whether it reads a `$field` outside of the branches of a `send`."""
    if not isinstance(root, Form):
        return isinstance(root, Dollar)
    members = root.members
    if root.head == "send":
        members = tuple(node for node in members if not (isinstance(node, Form) and node.head in _BRANCHES))
    return any(map(_reads_response, members))


def _set_in(root: Node) -> list[str]:
    """The variables that are set anywhere, in text order."""
    found: dict[str, None] = {}
    ahead = [root]
    while ahead:
        node = ahead.pop()
        if isinstance(node, Form):
            if node.head == "set" and len(node.members) > 1 and isinstance(word := node.members[1], Word):
                found[word.name] = None
            ahead += reversed(node.members)
    return list(found)
