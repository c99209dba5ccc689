"""The Liquid dialect of templates: exact numbers, members of the data and nothing else, and limits on everything.

What templates use is counted in a `TemplateBudget`. Templates cannot include other templates, read files, or access attributes
of Python objects. The library is used by its documented hooks: `get_item` decides what `.first`, `.last` and `.size` are, tags
are subclasses that are registered by `add_tag`.
"""

from __future__ import annotations

import sys
from collections import ChainMap
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, TextIO

from liquid import BoundTemplate, Environment, FalsyStrictUndefined, Node, RenderContext, TokenStream, Undefined
from liquid.builtin.output import Output, OutputNode
from liquid.builtin.tags.cycle_tag import CycleNode, CycleTag
from liquid.builtin.tags.echo_tag import EchoTag
from liquid.builtin.tags.for_tag import ForNode, ForTag
from liquid.builtin.tags.tablerow_tag import TablerowNode, TablerowTag
from liquid.exceptions import OutputStreamLimitError
from liquid.expression import Expression
from liquid.output import LimitedStringIO
from liquid.tag import Tag
from liquid.undefined import UNDEFINED

from app.actions.templates import decimals
from app.actions.templates.filters import filters, members_of_range
from app.actions.templates.member_names import Source
from app.actions.templates.template_budget import LimitError, Rounds, TemplateBudget
from app.actions.templates.template_values import to_text, weight
from app.core.pacing import pause_if_due
from app.core.template_names import SECRETS

MAX_OUTPUT_BYTES = 64 * 1024
_MAX_VARIABLES = 4 * MAX_OUTPUT_BYTES
# A value that is only read costs at most this much, for comparisons.
_MAX_READ = 32_000


class NamesWithSecrets(ChainMap[str, Any]):
    """The names of a template and, as `secrets`, the secrets that it may print. `keep` is called with each value of an expression
    that reads one."""

    def __init__(self, names: Mapping[str, Any], secrets: Mapping[str, str], keep: Callable[[Any], None]) -> None:
        super().__init__({SECRETS: secrets}, names)  # type: ignore[arg-type]
        self.keep = keep


class Context(RenderContext):
    """One rendering: looks up values and counts what is used."""

    __slots__ = ("_has_read_secret", "_variables_size", "budget")

    def __init__(self, template: BoundTemplate, *, budget: TemplateBudget | None = None, **options: Any) -> None:
        super().__init__(template, **options)
        self.budget = budget or TemplateBudget()
        self._variables_size = 0
        self._has_read_secret = False

    @property
    def is_strict(self) -> bool:
        """Whether a missing value is an error."""
        return self.env.undefined is Missing

    def get(self, path: list[object], *, token: Any, default: object = UNDEFINED) -> object:
        """The value of a path."""
        value = super().get(path, token=token, default=default)
        self._has_read_secret |= path[0] == SECRETS
        self.budget.charge(4 + min(weight(value) >> 4, _MAX_READ))
        return value

    def get_item(self, value: Any, key: Any) -> Any:
        """A member. An object has only its own members, also when the name is `first`, `last` or `size`."""
        return value[key] if isinstance(value, Mapping) else super().get_item(value, key)

    def assign(self, key: str, val: Any) -> None:
        """Set a variable; raises LimitError when all variables together are too large."""
        self.budget.charge(4)
        self._variables_size += _size(val) - _size(self.locals.get(key))
        if self._variables_size > _MAX_VARIABLES:
            raise LimitError(f"the limit of all variables together is {_MAX_VARIABLES} bytes; assign and capture less")
        self.locals[key] = val

    def raise_for_loop_limit(self, length: int = 1) -> None:
        """Nothing: rounds are counted when they begin."""

    def get_buffer(self, buf: Any = None) -> Buffer:
        """A buffer for the output of a block, such as `capture`."""
        return Buffer(self.budget)

    def evaluate(self, expression: Expression) -> Any:
        """The value of an expression that is printed."""
        self._has_read_secret = False
        value = expression.evaluate(self)
        if self._has_read_secret and isinstance(self.globals, NamesWithSecrets):
            self.globals.keep(value)
        return value

    def print(self, value: Any) -> str:
        """How a value prints; raises LimitError for a value that is too large in any case."""
        size = weight(value)
        if size > 4 * MAX_OUTPUT_BYTES:
            raise too_large()
        self.budget.charge(size >> 4)
        return to_text(value)


def _size(value: Any) -> int:
    return sys.getsizeof(value, 1)


def too_large() -> LimitError:
    """The error of a text that is too large."""
    return LimitError(f"the text is larger than {MAX_OUTPUT_BYTES} bytes")


class Buffer(LimitedStringIO):
    """Output of limited size."""

    def __init__(self, budget: TemplateBudget) -> None:
        super().__init__(limit=MAX_OUTPUT_BYTES)
        self._budget = budget

    def write(self, text: str) -> int:
        self._budget.charge(2 + (len(text) >> 5))
        try:
            return super().write(text)
        except OutputStreamLimitError:
            raise too_large() from None


# Tags


class _OutputNode(OutputNode):
    def render_to_output(self, context: RenderContext, buffer: TextIO) -> int:
        assert isinstance(context, Context)
        return buffer.write(context.print(context.evaluate(self.expression)))


class _Output(Output):
    node_class = _OutputNode


class _EchoTag(EchoTag):
    node_class = _OutputNode  # type: ignore[assignment]


class _Converted(Expression):
    """An expression whose value is converted."""

    __slots__ = ("_convert", "_inner")

    def __init__(self, inner: Expression, convert: Callable[[Context, Any], Any]) -> None:
        super().__init__(inner.token)
        self._inner, self._convert = inner, convert

    def __str__(self) -> str:
        return str(self._inner)

    def evaluate(self, context: RenderContext) -> object:
        assert isinstance(context, Context)
        return self._convert(context, self._inner.evaluate(context))

    def children(self) -> list[Expression]:
        return [self._inner]


class _CycleTag(CycleTag):
    def parse(self, stream: TokenStream) -> CycleNode:
        node = super().parse(stream)
        node.args = [_Converted(argument, Context.print) for argument in node.args]
        node.group = node.group and _Converted(node.group, Context.print)
        return node


def _count_rounds(node: ForNode | TablerowNode, stream: TokenStream) -> None:
    """Make the rounds of a loop count. `stream` is at its end tag."""
    limit = node.expression.limit
    units = 4 + (stream.current.start_index - node.token.start_index) // 3

    def rounds(context: Context, value: Any) -> Any:
        # The library takes a limit of 0 for none.
        if limit is not None and decimals.read_number(limit.evaluate(context)) <= 0:
            return []
        members = list(value.items()) if isinstance(value, dict) else value
        return Rounds(members, context.budget, units) if isinstance(members, list | tuple | range) else members

    node.expression.iterable = _Converted(node.expression.iterable, rounds)
    if limit is not None:
        node.expression.limit = _Converted(
            limit, lambda context, value: max(0, value) if isinstance(value, int) else value
        )


class _ForTag(ForTag):
    def parse(self, stream: TokenStream) -> Node:
        node = super().parse(stream)
        if isinstance(node, ForNode):
            _count_rounds(node, stream)
        return node


class _TablerowTag(TablerowTag):
    def parse(self, stream: TokenStream) -> TablerowNode:
        node = super().parse(stream)
        _count_rounds(node, stream)
        return node


def _with_pauses(kind: type[Tag]) -> type[Tag]:
    """The class of a tag; other requests run between the tags that are parsed."""

    def parse(self: Tag, stream: TokenStream) -> Node:
        pause_if_due()
        return kind.parse(self, stream)

    return type(kind.__name__, (kind,), {"parse": parse})


# Templates


class Template(BoundTemplate):
    """A parsed template. `source` is its text."""

    source: Source

    @cached_property
    def names_read(self) -> tuple[tuple[str, str, int], ...]:
        """Each name that the template reads, with its first member if that is literal (else ""), and its index."""
        pause_if_due()
        return tuple(
            (
                name,
                str(use.segments[1]) if len(use.segments) > 1 and isinstance(use.segments[1], str) else "",
                use.span.index,
            )
            for name, uses in self.analyze().globals.items()
            for use in uses
        )

    @cached_property
    def paths_read(self) -> tuple[tuple[str, ...], ...]:
        """The names that the template reads, with their literal members."""
        return tuple(
            tuple(str(part) for part in use.segments if isinstance(part, str | int))
            for uses in self.analyze().globals.values()
            for use in uses
        )

    def fill(self, names: Mapping[str, Any], budget: TemplateBudget) -> str:
        """The rendered text; raises LiquidError, and any exception of a filter."""
        buffer = Buffer(budget)
        with budget.running():
            budget.charge(4 + (len(self.source.text) >> 4))
            self.render_with_context(self._context(names, budget), buffer)
        return buffer.getvalue()

    @property
    def is_expression(self) -> bool:
        """Whether the template is one `{{ expression }}` and nothing else."""
        return len(self.nodes) == 1 and type(self.nodes[0]) is _OutputNode

    def evaluate(self, names: Mapping[str, Any], budget: TemplateBudget) -> Any:
        """The value of the expression of a template that is nothing else; raises as `fill` does."""
        (node,) = self.nodes
        assert isinstance(node, _OutputNode)
        with budget.running():
            budget.charge(4)
            value = self._context(names, budget).evaluate(node.expression)
            return members_of_range(value) if isinstance(value, range) else value

    def _context(self, names: Mapping[str, Any], budget: TemplateBudget) -> Context:
        return Context(self, budget=budget, globals=names)


class Missing(FalsyStrictUndefined):
    """A missing value in strict templates: `if` and the filter `default` accept it, any other use is an error."""

    force_liquid_default = True


class _Environment(Environment):
    template_class = Template
    block_nesting_limit = 30

    def setup_tags_and_filters(self, *, extra: bool = False) -> None:
        super().setup_tags_and_filters(extra=extra)
        for tag in ("include", "render", "liquid"):
            del self.tags[tag]
        for changed in (_Output, _EchoTag, _CycleTag, _ForTag, _TablerowTag):
            self.add_tag(changed)
        for parsed in list(self.tags.values()):
            self.add_tag(_with_pauses(type(parsed)))
        self.filters = filters(self.filters, Missing)


ENVIRONMENT = _Environment(undefined=Undefined)
STRICT = _Environment(undefined=Missing)
