"""The CSV file of an augment: its columns and rows, or the invalid line."""

from __future__ import annotations

import pytest

from app.services.cxengage import augments
from app.services.cxengage.augments import CsvFile, InvalidFile, read_csv, write_csv


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
def test_a_file_is_parsed(raw: bytes, columns: list[str], rows: list[tuple[str, list[str]]]) -> None:
    file = read_csv(raw)
    assert (file.columns, file.rows) == (columns, rows)
    assert read_csv(write_csv(file.columns, file.rows)) == file


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "line 1: the names of the columns are missing"),
        (b"id\n1\n", "line 1: has one column"),
        (b"id;a\n1;x\n", "columns are separated by commas"),
        (b"id,\n1,x\n", "line 1: the name of column 2 has 0 characters"),
        (b"id,a\n1\n", "line 2: has 1 cells for 2 columns"),
        (b"id,a\n1,x\n2,y,z\n", "line 3: has 3 cells"),
        (b'id,a\n1,"x\ny"\n2\n', "line 4: has 1 cells"),
        (b"id,a\n,x\n", "line 2: id has 0 characters; 1 to 255 are allowed"),
        (b"id,a\n" + b"9" * 256 + b",x\n", "line 2: id has 256 characters"),
        (b"id,a\n1,x\n2,y\n1,z\n", "line 4: id '1' is already in line 2"),
        (b'id,a\n1,x\n2,"y\n3,z\n', "line 3: a quote is not closed"),
        (b'id,a\n1,"x"y\n', "line 2: a closing quote must be followed by a comma"),
        (b"id,a\n1,\xe4\n", "line 2: is not UTF-8: byte 0xe4"),
        (b"id,a\n1,x\n2,\x00\n", "line 3: contains a NUL character"),
        (b"id,a\n1," + b"x" * 200_000 + b"\n", "line 2: a cell has more than 131072 characters"),
        (b"id" + b",a" * 200 + b"\n", "line 1: has 201 columns; at most 200"),
    ],
)
def test_an_invalid_file_is_refused_with_the_line(raw: bytes, message: str) -> None:
    with pytest.raises(InvalidFile) as error:
        read_csv(raw)
    assert message in str(error.value)


def test_a_file_has_a_maximum_number_of_rows() -> None:
    rows = "".join(f"{number},x\n" for number in range(augments.MAX_ROWS))
    assert len(read_csv(f"id,a\n{rows}".encode()).rows) == augments.MAX_ROWS
    with pytest.raises(InvalidFile, match="line 100002: more than 100000 rows"):
        read_csv(f"id,a\n{rows}last,x\n".encode())


def test_cells_are_text() -> None:
    assert read_csv(b"id,zip,price\n1,01234,5.10\n") == CsvFile(["id", "zip", "price"], [("1", ["01234", "5.10"])])
