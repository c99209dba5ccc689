"""Reads the phone numbers and e-mail addresses that messages are sent to. Raises ValueError.

A text is exactly one address. A text that contains several is refused, so that event data cannot add a recipient.
"""

from __future__ import annotations

import re
import unicodedata
from email.headerregistry import Address

# Around the digits of a phone number, besides white space and these categories of Unicode: dashes, and marks without a shape,
# such as those of the writing direction. The minus sign is no dash in Unicode.
_PUNCTUATION = frozenset(".()[]\uff0e\uff08\uff09\uff3b\uff3d\u2212")
_DASH_OR_INVISIBLE = ("Pd", "Cf")
_SPREADSHEET = re.compile(r"(?<=\d{4})\.0\s*\Z", re.ASCII)
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_NAMED = re.compile(r"(?P<name>[^<>]*)<(?P<address>[^<>]*)>")
_LOCAL = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*")
_DOMAIN = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])")
_MAX_EMAIL, _MAX_LOCAL, _MAX_NAME = 254, 64, 200


def strip_phone(text: str) -> str:
    """A phone number without what people and programs write around its digits: white space, brackets, dots, dashes, invisible
    marks, and the `.0` of a spreadsheet that took it for a number."""
    return "".join(
        character
        for character in _SPREADSHEET.sub("", text)
        if not character.isspace()
        and character not in _PUNCTUATION
        and unicodedata.category(character) not in _DASH_OR_INVISIBLE
    )


def read_phone(text: str) -> str:
    """The phone number of a recipient in E.164, by the rules for the phone of an event; the `+` may be missing."""
    # The import is slow, and few commands need it.
    from app.core.phone_numbers import UnusablePhone
    from app.core.phone_numbers import read_phone as read_number

    try:
        return read_number(text if strip_phone(text).startswith("+") else f"+{text}")
    except UnusablePhone as exc:
        raise ValueError(f"{_shown(text)} is not a phone number with its country code: it {exc}") from None


def read_email(text: str) -> Address:
    """An e-mail address, `jane@example.com` or `Jane Doe <jane@example.com>`; its domain in ASCII."""
    text = text.strip()
    if _UNPRINTABLE.search(text):
        raise ValueError(f"{_shown(text)} contains line breaks or control characters")
    match = _NAMED.fullmatch(text)
    name, address = (match["name"], match["address"]) if match else ("", text)
    local, at, domain = address.strip().rpartition("@")
    domain = _in_ascii(domain)
    if (
        not at
        or len(local) > _MAX_LOCAL
        or len(local) + len(domain) >= _MAX_EMAIL
        or len(name) > _MAX_NAME
        or not _LOCAL.fullmatch(local)
        or not _DOMAIN.fullmatch(domain)
    ):
        raise ValueError(
            f"{_shown(text)} is not one e-mail address such as jane@example.com or Jane <jane@example.com>"
        )
    return Address(display_name=name.strip().removeprefix('"').removesuffix('"'), username=local, domain=domain)


def _in_ascii(domain: str) -> str:
    try:
        return domain if domain.isascii() else domain.encode("idna").decode()
    except UnicodeError:
        return ""


def _shown(text: str) -> str:
    return repr(text[:100]) if text.strip() else "the text is empty and"
