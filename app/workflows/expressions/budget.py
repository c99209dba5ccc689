"""The budget of work of one event, in units that do not depend on the machine.

A unit is about a tenth of a microsecond on the reference machine (docs/decisions/0029). Conversions and evaluations take
their units before they start, so that the same event is decided alike on every machine, live and in a simulation.
"""

from __future__ import annotations

from collections.abc import Callable

UNITS_PER_MILLISECOND = 10_000
# All filters and patterns of one event together.
EVENT_UNITS = 20 * UNITS_PER_MILLISECOND
# One condition or value of a step, which a worker evaluates.
EXPRESSION_UNITS = 500 * UNITS_PER_MILLISECOND
# Between two pauses.
_PAUSE_UNITS = 2 * UNITS_PER_MILLISECOND
# The begin of the reason of a filter or pattern that exceeded it.
NOT_EVALUATED = "not_evaluated: budget"


class BudgetExceeded(Exception):
    """Something needs more work than is left. The message says what."""


class Budget:
    """Units of work that are left. `pause` is called between two filters when enough of them were used since the last time;
    it lets other greenlets run."""

    __slots__ = ("_at_pause", "_pause", "left")

    def __init__(self, units: int = EVENT_UNITS, pause: Callable[[], None] | None = None) -> None:
        self.left = units
        self._at_pause = units
        self._pause = pause

    def take(self, units: int, what: str) -> None:
        """Use units for `what`. Raises BudgetExceeded, and uses none, when fewer are left."""
        self.require(units, what)
        self.left -= units

    def require(self, units: int, what: str) -> None:
        """Raises BudgetExceeded when fewer units are left than `what` needs."""
        if units > self.left:
            raise BudgetExceeded(f"{what} needs {units:,} units of work, {self.left:,} are left")

    def spend(self, units: int) -> None:
        """Use units for what was done already."""
        self.left = max(0, self.left - units)

    def fork(self) -> Budget:
        """A budget with what is left of this one."""
        return Budget(self.left, self._pause)

    def pause_if_due(self) -> None:
        """Let others run, if this event has used many units since it last did."""
        if self._pause is not None and self._at_pause - self.left > _PAUSE_UNITS:
            self._at_pause = self.left
            self._pause()
