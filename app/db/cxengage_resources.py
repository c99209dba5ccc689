"""CxEngage's resources in Postgres: patterns, templates, listeners and augments, each kind on a shelf of its own.

Ids are counted per account and never given out twice: 1 is PT1, TM1, LI1 or AU1. Comes in: an open transaction and plain
values; a value whose name ends in `_json` is JSON text, kept and given back with every digit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any, Generic, TypeVar
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

from app.db import tables

Row = TypeVar("Row")
_JSON = "_json"


@dataclass(frozen=True, slots=True)
class PatternRow:
    """A pattern; `status`: whether the workflow that it was compiled into is enabled."""

    number: int
    name: str
    description: str
    when_text: str | None
    then_text: str | None
    code: str | None
    key: str | None
    workflow_id: UUID | None
    status: bool


@dataclass(frozen=True, slots=True)
class TemplateRow:
    """A text in Mustache."""

    number: int
    name: str
    description: str
    template: str


@dataclass(frozen=True, slots=True)
class ListenerRow:
    """Where a third party posts, and what becomes of it: `mapping` is field of the event to dotted path."""

    number: int
    name: str
    description: str
    type: str
    status: bool
    mapping: Mapping[str, str]
    options_json: str
    more_json: str
    received: int
    last_received_at: datetime | None


@dataclass(frozen=True, slots=True)
class AugmentRow:
    """What is known beside the events; `columns` is None while there is no file."""

    number: int
    name: str
    description: str
    type: str
    url: str | None
    attributes: list[str] | None
    in_options: bool
    columns: list[str] | None
    rows: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Shelf(Generic[Row]):
    """Where one kind of resource is kept; `more`: what its rows have beside their table's columns."""

    prefix: str
    called: str
    table: sa.Table
    row: type[Row]
    more: Mapping[str, sa.ColumnElement[Any]] = field(default_factory=dict)

    def columns(self) -> list[sa.ColumnElement[Any]]:
        """What a row is read from, in the order of its fields."""
        return [self._column(each.name) for each in fields(self.row)]  # type: ignore[arg-type]

    def _column(self, name: str) -> sa.ColumnElement[Any]:
        if name in self.more:
            return self.more[name]
        if name.endswith(_JSON):
            return self.table.c[name.removesuffix(_JSON)].cast(sa.Text)
        return self.table.c[name]

    def places(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The values by the names of their columns."""
        return {
            name.removesuffix(_JSON): sa.cast(sa.literal(value, sa.Text), JSONB) if name.endswith(_JSON) else value
            for name, value in values.items()
        }


_IS_ENABLED = sa.exists().where(
    tables.workflows.c.account_id == tables.patterns.c.account_id,
    tables.workflows.c.id == tables.patterns.c.workflow_id,
    tables.workflows.c.enabled_version.is_not(None),
)

PATTERNS = Shelf("PT", "pattern", tables.patterns, PatternRow, {"status": _IS_ENABLED})
TEMPLATES = Shelf("TM", "template", tables.templates, TemplateRow)
LISTENERS = Shelf("LI", "listener", tables.listeners, ListenerRow)
AUGMENTS = Shelf("AU", "augment", tables.augments, AugmentRow)


def list_all(connection: sa.Connection, shelf: Shelf[Row], account_id: int) -> list[Row]:
    """All resources of a kind that an account has, in the order of their ids."""
    table = shelf.table
    rows = connection.execute(sa.select(*shelf.columns()).where(table.c.account_id == account_id).order_by("number"))
    return [shelf.row(*row) for row in rows]


def count_all(connection: sa.Connection, shelf: Shelf[Row], account_id: int) -> int:
    """How many resources of a kind an account has."""
    table = shelf.table
    counted: int = connection.execute(
        sa.select(sa.func.count()).select_from(table).where(table.c.account_id == account_id)
    ).scalar_one()
    return counted


def find(
    connection: sa.Connection, shelf: Shelf[Row], account_id: int, number: int, *, lock: bool = False
) -> Row | None:
    """A resource by its number; with `lock` nobody else changes it until the transaction ends."""
    wanted = sa.select(*shelf.columns()).where(_is(shelf, account_id, number))
    row = connection.execute(wanted.with_for_update(of=shelf.table) if lock else wanted).one_or_none()
    return None if row is None else shelf.row(*row)


def add(connection: sa.Connection, shelf: Shelf[Row], account_id: int, values: Mapping[str, Any], now: datetime) -> int:
    """Keep a new resource; its number. Until the transaction ends nobody else adds one of the kind to the account."""
    number: int = connection.execute(
        sa.text(
            "INSERT INTO resource_numbers AS known (account_id, prefix, latest) VALUES (:account, :prefix, 1) "
            "ON CONFLICT (account_id, prefix) DO UPDATE SET latest = known.latest + 1 RETURNING latest"
        ),
        {"account": account_id, "prefix": shelf.prefix},
    ).scalar_one()
    placed = {**shelf.places(values), "account_id": account_id, "number": number, "created_at": now, "updated_at": now}
    connection.execute(sa.insert(shelf.table).values(placed))
    return number


def change(
    connection: sa.Connection,
    shelf: Shelf[Row],
    account_id: int,
    number: int,
    values: Mapping[str, Any],
    now: datetime,
) -> bool:
    """Put other values into a resource; False when there is none. Nobody else changes it until the transaction ends."""
    changed = connection.execute(
        sa.update(shelf.table).where(_is(shelf, account_id, number)).values({**shelf.places(values), "updated_at": now})
    )
    return bool(changed.rowcount)


def remove(connection: sa.Connection, shelf: Shelf[Row], account_id: int, number: int) -> bool:
    """Delete a resource; False when there is none."""
    return bool(connection.execute(sa.delete(shelf.table).where(_is(shelf, account_id, number))).rowcount)


def _is(shelf: Shelf[Row], account_id: int, number: int) -> sa.ColumnElement[bool]:
    return sa.and_(shelf.table.c.account_id == account_id, shelf.table.c.number == number)


def note_received(connection: sa.Connection, account_id: int, number: int, now: datetime) -> None:
    """Count an event that a listener has taken. It's OK to lose one in a crash, so nobody waits for the disk."""
    connection.execute(sa.text("SET LOCAL synchronous_commit = off"))
    connection.execute(
        sa.text(
            "UPDATE listeners SET received = received + 1, last_received_at = greatest(last_received_at, :now) "
            "WHERE account_id = :account AND number = :number"
        ),
        {"account": account_id, "number": number, "now": now},
    )
