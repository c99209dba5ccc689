"""The values of a mapping: paths, CEL, and Liquid texts, over the variables of a delivery.

A text with `{{` or `{%` is Liquid, a path is a path (`paths.py`), everything else is CEL. A missing
value is skipped in all three: the next one of a list counts.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Any, TypeAlias

import msgspec
from msgspec import Struct

from app.actions.templates import render
from app.actions.templates.parsing import TemplateError, parse
from app.actions.templates.template_budget import MAX_ROUNDS, TemplateBudget
from app.core.exact_json import ExactTexts
from app.core.pacing import pause_if_due
from app.core.work_shares import UNITS_PER_MILLISECOND
from app.workflows.expressions.cel import Expression, compile_expression
from app.workflows.expressions.cel_analysis import FilterError
from app.workflows.expressions.cel_check import check_expression
from app.workflows.expressions.work_budget import EVENT_UNITS, NOT_EVALUATED, Budget
from app.workflows.sources.paths import MISSING, Parts, has_hyphens, read_path, walk

# The variables of a delivery, and those that each member of its lists has besides.
NAMES = ("body", "headers", "query")
MEMBER_NAMES = ("item", "parents")
# Units of work of the CEL and of the templates of one delivery, and for each member that `each` goes through
# (docs/decisions/0048).
CEL_UNITS, CEL_UNITS_PER_MEMBER = EVENT_UNITS, EVENT_UNITS // 200
TEMPLATE_UNITS, TEMPLATE_UNITS_PER_MEMBER = 200_000, 800
# What a unit of templates takes in units of an account's share.
TEMPLATE_UNIT = 2.5
# Takes units out of an account's share.
Charge = Callable[[float], None]
_JSON = msgspec.json.Encoder(decimal_format="number")


class ValueFault(Exception):
    """A value cannot be calculated; the message says why."""


class OutOfWork(Exception):
    """The values of a delivery need more work than it may use; the message says which."""


class Work:
    """What the values of one delivery may still use. `charge` is called with the units that were used."""

    def __init__(self, members: int = 0, charge: Charge | None = None) -> None:
        self._charge = charge
        self.cel = Budget(CEL_UNITS + members * CEL_UNITS_PER_MEMBER)
        self.templates = TemplateBudget(
            TEMPLATE_UNITS + members * TEMPLATE_UNITS_PER_MEMBER, MAX_ROUNDS + 10 * members, inf
        )
        self._templates_left = self.templates.work_left
        self._paused_at = self.cel.left

    def pause_if_due(self) -> None:
        """Let other requests run when CEL has taken a millisecond since they last could. Templates do so by themselves."""
        if self._paused_at - self.cel.left >= UNITS_PER_MILLISECOND:
            self._paused_at = self.cel.left
            pause_if_due()

    def end_piece(self, more: int = 0) -> None:
        """Charge what was used since the last call, and `more` units."""
        if self._charge is not None:
            templates, self._templates_left = self._templates_left, self.templates.work_left
            used = self.cel.end_piece(0) + TEMPLATE_UNIT * (templates - self._templates_left)
            self._charge(used + more)


class Scope(Struct, frozen=True):
    """What the values of one event see. `item_path` and `parent_paths`: where in the body `item` and `parents` are."""

    variables: dict[str, Any]
    texts: ExactTexts
    work: Work
    item_path: Parts = ()
    parent_paths: tuple[Parts, ...] = ()

    def text_at(self, root: str, parts: Parts) -> str | None:
        """The JSON text of what is at a path, as it was sent; None for what is not a part of the body."""
        if root == "body":
            return self.texts.at(parts)
        if root == "item":
            return self.texts.at((*self.item_path, *parts))
        if root == "parents" and parts:
            return self.texts.at((*self.parent_paths[int(parts[0])], *parts[1:]))
        return None


@dataclass(frozen=True, slots=True)
class PathValue:
    """A path."""

    text: str
    root: str
    parts: Parts
    is_of_member: bool

    @property
    def reads(self) -> Collection[Parts]:
        """The path itself."""
        return ((self.root, *self.parts),)

    def find(self, scope: Scope) -> Any:
        """The value at the path, or MISSING."""
        return walk(scope.variables.get(self.root, MISSING), self.parts)

    def to_json(self, scope: Scope, found: Any) -> str:
        """The JSON text at the path, as it was sent."""
        text = scope.text_at(self.root, self.parts)
        return write_json(found) if text is None else text


@dataclass(frozen=True, slots=True)
class CelValue:
    """A CEL expression."""

    text: str
    is_of_member: bool
    _expression: Expression = field(repr=False)

    @property
    def is_fixed(self) -> bool:
        """Whether it reads nothing, as a text in quotes."""
        return not self.reads

    @property
    def reads(self) -> Collection[Parts]:
        """The paths that it reads."""
        return self._expression.cost.reads

    def find(self, scope: Scope) -> Any:
        """The value of the expression; MISSING if a member is missing. Raises ValueFault."""
        value, reason = self._expression.value(scope.variables, scope.work.cel)
        scope.work.pause_if_due()
        return value if self._is_known(reason, scope) else MISSING

    def is_true(self, scope: Scope) -> bool:
        """Whether the expression is true; false if a member is missing. Raises ValueFault."""
        is_true, reason = self._expression.evaluate(scope.variables, scope.work.cel)
        scope.work.pause_if_due()
        return self._is_known(reason, scope) and is_true

    def _is_known(self, reason: str | None, scope: Scope) -> bool:
        """Whether there is a value, or a member is missing. Raises ValueFault for any other reason."""
        if reason is None:
            return True
        if reason.startswith(NOT_EVALUATED):
            raise OutOfWork(f"{self.text}: {reason}")
        is_missing = reason.endswith(" is missing") or reason.startswith("index out of bounds")
        if is_missing or any(_ends_at_null(scope.variables, path) for path in self.reads):
            return False
        raise ValueFault(reason)

    def to_json(self, scope: Scope, found: Any) -> str:
        """The value as JSON."""
        return write_json(found)


def _ends_at_null(value: Any, path: Parts) -> bool:
    """Whether there is null where a path goes on, as in `body.customer.id` of an order without a customer."""
    return any(walk(value, path[:length]) is None for length in range(1, len(path)))


@dataclass(frozen=True, slots=True)
class LiquidValue:
    """A Liquid text. White space at its ends is removed. A value that is missing or null makes the whole text nothing, unless
    the template itself tests for it (`default`, `if`)."""

    text: str
    is_of_member: bool
    reads: Collection[Parts] = field(repr=False)

    def find(self, scope: Scope) -> Any:
        """The rendered text; MISSING for an empty one. Raises ValueFault, also for a missing value."""
        names = render.Names(self._select(scope.variables), strict=True, budget=scope.work.templates)
        try:
            return render.render(self.text, names).strip() or MISSING
        except TemplateError as exc:
            if scope.work.templates.is_used_up:
                raise OutOfWork(f"{self.text}: {exc}") from None
            raise ValueFault(str(exc)) from None

    def _select(self, variables: Mapping[str, Any]) -> dict[str, Any]:
        """The parts of the variables that the template reads: preparing a whole body would take longer than the rest."""
        selected: dict[str, Any] = {}
        for root, *names in self.reads:
            _select(variables, selected, (root, *names))
        return selected

    def to_json(self, scope: Scope, found: Any) -> str:
        """The text as JSON."""
        return write_json(found)


def _select(source: Mapping[str, Any], selected: dict[str, Any], path: Parts) -> None:
    """Add what is at a path to `selected`: objects on the way with this member only, and null as missing."""
    (name, *further) = path
    if name not in source or source[str(name)] is None:
        return
    name = str(name)
    value = source[name]
    if not isinstance(value, dict) or not further:
        selected[name] = value
        return
    inner = selected.setdefault(name, {})
    if inner is not value:
        _select(value, inner, tuple(further))


@dataclass(frozen=True, slots=True)
class PhoneDigits:
    """`phone` among the values of `distinct_id`: the digits of the number that `phone` of the mapping has found."""

    text: str = "phone"
    is_of_member: bool = False
    reads: Collection[Parts] = ()

    def find(self, scope: Scope) -> Any:
        """The digits; MISSING without a usable number."""
        return scope.variables.get("phone", MISSING)

    def to_json(self, scope: Scope, found: Any) -> str:
        """The digits as JSON."""
        return write_json(found)


# A compiled value. `text` is how it was written; `is_of_member`: whether it depends on `item` or `parents`; `reads`: the paths of
# the values that it reads; `find(scope)` is the value, and `to_json(scope, found)` its JSON text.
Value: TypeAlias = PathValue | CelValue | LiquidValue | PhoneDigits


def write_json(value: Any) -> str:
    """A value as JSON text, with exact numbers."""
    return _JSON.encode(value).decode()


def check_value(text: Any, names: Collection[str]) -> Iterator[str]:
    """Every mistake in a value that may read the variables in `names`."""
    if not isinstance(text, str) or not text.strip():
        yield "must be a path such as body.order.id, CEL, or a Liquid text with {{ }}"
        return
    if is_liquid(text):
        message = render.check(text, names)
        yield from [] if message is None else [f"in the template: {message}"]
        yield from _check_headers(_liquid_paths(text) if message is None else ())
        return
    path = read_path(text)
    if path is not None:
        yield from [] if path.root in names else [_unknown(path.root, names)]
        return
    try:
        check_expression(text, is_condition=False, names=names)
    except FilterError as exc:
        hint = "; a name with a hyphen is written ['event-data']" if has_hyphens(text) else ""
        yield f"{exc}{hint}"
        return
    yield from _check_headers(compile_expression(text, names).cost.reads)


def check_condition(text: Any, names: Collection[str]) -> Iterator[str]:
    """Every mistake in the CEL of `where`."""
    if not isinstance(text, str) or not text.strip():
        yield "must be a condition in CEL, such as item.quantity > 0"
        return
    try:
        check_expression(text, is_condition=True, names=names)
    except FilterError as exc:
        yield str(exc)
        return
    yield from _check_headers(compile_expression(text, names).cost.reads)


def _unknown(root: str, names: Collection[str]) -> str:
    if root in MEMBER_NAMES:
        return f"{root} is known only in an entry of events with each"
    return f"{root} is not known; a path begins with {', '.join(names)}, and a fixed text is written \"'{root}'\""


def _check_headers(paths: Collection[Parts] | Iterator[Parts]) -> Iterator[str]:
    for root, *names in paths:
        if root == "headers" and names and str(names[0]) != str(names[0]).lower():
            yield f"the names of headers are in lower case: headers['{str(names[0]).lower()}']"


def is_liquid(text: str) -> bool:
    """Whether the text of a value is a template."""
    return "{{" in text or "{%" in text


def compile_value(text: str) -> PathValue | CelValue | LiquidValue:
    """Compile a value without mistakes."""
    if is_liquid(text):
        paths = _liquid_paths(text)
        return LiquidValue(text, _is_of_member(paths), tuple(paths))
    path = read_path(text)
    if path is not None:
        return PathValue(text, path.root, path.parts, path.root in MEMBER_NAMES)
    return compile_condition(text)


def compile_condition(text: str) -> CelValue:
    """Compile CEL without mistakes."""
    expression = compile_expression(text, (*NAMES, *MEMBER_NAMES))
    return CelValue(text, _is_of_member(expression.cost.reads), expression)


def _is_of_member(paths: Collection[Parts]) -> bool:
    return any(path[0] in MEMBER_NAMES for path in paths)


def _liquid_paths(text: str) -> list[Parts]:
    """The paths that a template reads, each up to the first part that is not a literal name."""
    template = parse(text, strict=True)
    paths: list[Parts] = []
    for uses in template.analyze().globals.values() if template else ():
        for use in uses:
            names: list[str] = []
            for part in use.segments:
                if not isinstance(part, str):
                    break
                names.append(part)
            paths.append(tuple(names))
    return paths
