"""The CSV file of an augment becomes columns and rows, or a sentence that says what is wrong in which line. Pure.

The first line names the columns. The first column is what is looked up, the others are added to the event; of columns that
have the same name the later one counts, and all of them are kept. Cells are text.
"""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

LARGEST = 5 * 1024 * 1024
MOST_ROWS = 100_000
MOST_COLUMNS = 200
# A name, and a value that is looked up, as of events' names and subjects.
LONGEST = 255
# After so many rows others have their turn.
_TURN = 1_000


class BrokenFile(ValueError):
    """What is wrong with a file, for people."""


@dataclass(frozen=True, slots=True)
class CsvFile:
    """Names of the columns, and for each row the value that is looked up with the cells of the other columns."""

    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[str]]]


def read_csv(raw: bytes) -> CsvFile:
    """Read a file; raises BrokenFile."""
    lines = _lines(_text(raw))
    columns = _columns(next(lines, (1, [])))
    rows: list[tuple[str, Sequence[str]]] = []
    seen: dict[str, int] = {}
    for number, cells in lines:
        if len(cells) != len(columns):
            raise BrokenFile(f"line {number}: has {len(cells)} cells, and there are {len(columns)} columns")
        lookup, *others = cells
        if not 1 <= len(lookup) <= LONGEST:
            raise BrokenFile(f"line {number}: {columns[0]} has {len(lookup)} characters; it has to have 1 to {LONGEST}")
        if lookup in seen:
            raise BrokenFile(f"line {number}: {columns[0]} {lookup[:80]!r} is in line {seen[lookup]} already")
        if len(rows) == MOST_ROWS:
            raise BrokenFile(f"line {number}: there may be {MOST_ROWS} rows")
        seen[lookup] = number
        rows.append((lookup, others))
        if len(rows) % _TURN == 0:
            time.sleep(0)
    return CsvFile(columns, rows)


def write_csv(file: CsvFile) -> str:
    """The file as text."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(file.columns)
    writer.writerows([lookup, *cells] for lookup, cells in file.rows)
    return text.getvalue()


def _text(raw: bytes) -> str:
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as wrong:
        line = raw.count(b"\n", 0, wrong.start) + 1
        raise BrokenFile(f"line {line}: is not UTF-8: byte 0x{raw[wrong.start]:02x}") from None
    if "\x00" in text:
        raise BrokenFile(f"line {text.count(chr(10), 0, text.index(chr(0))) + 1}: contains a NUL character")
    return text


def _lines(text: str) -> Iterator[tuple[int, list[str]]]:
    """The lines that are not empty, with the number of the line that each begins in."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    began = 1
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as wrong:
            raise BrokenFile(f"line {began}: {_said(str(wrong))}") from None
        if cells:
            yield began, cells
        began = reader.line_num + 1


def _said(wrong: str) -> str:
    """What the library says, in words that help."""
    if "unexpected end of data" in wrong:
        return "a quote is opened and never closed"
    if "expected after" in wrong:
        return "after a closing quote there has to be a comma or the end of the line"
    if "field larger" in wrong:
        return f"a cell has more than {csv.field_size_limit()} characters"
    return wrong


def _columns(first: tuple[int, list[str]]) -> list[str]:
    number, names = first
    if not names:
        raise BrokenFile("line 1: is missing: the names of the columns")
    if len(names) == 1:
        hint = " (columns are separated by commas)" if set(names[0]) & {";", "\t", "|"} else ""
        raise BrokenFile(f"line {number}: has one column; there have to be a first one to look up, and others{hint}")
    if len(names) > MOST_COLUMNS:
        raise BrokenFile(f"line {number}: has {len(names)} columns; there may be {MOST_COLUMNS}")
    for place, name in enumerate(names, 1):
        if not 1 <= len(name) <= LONGEST:
            told = f"the name of column {place} has {len(name)} characters"
            raise BrokenFile(f"line {number}: {told}; it has to have 1 to {LONGEST}")
    return names
