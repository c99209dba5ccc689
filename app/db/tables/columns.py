"""The metadata of all tables, and the columns that they have in common."""

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
NOW = sa.text("now()")


def column(name: str, type_: Any, comment: str, *arguments: Any, null: bool = False, **options: Any) -> sa.Column[Any]:
    """A column with a comment; NOT NULL unless `null`."""
    return sa.Column(name, type_, *arguments, nullable=null, comment=comment, **options)


def timestamp(name: str, comment: str, **options: Any) -> sa.Column[Any]:
    """A column of type timestamptz."""
    return column(name, TIMESTAMP(timezone=True), comment, **options)


def account_id() -> sa.Column[Any]:
    """The column that most tables begin with."""
    return column("account_id", sa.BigInteger, "the account that owns the row")
