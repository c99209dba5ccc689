"""CxEngage's resources: patterns, templates, listeners and augments with their files, one table per kind.

Numbers are counted per account and kind and never reused: 1 is PT1, TM1, LI1 or AU1. A value whose name ends in `_json` is
JSON text of a `jsonb` column.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any, Generic, Protocol, TypeVar
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

from app.db.connection import array_literal, run_sql
from app.db.tables import cxengage_resources as tables
from app.db.tables.workflows import workflows


class Numbered(Protocol):
    """A row of any kind."""

    @property
    def number(self) -> int:
        """The number in its id."""


Row = TypeVar("Row", bound=Numbered)
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
    """Where a third party posts; `mapping` is from a field of the event to the dotted path of its value."""

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
    """A source of enrichment; `columns` is None until a file is uploaded."""

    number: int
    name: str
    description: str
    type: str
    url: str | None
    method: str
    attributes: list[str] | None
    in_options: bool
    columns: list[str] | None
    rows: int
    bytes: int


@dataclass(frozen=True, slots=True)
class ResourceKind(Generic[Row]):
    """One kind of resource: the prefix of its ids, its table, its row, and the row's `computed` fields."""

    prefix: str
    name: str
    table: sa.Table
    row: type[Row]
    computed: Mapping[str, sa.ColumnElement[Any]] = field(default_factory=dict)

    def columns(self) -> list[sa.ColumnElement[Any]]:
        """The columns of a row, in the order of its fields."""
        return [self._column(each.name) for each in fields(self.row)]  # type: ignore[arg-type]

    def _column(self, name: str) -> sa.ColumnElement[Any]:
        if name in self.computed:
            return self.computed[name]
        if name.endswith(_JSON):
            return self.table.c[name.removesuffix(_JSON)].cast(sa.Text)
        return self.table.c[name]

    def to_columns(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The values by column name."""
        return {
            name.removesuffix(_JSON): sa.cast(sa.literal(value, sa.Text), JSONB) if name.endswith(_JSON) else value
            for name, value in values.items()
        }


_IS_ENABLED = sa.exists().where(
    workflows.c.account_id == tables.patterns.c.account_id,
    workflows.c.id == tables.patterns.c.workflow_id,
    workflows.c.enabled_version.is_not(None),
)

PATTERNS = ResourceKind("PT", "pattern", tables.patterns, PatternRow, {"status": _IS_ENABLED})
TEMPLATES = ResourceKind("TM", "template", tables.templates, TemplateRow)
LISTENERS = ResourceKind("LI", "listener", tables.listeners, ListenerRow)
AUGMENTS = ResourceKind("AU", "augment", tables.augments, AugmentRow)


def list_after(
    connection: sa.Connection, kind: ResourceKind[Row], account_id: int, number: int, limit: int
) -> list[Row]:
    """At most `limit` resources of a kind that an account has: those after a number, in the order of their numbers."""
    table = kind.table
    is_after = sa.and_(table.c.account_id == account_id, table.c.number > number)
    rows = connection.execute(sa.select(*kind.columns()).where(is_after).order_by(table.c.number).limit(limit))
    return [kind.row(*row) for row in rows]


def find_enabled_patterns(connection: sa.Connection, account_id: int, text: str) -> list[int]:
    """The numbers of the patterns that are on and contain a text (without % and _)."""
    table = tables.patterns
    contains = sa.or_(*(table.c[name].contains(text) for name in ("when_text", "then_text", "code")))
    query = sa.select(table.c.number).where(table.c.account_id == account_id, _IS_ENABLED, contains)
    return list(connection.execute(query.order_by(table.c.number)).scalars())


def find_templates(connection: sa.Connection, account_id: int, wanted: Collection[int]) -> dict[int, str | None]:
    """The texts of the templates with the `wanted` numbers, and the numbers of all others with None."""
    rows = run_sql(
        connection,
        "SELECT number, CASE WHEN number = ANY (:wanted) THEN template END AS text FROM templates "
        "WHERE account_id = :account ORDER BY number",
        {"account": account_id, "wanted": list(wanted)},
    )
    return {row.number: row.text for row in rows}


def count_all(connection: sa.Connection, kind: ResourceKind[Row], account_id: int) -> int:
    """How many resources of a kind an account has."""
    table = kind.table
    counted: int = connection.execute(
        sa.select(sa.func.count()).select_from(table).where(table.c.account_id == account_id)
    ).scalar_one()
    return counted


def find(
    connection: sa.Connection, kind: ResourceKind[Row], account_id: int, number: int, *, lock: bool = False
) -> Row | None:
    """A resource by its number, or None; `lock` locks its row."""
    query = sa.select(*kind.columns()).where(_is(kind, account_id, number))
    row = connection.execute(query.with_for_update(of=kind.table) if lock else query).one_or_none()
    return None if row is None else kind.row(*row)


def insert(
    connection: sa.Connection, kind: ResourceKind[Row], account_id: int, values: Mapping[str, Any], now: datetime
) -> int:
    """Insert a resource and return its number. Serializes inserts of one kind in an account."""
    number: int = run_sql(
        connection,
        "INSERT INTO resource_numbers AS counter (account_id, prefix, latest) VALUES (:account, :prefix, 1) "
        "ON CONFLICT (account_id, prefix) DO UPDATE SET latest = counter.latest + 1 RETURNING latest",
        {"account": account_id, "prefix": kind.prefix},
    ).scalar_one()
    columns = {
        **kind.to_columns(values),
        "account_id": account_id,
        "number": number,
        "created_at": now,
        "updated_at": now,
    }
    connection.execute(sa.insert(kind.table).values(columns))
    return number


def update(
    connection: sa.Connection,
    kind: ResourceKind[Row],
    account_id: int,
    number: int,
    values: Mapping[str, Any],
    now: datetime,
) -> bool:
    """Change values of a resource; False when it does not exist."""
    updated = connection.execute(
        sa.update(kind.table)
        .where(_is(kind, account_id, number))
        .values({**kind.to_columns(values), "updated_at": now})
    )
    return bool(updated.rowcount)


def delete(connection: sa.Connection, kind: ResourceKind[Row], account_id: int, number: int) -> bool:
    """Delete a resource; False when it does not exist."""
    return bool(connection.execute(sa.delete(kind.table).where(_is(kind, account_id, number))).rowcount)


def _is(kind: ResourceKind[Row], account_id: int, number: int) -> sa.ColumnElement[bool]:
    return sa.and_(kind.table.c.account_id == account_id, kind.table.c.number == number)


def count_received(connection: sa.Connection, account_id: int, number: int, now: datetime) -> None:
    """Count an event of a listener. Losing one in a crash is OK, so the commit does not wait for the disk."""
    run_sql(connection, "SET LOCAL synchronous_commit = off")
    run_sql(
        connection,
        "UPDATE listeners SET received = received + 1, last_received_at = greatest(last_received_at, :now) "
        "WHERE account_id = :account AND number = :number",
        {"account": account_id, "number": number, "now": now},
    )


# Rows per statement: other greenlets run between two statements.
_BATCH = 1_000

# A lookup value and the cells of its row.
LookupRow = tuple[str, Sequence[str]]


def replace_file(
    connection: sa.Connection,
    account_id: int,
    number: int,
    columns: Sequence[str],
    rows: Sequence[LookupRow],
    size: int,
    now: datetime,
) -> None:
    """Replace the rows by those of a file of `size` bytes. The caller has locked the augment."""
    key = {"account": account_id, "number": number}
    run_sql(connection, "DELETE FROM augment_rows WHERE account_id = :account AND number = :number", key)
    for start in range(0, len(rows), _BATCH):
        batch = rows[start : start + _BATCH]
        run_sql(
            connection,
            "INSERT INTO augment_rows (account_id, number, lookup, position, cells) "
            "SELECT :account, :number, lookup, :start + nr, CAST(cells AS text[]) "
            "FROM unnest(CAST(:lookups AS text[]), CAST(:cells AS text[])) WITH ORDINALITY AS new (lookup, cells, nr)",
            {
                **key,
                "start": start,
                "lookups": [lookup for lookup, _ in batch],
                "cells": [array_literal(cells) for _, cells in batch],
            },
        )
    run_sql(
        connection,
        "UPDATE augments SET columns = :columns, rows = :rows, bytes = :bytes, upload = upload + 1, updated_at = :now "
        "WHERE account_id = :account AND number = :number",
        {**key, "columns": list(columns), "rows": len(rows), "bytes": size, "now": now},
    )


def delete_file(connection: sa.Connection, account_id: int, number: int, now: datetime) -> None:
    """Delete the file of an augment."""
    key = {"account": account_id, "number": number}
    run_sql(connection, "DELETE FROM augment_rows WHERE account_id = :account AND number = :number", key)
    run_sql(
        connection,
        "UPDATE augments SET columns = NULL, rows = 0, bytes = 0, updated_at = :now "
        "WHERE account_id = :account AND number = :number",
        {**key, "now": now},
    )


def lock_augment(connection: sa.Connection, account_id: int, number: int) -> str | None:
    """Lock an augment's row and return its type; None when it does not exist."""
    found: str | None = run_sql(
        connection,
        "SELECT type FROM augments WHERE account_id = :account AND number = :number FOR UPDATE",
        {"account": account_id, "number": number},
    ).scalar()
    return found


def find_augment_row(connection: sa.Connection, account_id: int, number: int, lookup: str) -> list[str] | None:
    """The cells of the row with this lookup value, or None."""
    cells: list[str] | None = run_sql(
        connection,
        "SELECT cells FROM augment_rows WHERE account_id = :account AND number = :number AND lookup = :lookup",
        {"account": account_id, "number": number, "lookup": lookup},
    ).scalar()
    return cells


def iterate_augment_rows(connection: sa.Connection, account_id: int, number: int) -> Iterator[LookupRow]:
    """All rows of a file, in file order; a batch of them is in memory."""
    rows = connection.execute(
        sa.text(
            "SELECT lookup, cells FROM augment_rows WHERE account_id = :account AND number = :number ORDER BY position"
        ),
        {"account": account_id, "number": number},
        execution_options={"yield_per": _BATCH},
    )
    for row in rows:
        yield row.lookup, row.cells
