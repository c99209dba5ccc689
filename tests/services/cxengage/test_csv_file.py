"""An augment's CSV file: columns and rows, or the line that is wrong."""

from __future__ import annotations

import pytest

from app.services.cxengage import csv_file
from app.services.cxengage.csv_file import BrokenFile, CsvFile, read_csv, write_csv


@pytest.mark.parametrize(
    ("raw", "columns", "rows"),
    [
        (b"id,twitter,github\n2000,ian,bishop\n", ["id", "twitter", "github"], [("2000", ["ian", "bishop"])]),
        (b"id,a\r\n1,x\r\n2,y", ["id", "a"], [("1", ["x"]), ("2", ["y"])]),
        (b"\xef\xbb\xbfid,a\n1,x\n", ["id", "a"], [("1", ["x"])]),
        (b"username,username\nian,not-ian\n", ["username", "username"], [("ian", ["not-ian"])]),
        (b'id,a\n1,"one, ""two""\nthree"\n', ["id", "a"], [("1", ['one, "two"\nthree'])]),
        (b"id,a\n\n1,\n\n", ["id", "a"], [("1", [""])]),
        ("id,näme\n1,日本\n".encode(), ["id", "näme"], [("1", ["日本"])]),
        (b"id,a\n", ["id", "a"], []),
        (b" id ,a\n 1 , x\n", [" id ", "a"], [(" 1 ", [" x"])]),
    ],
)
def test_a_file_is_read(raw: bytes, columns: list[str], rows: list[tuple[str, list[str]]]) -> None:
    file = read_csv(raw)
    assert (file.columns, file.rows) == (columns, rows)
    assert read_csv(write_csv(file).encode()) == file


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        (b"", "line 1: is missing"),
        (b"id\n1\n", "line 1: has one column"),
        (b"id;a\n1;x\n", "columns are separated by commas"),
        (b"id,\n1,x\n", "line 1: the name of column 2 has 0 characters"),
        (b"id,a\n1\n", "line 2: has 1 cells, and there are 2 columns"),
        (b"id,a\n1,x\n2,y,z\n", "line 3: has 3 cells"),
        (b'id,a\n1,"x\ny"\n2\n', "line 4: has 1 cells"),
        (b"id,a\n,x\n", "line 2: id has 0 characters; it has to have 1 to 255"),
        (b"id,a\n" + b"9" * 256 + b",x\n", "line 2: id has 256 characters"),
        (b"id,a\n1,x\n2,y\n1,z\n", "line 4: id '1' is in line 2 already"),
        (b'id,a\n1,x\n2,"y\n3,z\n', "line 3: a quote is opened and never closed"),
        (b'id,a\n1,"x"y\n', "line 2: after a closing quote there has to be a comma"),
        (b"id,a\n1,\xe4\n", "line 2: is not UTF-8: byte 0xe4"),
        (b"id,a\n1,x\n2,\x00\n", "line 3: contains a NUL character"),
        (b"id,a\n1," + b"x" * 200_000 + b"\n", "line 2: a cell has more than 131072 characters"),
        (b"id" + b",a" * 200 + b"\n", "line 1: has 201 columns; there may be 200"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(raw: bytes, told: str) -> None:
    with pytest.raises(BrokenFile) as wrong:
        read_csv(raw)
    assert told in str(wrong.value)


def test_a_file_has_an_end() -> None:
    rows = "".join(f"{number},x\n" for number in range(csv_file.MOST_ROWS))
    assert len(read_csv(f"id,a\n{rows}".encode()).rows) == csv_file.MOST_ROWS
    with pytest.raises(BrokenFile, match="line 100002: there may be 100000 rows"):
        read_csv(f"id,a\n{rows}last,x\n".encode())


def test_cells_stay_text() -> None:
    assert read_csv(b"id,zip,price\n1,01234,5.10\n") == CsvFile(["id", "zip", "price"], [("1", ["01234", "5.10"])])
