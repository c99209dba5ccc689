"""The metadata of all tables, and functions that shorten their definitions."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import TIMESTAMP

metadata = sa.MetaData(
    naming_convention={
        "pk": "%(table_name)s_pkey",
        "uq": "%(table_name)s_%(column_0_N_name)s_key",
        "fk": "%(table_name)s_%(column_0_N_name)s_fkey",
        "ck": "%(table_name)s_%(constraint_name)s_check",
    }
)
NOW = "now()"


def account_table(name: str, *parts: Any, **options: Any) -> sa.Table:
    """A table that begins with the column `account_id`."""
    return sa.Table(name, metadata, account_id(), *parts, **options)


def column(
    name: str, type_: Any, comment: str, *arguments: Any, null: bool = False, default: str | None = None
) -> sa.Column[Any]:
    """A column with a comment; NOT NULL unless `null`. `default` is SQL."""
    server_default = None if default is None else sa.text(default)
    return sa.Column(name, type_, *arguments, nullable=null, comment=comment, server_default=server_default)


def timestamp(name: str, comment: str, **options: Any) -> sa.Column[Any]:
    """A column of type timestamptz."""
    return column(name, TIMESTAMP(timezone=True), comment, **options)


def account_id() -> sa.Column[Any]:
    """The account that a row belongs to."""
    return column("account_id", sa.BigInteger, "the account that owns the row")


def index(name: str, *columns: str, where: str) -> sa.Index:
    """A partial index."""
    return sa.Index(name, *columns, postgresql_where=sa.text(where))
