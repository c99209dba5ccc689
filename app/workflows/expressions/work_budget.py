"""The budget of work of one event, in units that do not depend on the machine.

A unit is about a tenth of a microsecond on the reference machine (docs/decisions/0029). Conversions and evaluations take
their units before they start, so that the same event is decided alike on every machine, live and in a simulation.
"""

from __future__ import annotations

from app.core.work_shares import UNITS_PER_MILLISECOND

# All filters and patterns of one event together.
EVENT_UNITS = 20 * UNITS_PER_MILLISECOND
# For the conditions and values of one step; and the part of it that a process with other jobs may use.
EXPRESSION_UNITS = 500 * UNITS_PER_MILLISECOND
SHARED_EXPRESSION_UNITS = 50 * UNITS_PER_MILLISECOND
# What is done in one piece, without other requests in between.
PIECE_UNITS = 2 * UNITS_PER_MILLISECOND
# The beginning of the reason of a filter or pattern that exceeded it.
NOT_EVALUATED = "not_evaluated: budget"


class BudgetExceeded(Exception):
    """Something needs more work than is left. The message says what."""


class Budget:
    """Units of work that are left, and whether an expression was not evaluated because it needs more (`was_exceeded`)."""

    __slots__ = ("_piece_began", "left", "was_exceeded")

    def __init__(self, units: int = EVENT_UNITS) -> None:
        self.left = units
        self._piece_began = units
        self.was_exceeded = False

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
        return Budget(self.left)

    def end_piece(self, least: int = PIECE_UNITS) -> int:
        """The units that were used since this was called last; 0, and then nothing ends, when they are fewer than `least`."""
        used = self._piece_began - self.left
        if used < least:
            return 0
        self._piece_began = self.left
        return used
