"""The `then` of CxEngage 4.1 becomes steps of ours.

Comes in: the one form of the text. Goes out: steps. Variables belong to the whole of it, `*field*` is the latest value among the
matched events, `$field` the last answer's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from app.workflows.cxengage.cel_writer import And, Condition, Not, Or, Path, split, write
from app.workflows.cxengage.clojure_semantics import Value, a_constant, read_from, truth_of
from app.workflows.cxengage.durations import a_span
from app.workflows.cxengage.endpoints import Given, find_endpoint
from app.workflows.cxengage.errors import one_of
from app.workflows.cxengage.parser import (
    Dollar,
    Field,
    Form,
    Node,
    TemplateName,
    Word,
    a_list,
    a_map,
    a_word,
    arguments,
    at_least_one,
    only,
    read,
    unexpected,
)
from app.workflows.cxengage.step_builder import Options, Steps, Workshop, both, split_interaction
from app.workflows.cxengage.v41_events import CONSTANTS, a_written_constant, compared, leaf
from app.workflows.cxengage.v41_events import condition as event_condition

COMMANDS = ("seq", "par", "send", "delay", "await", "if", "set")
OPTIONS = ("retries", "within", "timeout", "template", "success", "failure")
CONDITIONS = ("=", ">", "<", "not", "and", "or")
_BRANCHES = ("success", "failure")
_OF_BLOCKS = ("retries", *_BRANCHES)
_A_VALUE = "a constant, *field*, $field or a variable"


class Steps41:
    """One walk over the forms of a `then`."""

    def __init__(self, workshop: Workshop) -> None:
        self._workshop = workshop
        self._variables: dict[str, str] = {}
        # Our names for what the answer of the interaction around has other names for.
        self._answers: Mapping[str, str] = {}
        # The variable that notes when something fails in the block around.
        self._failed: str | None = None

    def read(self, text: str) -> Steps:
        """The steps of a whole text."""
        forms, end = read(text)
        form = only(forms, end, one_of(COMMANDS))
        self._variables = {word: self._workshop.names.fresh(word) for word in _set_in(form)}
        return self._command(form)

    def _command(self, node: Node) -> Steps:
        form = a_list(node, COMMANDS)
        return self._makers[form.head](self, form)

    def _commands(self, nodes: tuple[Node, ...]) -> Steps:
        """Commands one after the other; where a failure is only noted, what comes after it is left out."""
        steps: Steps = []
        failing = False
        for node in nodes:
            made = self._command(node)
            if failing:
                made = [self._workshop.mark({"if": f"!vars.{self._failed}", "then": made}, node)]
            failing = failing or (self._failed is not None and _may_fail(node))
            steps += made
        return steps

    # Blocks

    def _seq(self, form: Form) -> Steps:
        return self._block(form, self._commands)

    def _par(self, form: Form) -> Steps:
        def side_by_side(members: tuple[Node, ...]) -> Steps:
            return self._workshop.side_by_side([self._command(member) for member in members], form)

        return self._block(form, side_by_side)

    def _block(self, form: Form, make: Callable[[tuple[Node, ...]], Steps]) -> Steps:
        """Members, and what follows when all have succeeded or one has failed. A failure that something follows does not
        fail the run: a variable notes it."""
        members, options = _members_and_options(form)
        failure, retries = options.found.get("failure"), options.found.get("retries")
        if failure is None:
            if retries is not None:
                raise unexpected(retries, f'"(failure …)" beside "retries" of a whole "{form.head}"')
            return make(members) + self._after(options)
        name = self._workshop.names.fresh("failed")
        around, self._failed = self._failed, name
        steps = [self._workshop.mark({"set": {name: False}}, form), *make(members)]
        self._failed = around
        if "retry" in (limits := options.limits()):
            until = f"has(vars.{name}) && !vars.{name}"
            repeated = {"repeat": steps, "until": until, "most": limits["retry"]["attempts"]}
            steps = [self._workshop.mark(repeated, form)]
        choice = {"if": f"vars.{name}", "then": self._branch(failure)}
        if success := self._after(options):
            choice["else"] = success
        return [*steps, self._workshop.mark(choice, form)]

    def _after(self, options: Options) -> Steps:
        """What follows when a block has succeeded."""
        success = options.found.get("success")
        return [] if success is None else self._commands(at_least_one(success, one_of(COMMANDS)))

    def _branch(self, form: Form | None) -> Steps:
        return [] if form is None else self._commands(at_least_one(form, one_of(COMMANDS)))

    # Interactions

    def _send(self, form: Form) -> Steps:
        endpoint, action, rest = split_interaction(form)
        if not rest:
            raise unexpected(form.end, "a map such as {:message *text*}", 'the end of "(send …)"')
        before: dict[str, str] = {}
        given = self._parameters(rest[0], before)
        options = Options.read(rest[1:], OPTIONS, form)
        if (template := options.found.get("template")) is not None:
            given = both(given, self._rendered(template))
        step = self._workshop.interaction(form, endpoint, action, given)
        step |= options.limits()
        around, self._answers = self._answers, find_endpoint(endpoint, action).answers
        for word, branch in (("success", "then"), ("failure", "else")):
            if word in options.found:
                step[branch] = self._branch(options.found[word])
        self._answers = around
        if self._failed is not None and "else" not in step:
            step["else"] = [self._workshop.mark({"set": {self._failed: True}}, form)]
        steps: Steps = []
        self._workshop.setting(steps, before, form)
        return [*steps, step]

    def _parameters(self, node: Node, before: dict[str, str]) -> list[Given]:
        given = []
        for key, value in a_map(node).values():
            if isinstance(value, Form) and value.bracket == "[":
                texts = [self._parameter(member, before) for member in value.members]
                given.append(Given(key, texts, value))
            else:
                given.append(Given(key, self._parameter(value, before), value))
        return given

    def _parameter(self, node: Node, before: dict[str, str]) -> Any:
        if isinstance(node, TemplateName):
            return self._workshop.wording.template(node, self._variables)
        return self._workshop.wording.field(self._value(node), before)

    def _rendered(self, form: Form) -> list[Given]:
        parameters = a_map(arguments(form, ("a map such as {:message +TM1}",))[0])
        wording = self._workshop.wording
        return [Given(key, wording.template(value, self._variables), value) for key, value in parameters.values()]

    def _await(self, form: Form) -> Steps:
        told = '"(event …)" to wait for'
        nodes = at_least_one(form, told)
        if not isinstance(nodes[0], Form) or nodes[0].head != "event":
            raise unexpected(nodes[0], f"{told}; there is no step that asks an endpoint again and again")
        event = leaf(event_condition(arguments(nodes[0], ("a condition",))[0]))
        options = Options.read(nodes[1:], ("within", "timeout", "success", "failure"), form)
        limit = options.found.get("timeout")
        if limit is None:
            raise unexpected(form.end, '"(within …)": how long to wait at most', 'the end of "(await …)"')
        count, unit = arguments(limit, ("a number", "a unit of time"))
        step: dict[str, Any] = {"wait_for": self._workshop.mark(event, nodes[0]), "timeout": a_span(count, unit)}
        for word, branch in (("success", "then"), ("failure", "else")):
            if word in options.found:
                step[branch] = self._branch(options.found[word])
        return [self._workshop.mark(step, form)]

    # The rest

    def _delay(self, form: Form) -> Steps:
        count, unit = arguments(form, ("a number", "a unit of time"))
        return [self._workshop.mark({"wait": a_span(count, unit)}, form)]

    def _set(self, form: Form) -> Steps:
        word, value = arguments(form, ("the name of a variable", _A_VALUE))
        name = self._variables[a_word(word, "the name of a variable").name]
        return [self._workshop.mark({"set": {name: self._value(value).to_set}}, form)]

    def _if(self, form: Form) -> Steps:
        nodes = at_least_one(form, "a condition")
        if len(nodes) < 2:
            raise unexpected(form.end, '"(success …)" or "(failure …)"', 'the end of "(if …)"')
        if len(nodes) > 3:
            raise unexpected(nodes[3], 'the end of "(if …)"')
        branches: dict[str, Steps] = {}
        for node, usual in zip(nodes[1:], ("success", "failure"), strict=False):
            branch = a_list(node, _BRANCHES, COMMANDS)
            word = branch.head if branch.head in _BRANCHES else usual
            if word in branches:
                raise unexpected(node, f'"{word}" once in "(if …)"')
            branches[word] = self._branch(branch) if branch.head in _BRANCHES else self._command(branch)
        step: dict[str, Any] = {"if": write(self._condition(nodes[0])), "then": branches.get("success", [])}
        if "failure" in branches:
            step["else"] = branches["failure"]
        return [self._workshop.mark(step, form)]

    def _condition(self, node: Node) -> Condition:
        if not isinstance(node, Form):
            return truth_of(self._value(node))
        form = a_list(node, CONDITIONS)
        if form.head in ("and", "or"):
            members = tuple(self._condition(member) for member in at_least_one(form, "a condition"))
            return And(members) if form.head == "and" else Or(members)
        if form.head == "not":
            return Not(self._condition(arguments(form, ("a condition",))[0]))
        left, right = arguments(form, (_A_VALUE, _A_VALUE))
        return compared(form.head, (left, self._value(left)), (right, self._value(right)))

    def _value(self, node: Node) -> Value:
        if isinstance(node, Field):
            return read_from(Path("latest", split(node.name)))
        if isinstance(node, Dollar):
            return read_from(Path("last", split(self._answers.get(node.name, node.name))))
        if isinstance(node, Word) and node.name not in CONSTANTS:
            return read_from(variable(node, self._variables, "set"))
        return a_constant(a_written_constant(node, _A_VALUE))

    _makers: ClassVar[Mapping[str, Callable[[Steps41, Form], Steps]]] = {
        "seq": _seq,
        "par": _par,
        "send": _send,
        "delay": _delay,
        "await": _await,
        "if": _if,
        "set": _set,
    }


def variable(word: Word, known: dict[str, str], setter: str) -> Path:
    """Where a variable is read, whole or (`result.sid`) a part of it; raises Unexpected for one that nothing sets."""
    if word.name in known:
        return Path("vars", (known[word.name],))
    first, *rest = split(word.name)
    if first in known:
        return Path("vars", (known[first], *rest))
    names = sorted(known)
    told = f"a variable that is known here: {one_of(names)}" if names else f'a variable that "{setter}" has made'
    raise unexpected(word, told)


def _members_and_options(form: Form) -> tuple[tuple[Node, ...], Options]:
    nodes = at_least_one(form, one_of(COMMANDS))
    count = len(nodes)
    while count and isinstance(option := nodes[count - 1], Form) and option.head in OPTIONS:
        count -= 1
    for option in nodes[count:]:
        if isinstance(option, Form) and option.head not in _OF_BLOCKS:
            raise unexpected(option, f'"{option.head}" at the single "send": a whole "{form.head}" cannot have it')
    if not count:
        raise unexpected(nodes[0], one_of(COMMANDS))
    return nodes[:count], Options.read(nodes[count:], _OF_BLOCKS, form)


def _may_fail(node: Node) -> bool:
    """Whether something in it is sent whose failure nothing follows."""
    if not isinstance(node, Form):
        return False
    follows = any(isinstance(member, Form) and member.head == "failure" for member in node.rest)
    return (node.head == "send" and not follows) or any(map(_may_fail, node.members))


def _set_in(root: Node) -> list[str]:
    """The variables that are set anywhere, in the order of the text."""
    found: dict[str, None] = {}
    ahead = [root]
    while ahead:
        node = ahead.pop()
        if isinstance(node, Form):
            if node.head == "set" and len(node.members) > 1 and isinstance(word := node.members[1], Word):
                found[word.name] = None
            ahead += reversed(node.members)
    return list(found)
