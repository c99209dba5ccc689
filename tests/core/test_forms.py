"""Forms are read in pieces, and give the same fields as the standard library's parser."""

from __future__ import annotations

from contextlib import suppress
from urllib.parse import parse_qsl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core import forms
from app.core.forms import MULTIPART, URLENCODED, FormFile, UnreadableForm, read_form, read_urlencoded

TYPE = f"{MULTIPART}; boundary=xx"


def a_part(name: str, content: bytes, *headers: str, filename: str | None = None) -> bytes:
    file = "" if filename is None else f'; filename="{filename}"'
    lines = [f'Content-Disposition: form-data; name="{name}"{file}', *headers]
    return b"--xx\r\n" + "\r\n".join(lines).encode() + b"\r\n\r\n" + content + b"\r\n"


def a_form(*parts: bytes) -> bytes:
    return b"".join(parts) + b"--xx--\r\n"


@given(st.text("a%4é1=&+;C3A9 ", max_size=200), st.integers(3, 12))
def test_an_urlencoded_form_has_the_fields_of_the_standard_library(text: str, piece: int) -> None:
    whole = forms._PIECE
    forms._PIECE = piece
    try:
        assert read_urlencoded(text.encode()) == parse_qsl(text, keep_blank_values=True)
    finally:
        forms._PIECE = whole


def test_an_urlencoded_value_of_megabytes_is_read() -> None:
    assert read_urlencoded(b"a=" + b"%C3%A9" * 300_000 + b"%zz") == [("a", "é" * 300_000 + "%zz")]


def test_parts_are_fields_and_files_without_contents() -> None:
    body = a_form(
        a_part("from", b"Asha <asha@example.com>"),
        a_part("text", "café\r\n--x\r\n".encode(), "Content-Type: text/plain; charset=utf-8"),
        a_part("invoice", b"\x00" * 200_000, "Content-Type: application/pdf", filename="a.pdf"),
        a_part("from", b""),
    )
    assert read_form(body, TYPE) == [
        ("from", "Asha <asha@example.com>"),
        ("text", "café\r\n--x\r\n"),
        ("invoice", FormFile("a.pdf", "application/pdf", 200_000)),
        ("from", ""),
    ]


@pytest.mark.parametrize("size", [0, 1, 65_530, 65_536, 300_000])
def test_a_part_has_all_its_bytes_wherever_it_is_cut(size: int) -> None:
    content = (b"\r\n-" * size)[:size]
    assert read_form(a_form(a_part("a", content), a_part("b", b"1")), TYPE) == [("a", content.decode()), ("b", "1")]


@pytest.mark.parametrize(
    ("body", "content_type", "message"),
    [
        (b"", MULTIPART, "its media type has no boundary"),
        (b"", TYPE, "it ends before its last boundary"),
        (a_part("a", b"1"), TYPE, "it ends before its last boundary"),
        (b"--xx\r\nContent-Type: text/plain\r\n\r\n1\r\n--xx--", TYPE, "its parts cannot be read: Missing"),
        (
            b"--xx\r\nA: " + b"x" * 1_000_000,
            TYPE,
            "it has more than 10,000 fields, or headers of more than 262144 bytes",
        ),
        (a_form(*[a_part("a", b"")] * 10_001), TYPE, "it has more than 10,000 fields"),
        (b"&" * 10_000, URLENCODED, "it has more than 10,000 fields"),
    ],
    ids=["no boundary", "empty", "cut off", "no name", "headers", "parts", "fields"],
)
def test_a_form_that_cannot_be_read_says_why(body: bytes, content_type: str, message: str) -> None:
    with pytest.raises(UnreadableForm) as raised:
        read_form(body, content_type)
    assert str(raised.value).startswith(message)


@given(
    st.binary(max_size=300), st.sampled_from([b"", b"--xx\r\n", a_part("a", b"1"), b"--xx\r\nContent-Disposition: "])
)
def test_nothing_that_is_sent_raises_another_error(body: bytes, start: bytes) -> None:
    for text in (start + body, a_form(a_part("a", body))):
        with suppress(UnreadableForm):
            read_form(text, TYPE)
