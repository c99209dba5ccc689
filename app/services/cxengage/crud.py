"""What all CxEngage resources share: they are inserted, listed, and found by ids such as `TM1`.

The error for another account's id is the same as for an id that does not exist.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, TypeVar

import sqlalchemy as sa

from app.core.errors import Problem, ProblemType
from app.db import cxengage_resources
from app.db.audit import Change
from app.db.cxengage_resources import AUGMENTS, ResourceKind
from app.services import audit
from app.services.context import AppContext

# Resources of an account. Every event of an account looks at all of its augments.
MAX_PER_KIND = 1_000
MAX_AUGMENTS = 100
# Bytes of the JSON of a list, or of a page of one.
MAX_LIST_BYTES = 5 * 1024 * 1024
# Rows that are read at a time.
_BATCH = 25
_NUMBER = re.compile(r"[1-9][0-9]{0,8}", re.ASCII)
Row = TypeVar("Row", bound=cxengage_resources.Numbered)


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a list: resources as JSON texts, and the id of the last one if more follow."""

    texts: list[bytes]
    last: str | None


def list_page(
    context: AppContext,
    account_id: int,
    kind: ResourceKind[Row],
    encode: Callable[[Row], bytes],
    *,
    after: str | None = None,
    limit: int = MAX_PER_KIND,
) -> Page:
    """The resources of a kind after an id (None: from the first), encoded: at most `limit`, and at most MAX_LIST_BYTES. Reads a
    few rows at a time. Raises Problem 422 for an id that the kind cannot have."""
    number = 0 if after is None else number_of(kind, after)
    if number is None:
        raise Problem(ProblemType.VALIDATION_FAILED, f"after: must be an id such as {kind.prefix}1")
    texts: list[bytes] = []
    size = 0
    with context.database.transaction() as connection:
        while rows := cxengage_resources.list_after(connection, kind, account_id, number, _BATCH):
            for row in rows:
                text = encode(row)
                size += len(text) + 1
                if len(texts) == limit or (texts and size > MAX_LIST_BYTES):
                    return Page(texts, f"{kind.prefix}{number}")
                texts.append(text)
                number = row.number
    return Page(texts, None)


def find_resource(context: AppContext, account_id: int, kind: ResourceKind[Row], name: str) -> Row:
    """A resource by its id; raises Problem 404."""
    with context.database.transaction() as connection:
        return find(connection, account_id, kind, name)


def find(connection: sa.Connection, account_id: int, kind: ResourceKind[Row], name: str, *, lock: bool = False) -> Row:
    """A resource by its id, within an open transaction; `lock` locks its row. Raises Problem 404."""
    number = number_of(kind, name)
    found = None if number is None else cxengage_resources.find(connection, kind, account_id, number, lock=lock)
    if found is None:
        raise not_found(kind, name)
    return found


def number_of(kind: ResourceKind[Any], name: str) -> int | None:
    """The number in an id; None for an id that the kind cannot have."""
    digits = name.removeprefix(kind.prefix)
    return int(digits) if digits != name and _NUMBER.fullmatch(digits) else None


def not_found(kind: ResourceKind[Any], name: str) -> Problem:
    """The 404 for an id that does not exist."""
    return Problem(ProblemType.NOT_FOUND, f"there is no {kind.name} {name[:40]}")


def insert(
    connection: sa.Connection, account_id: int, kind: ResourceKind[Row], values: Mapping[str, Any], now: datetime
) -> Row:
    """Insert a resource; raises Problem 422 when the account has the maximum number of its kind."""
    maximum = MAX_AUGMENTS if kind.prefix == AUGMENTS.prefix else MAX_PER_KIND
    if cxengage_resources.count_all(connection, kind, account_id) >= maximum:
        raise Problem(
            ProblemType.VALIDATION_FAILED, f"there are {maximum} {kind.name}s, the maximum; delete some first"
        )
    number = cxengage_resources.insert(connection, kind, account_id, values, now)
    return find(connection, account_id, kind, f"{kind.prefix}{number}")


# Texts that may contain credentials, by column: the audit log has their hash and length.
_DIGESTED = frozenset({"when_text", "then_text", "code", "template", "options_json", "more_json", "columns"})
# What is no part of the configuration.
_NOT_RECORDED = frozenset({"number", "workflow_id", "received", "last_received_at"})


def record(
    connection: sa.Connection,
    context: AppContext,
    account_id: int,
    kind: ResourceKind[Row],
    change: tuple[Row | None, Row | None],
) -> None:
    """Record the creation (before: None), change or deletion (after: None) of a resource, unless nothing has changed."""
    old, new = change
    before, after = audit.differences(_recorded(old), _recorded(new))
    known = old or new
    if known is None or not (before or after):
        return
    verb = "create" if old is None else "delete" if new is None else "change"
    name = f"{kind.prefix}{known.number}"
    audit.record(connection, context, Change(f"{kind.name}.{verb}", account_id, name, before, after))


def _recorded(row: Any) -> dict[str, Any]:
    """The members of a resource that the audit log may have."""
    members = {} if row is None else asdict(row)
    return {
        name: audit.digest(str(value)) if name in _DIGESTED else value
        for name, value in members.items()
        if value is not None and name not in _NOT_RECORDED
    }
