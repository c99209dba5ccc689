"""What all resources have in common: they are listed, found, made, changed and removed by ids such as `TM1`.

Comes in: the house, an account and plain values. Goes out: frozen rows. Another account's id and one that is not there get
the same words.
"""

from __future__ import annotations

import re
from typing import Any, TypeVar

import sqlalchemy as sa

from app.core.errors import Problem, ProblemType
from app.db import cxengage_resources
from app.db.cxengage_resources import (
    AUGMENTS,
    LISTENERS,
    PATTERNS,
    TEMPLATES,
    AugmentRow,
    ListenerRow,
    PatternRow,
    Shelf,
    TemplateRow,
)
from app.services.context import AppContext

__all__ = [
    "AUGMENTS",
    "LISTENERS",
    "PATTERNS",
    "TEMPLATES",
    "AugmentRow",
    "ListenerRow",
    "PatternRow",
    "TemplateRow",
    "check_room",
    "find_on",
    "find_resource",
    "list_resources",
    "missing",
    "number_of",
]

MOST = 1_000
_NUMBER = re.compile(r"[1-9][0-9]{0,8}", re.ASCII)
Row = TypeVar("Row")


def list_resources(context: AppContext, account_id: int, shelf: Shelf[Row]) -> list[Row]:
    """All of an account's resources of a kind."""
    with context.database.transaction() as connection:
        return cxengage_resources.list_all(connection, shelf, account_id)


def find_resource(context: AppContext, account_id: int, shelf: Shelf[Row], name: str) -> Row:
    """A resource by its id; raises Problem 404."""
    with context.database.transaction() as connection:
        return find_on(connection, account_id, shelf, name)


def find_on(connection: sa.Connection, account_id: int, shelf: Shelf[Row], name: str, *, lock: bool = False) -> Row:
    """The same in a transaction that is open already; with `lock` nobody else changes it until that ends."""
    number = number_of(shelf, name)
    found = None if number is None else cxengage_resources.find(connection, shelf, account_id, number, lock=lock)
    if found is None:
        raise missing(shelf, name)
    return found


def number_of(shelf: Shelf[Any], name: str) -> int | None:
    """The number in an id; None for what is none of the kind."""
    digits = name.removeprefix(shelf.prefix)
    return int(digits) if digits != name and _NUMBER.fullmatch(digits) else None


def missing(shelf: Shelf[Any], name: str) -> Problem:
    """The 404 of an id that is not there."""
    return Problem(ProblemType.NOT_FOUND, f"there is no {shelf.called} {name[:40]}")


def check_room(connection: sa.Connection, account_id: int, shelf: Shelf[Any]) -> None:
    """Raise Problem 400 where an account has as many of a kind as it may."""
    if cxengage_resources.count_all(connection, shelf, account_id) >= MOST:
        raise Problem(ProblemType.VALIDATION_FAILED, f"there may be {MOST} {shelf.called}s; delete some first")
