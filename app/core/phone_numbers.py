"""Reads phone numbers as people and programs write them, into E.164."""

from __future__ import annotations

import re
from functools import lru_cache

import phonenumbers

from app.core.addresses import strip_phone

_MAX_LENGTH = 64
# No phone number is as large.
_TOO_LARGE = 10**_MAX_LENGTH
_PLAIN = re.compile(r"\+[0-9]+")
_DIGITS = re.compile(r"[0-9]+")
# WhatsApp writes Mexican mobile numbers with a 1 that is no part of the number.
_MEXICO_OF_WHATSAPP = re.compile(r"\+521(\d{10})\Z")


class UnusablePhone(Exception):
    """The text is no phone number; the message says what would be right."""


def read_phone(text: object, region: str | None = None) -> str:
    """The number in E.164; raises UnusablePhone.

    With a region (ISO 3166, such as IN) a number without a country code is one of that country, and whole numbers are read, too.
    """
    if region is not None and isinstance(text, int) and not isinstance(text, bool):
        text = str(text) if abs(text) < _TOO_LARGE else "0" * (_MAX_LENGTH + 1)
    if not isinstance(text, str):
        if isinstance(text, int | float) and not isinstance(text, bool):
            raise UnusablePhone('is a number; send it as text with the country code, such as "+915673412780"')
        raise UnusablePhone('must be text with the country code, such as "+915673412780"')
    if len(text) > _MAX_LENGTH:
        raise UnusablePhone("is longer than any phone number")
    number, error = _read(text, region)
    if number is None:
        raise UnusablePhone(error)
    return number


@lru_cache(maxsize=16_384)
def _read(text: str, region: str | None) -> tuple[str | None, str]:
    """The number in E.164 and "", or None and the error message."""
    if not _PLAIN.fullmatch(text):
        text = strip_phone(text)
    is_national = region is not None and _DIGITS.fullmatch(text) is not None
    if not text.startswith("+") and not is_national:
        return None, "must begin with + and the country code, such as +915673412780"
    if not is_national and not _PLAIN.fullmatch(text):
        return None, "may hold only the digits 0 to 9, spaces, dots, dashes and brackets after the +"
    try:
        number = phonenumbers.parse(_MEXICO_OF_WHATSAPP.sub(r"+52\1", text), region)
    except phonenumbers.NumberParseException:
        return None, "has no known country code, or no number behind it"
    reason = phonenumbers.is_possible_number_with_reason(number)
    if reason == phonenumbers.ValidationResult.TOO_SHORT:
        return None, "is too short for a number of that country"
    if reason == phonenumbers.ValidationResult.TOO_LONG:
        return None, "is too long for a number of that country"
    if is_national and reason == phonenumbers.ValidationResult.IS_POSSIBLE_LOCAL_ONLY:
        return None, "has no area code"
    if not phonenumbers.is_possible_number(number):
        return None, "is no possible number of that country"
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164), ""


def is_region(text: object) -> bool:
    """Whether a value is a country that has phone numbers of its own (ISO 3166, two upper-case letters)."""
    return isinstance(text, str) and text in phonenumbers.SUPPORTED_REGIONS
