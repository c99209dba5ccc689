"""Augments and their CSV files. Each change applies from the next event, because it raises the account's version.

All functions lock the augment's row first and the account's row last.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.core.errors import Problem, ProblemType
from app.core.exact_json import UNSTORABLE, line_and_column
from app.core.pacing import pause_if_due
from app.db import accounts, cxengage_resources
from app.db.audit import Change
from app.db.cxengage_resources import AUGMENTS, AugmentRow
from app.services import audit
from app.services.context import AppContext
from app.services.cxengage import crud

# Limits of a CSV file.
MAX_BYTES = 5 * 1024 * 1024
MAX_ROWS = 100_000
MAX_COLUMNS = 200
# Characters of a column's name or a lookup value.
MAX_LENGTH = 255
# Bytes of a row, which an event may get as a whole, and of all names of columns, which web processes keep in memory.
MAX_ROW_BYTES = 64 * 1024
MAX_HEADER_BYTES = 16 * 1024


def create_augment(context: AppContext, account_id: int, values: Mapping[str, Any]) -> AugmentRow:
    """Create an augment; one of the type `file` adds nothing until its file is uploaded. Raises Problem 422."""
    _check_type(values["type"], values)
    # Written always: the default of the column is for the rows that an earlier release writes.
    values = {"method": "POST", **values}
    with context.limits.changes.acquire(account_id), context.database.transaction() as connection:
        row = crud.insert(connection, account_id, AUGMENTS, values, context.clock())
        accounts.increment_version(connection, account_id)
        crud.record(connection, context, account_id, AUGMENTS, (None, row))
    return row


def change_augment(context: AppContext, account_id: int, name: str, changes: Mapping[str, Any]) -> AugmentRow:
    """Change an augment; raises Problem 404, or 422 for a value that its type does not allow."""
    with context.limits.changes.acquire(account_id), context.database.transaction() as connection:
        row = crud.find(connection, account_id, AUGMENTS, name)
        if changes.get("type", row.type) != row.type:
            raise Problem(
                ProblemType.VALIDATION_FAILED, f"type: cannot be changed from {row.type}; create another augment"
            )
        _check_type(row.type, {"url": row.url, **changes})
        if changes:
            cxengage_resources.update(connection, AUGMENTS, account_id, row.number, changes, context.clock())
            accounts.increment_version(connection, account_id)
        changed = crud.find(connection, account_id, AUGMENTS, name)
        crud.record(connection, context, account_id, AUGMENTS, (row, changed))
        return changed


def _check_type(kind: str, values: Mapping[str, Any]) -> None:
    """Raises Problem 422 for values that an augment of this type cannot have."""
    url = values.get("url")
    if kind == "file" and "method" in values:
        raise Problem(ProblemType.VALIDATION_FAILED, "method: is not allowed for an augment of the type file")
    if kind == "api" and url is None:
        raise Problem(ProblemType.VALIDATION_FAILED, "url: is required for an augment of the type api")
    if kind == "file" and url is not None:
        raise Problem(
            ProblemType.VALIDATION_FAILED, "url: is not allowed for an augment of the type file; post its CSV to …/file"
        )


def delete_augment(context: AppContext, account_id: int, name: str) -> None:
    """Delete an augment with its file; raises Problem 404."""
    with context.limits.changes.acquire(account_id), context.database.transaction() as connection:
        row = crud.find(connection, account_id, AUGMENTS, name)
        cxengage_resources.delete(connection, AUGMENTS, account_id, row.number)
        accounts.increment_version(connection, account_id)
        crud.record(connection, context, account_id, AUGMENTS, (row, None))


def put_file(context: AppContext, account_id: int, name: str, raw: bytes) -> AugmentRow:
    """Upload or replace the CSV file; raises Problem 404, or 422 with the number of the invalid line."""
    row = crud.find_resource(context, account_id, AUGMENTS, name)
    if row.type != "file":
        raise Problem(ProblemType.VALIDATION_FAILED, f"{name} is of the type {row.type}, which has no file")
    with context.limits.changes.acquire(account_id):
        try:
            file = read_csv(raw)
        except InvalidFile as exc:
            raise Problem(ProblemType.VALIDATION_FAILED, str(exc)) from None
        return _store_file(context, account_id, row, file, raw)


def _store_file(context: AppContext, account_id: int, row: AugmentRow, file: CsvFile, raw: bytes) -> AugmentRow:
    name = f"AU{row.number}"
    with context.database.transaction() as connection:
        if not cxengage_resources.lock_augment(connection, account_id, row.number):
            raise crud.not_found(AUGMENTS, name)
        cxengage_resources.replace_file(
            connection, account_id, row.number, file.columns, file.rows, len(raw), context.clock()
        )
        accounts.increment_version(connection, account_id)
        # The same file again is another upload.
        file_of = {"rows": len(file.rows), "file": audit.digest(raw)}
        audit.record(connection, context, Change("augment.put-file", account_id, name, None, file_of))
        return crud.find(connection, account_id, AUGMENTS, name)


def read_file(context: AppContext, account_id: int, name: str) -> bytes:
    """The file as CSV in UTF-8; raises Problem 404."""
    with context.database.transaction() as connection:
        row = crud.find(connection, account_id, AUGMENTS, name)
        if row.columns is None:
            raise Problem(ProblemType.NOT_FOUND, f"{name} has no file")
        return write_csv(row.columns, cxengage_resources.iterate_augment_rows(connection, account_id, row.number))


def delete_file(context: AppContext, account_id: int, name: str) -> None:
    """Delete the file; raises Problem 404."""
    with context.limits.changes.acquire(account_id), context.database.transaction() as connection:
        row = crud.find(connection, account_id, AUGMENTS, name, lock=True)
        if row.columns is None:
            raise Problem(ProblemType.NOT_FOUND, f"{name} has no file")
        cxengage_resources.delete_file(connection, account_id, row.number, context.clock())
        accounts.increment_version(connection, account_id)
        before = {"rows": row.rows, "bytes": row.bytes}
        audit.record(connection, context, Change("augment.delete-file", account_id, name, before))


# The CSV file. The first line names the columns. The first column holds the lookup values; the cells of the others are added
# to events. Several columns may have one name. Cells are text.


class InvalidFile(ValueError):
    """A file that cannot be used; the message names the line."""


@dataclass(frozen=True, slots=True)
class CsvFile:
    """The names of the columns; for each row the lookup value and the cells of the other columns."""

    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[str]]]


def read_csv(raw: bytes) -> CsvFile:
    """Parse a file; raises InvalidFile."""
    lines = _lines(_text(raw))
    columns = _columns(next(lines, (1, [])))
    rows: list[tuple[str, Sequence[str]]] = []
    seen: dict[str, int] = {}
    for number, cells in lines:
        if len(cells) != len(columns):
            raise InvalidFile(f"line {number}: has {len(cells)} cells for {len(columns)} columns")
        lookup, *others = cells
        if not 1 <= len(lookup) <= MAX_LENGTH:
            raise InvalidFile(
                f"line {number}: {columns[0]} has {len(lookup)} characters; 1 to {MAX_LENGTH} are allowed"
            )
        if (size := _size(cells)) > MAX_ROW_BYTES:
            raise InvalidFile(f"line {number}: has {size} bytes; at most {MAX_ROW_BYTES} are allowed")
        if lookup in seen:
            raise InvalidFile(f"line {number}: {columns[0]} {lookup[:80]!r} is already in line {seen[lookup]}")
        if len(rows) == MAX_ROWS:
            raise InvalidFile(f"line {number}: more than {MAX_ROWS} rows")
        seen[lookup] = number
        rows.append((lookup, others))
    return CsvFile(columns, rows)


def write_csv(columns: Sequence[str], rows: Iterable[tuple[str, Sequence[str]]]) -> bytes:
    """A file in UTF-8."""
    raw = io.BytesIO()
    with io.TextIOWrapper(raw, "utf-8", newline="", write_through=True) as text:
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([lookup, *cells] for lookup, cells in rows)
        return raw.getvalue()


def _text(raw: bytes) -> str:
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        line = raw.count(b"\n", 0, exc.start) + 1
        raise InvalidFile(f"line {line}: is not UTF-8: byte 0x{raw[exc.start]:02x}") from None
    if (found := UNSTORABLE.search(text)) is not None:
        raise InvalidFile(f"line {line_and_column(text, found.start())[0]}: contains a NUL character")
    return text


def _lines(text: str) -> Iterator[tuple[int, list[str]]]:
    """The rows that are not empty, each with the number of its first line."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    first = 1
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as exc:
            raise InvalidFile(f"line {first}: {_explained(str(exc))}") from None
        pause_if_due()
        if cells:
            yield first, cells
        first = reader.line_num + 1


def _explained(message: str) -> str:
    """A clearer text for an error message of the `csv` module."""
    if "unexpected end of data" in message:
        return "a quote is not closed"
    if "expected after" in message:
        return "a closing quote must be followed by a comma or the end of the line"
    if "field larger" in message:
        return f"a cell has more than {csv.field_size_limit()} characters"
    return message


def _columns(header: tuple[int, list[str]]) -> list[str]:
    number, names = header
    if not names:
        raise InvalidFile("line 1: the names of the columns are missing")
    if len(names) == 1:
        hint = " (columns are separated by commas)" if set(names[0]) & {";", "\t", "|"} else ""
        raise InvalidFile(f"line {number}: has one column; at least two are required, the first for lookup{hint}")
    if len(names) > MAX_COLUMNS:
        raise InvalidFile(f"line {number}: has {len(names)} columns; at most {MAX_COLUMNS} are allowed")
    for position, name in enumerate(names, 1):
        if not 1 <= len(name) <= MAX_LENGTH:
            message = f"the name of column {position} has {len(name)} characters"
            raise InvalidFile(f"line {number}: {message}; 1 to {MAX_LENGTH} are allowed")
    if (size := _size(names)) > MAX_HEADER_BYTES:
        message = f"the names of the columns have {size} bytes together"
        raise InvalidFile(f"line {number}: {message}; at most {MAX_HEADER_BYTES} are allowed")
    return names


def _size(cells: Sequence[str]) -> int:
    return len("".join(cells).encode())
