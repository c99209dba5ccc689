"""One text is one address, or none."""

from __future__ import annotations

import pytest

from app.core.addresses import read_email, read_phone


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("+915673412780", "+915673412780"),
        ("915673412780", "+915673412780"),
        (" +91 (56) 734-12.780 ", "+915673412780"),
        ("+91 5673412780.0", "+915673412780"),
        ("\u202a(+91)\u00a056734\u201112780\u202c", "+915673412780"),
        ("+91 (0) 98765 43210", "+919876543210"),
        ("91(0)9876543210", "+919876543210"),
        ("+5215512345678", "+525512345678"),
        ("5215512345678", "+525512345678"),
        ("+91\u200e 56734\u2212\uff0812780\uff09", "+915673412780"),
    ],
)
def test_a_phone_number_becomes_e164(text: str, number: str) -> None:
    assert read_phone(text) == number


@pytest.mark.parametrize(
    "text",
    [
        "",
        "abc",
        "+1234567",
        "00919876543210",
        "+99912345678",
        "9" * 65,
        "+1",
        "0123456789",
        "+1234567890123456",
        "+91567341278O",
        "+٣٣٣٣٣٣٣٣",
        "1,2",
    ],
)
def test_what_is_no_phone_number_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="phone number"):
        read_phone(text)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("jane@example.com", "jane@example.com"),
        (" jane.doe+x@mail.example.com ", "jane.doe+x@mail.example.com"),
        ("Jane Doe <jane@example.com>", "Jane Doe <jane@example.com>"),
        ('"Doe, Jane" <jane@example.com>', '"Doe, Jane" <jane@example.com>'),
        ("Doe, Jane <jane@example.com>", '"Doe, Jane" <jane@example.com>'),
        ("<jane@example.com>", "jane@example.com"),
        ("jane@bücher.example", "jane@xn--bcher-kva.example"),
    ],
)
def test_an_e_mail_address_is_read(text: str, address: str) -> None:
    assert str(read_email(text)) == address


@pytest.mark.parametrize(
    "text",
    [
        *("", "jane", "jane@", "@example.com", "jane@example", "jane@-example.com", "jane@example..com"),
        *("jane doe@example.com", ".jane@example.com", "ja..ne@example.com", "jané@example.com"),
        *("a@example.com, b@example.com", "a@example.com;b@example.com", "a@example.com b@example.com"),
        *("x <a@example.com> <b@example.com>", "<a@example.com>, b@example.com", "x: a@example.com;"),
        *("a@example.com\r\nBcc: b@example.com", "Jane\n<a@example.com>", "a@example.com\x00", "a@exam\u2028ple.com"),
        *("a" * 65 + "@example.com", "a@" + "b" * 64 + ".com", "a@" + "b." * 130 + "com", "x" * 300 + " <a@b.com>"),
        *("a@[127.0.0.1]", '"a b"@example.com', "a@1.2.3.4"),
    ],
)
def test_what_is_not_one_e_mail_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"e-mail address|control characters"):
        read_email(text)
