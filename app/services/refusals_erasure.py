"""Erases what refusals have of a data subject.

Bodies may be invalid JSON, and only the settings of an account tell where a body names its subject: the texts of all refusals of
the account are searched, a few at a time.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from typing import Any
from uuid import UUID

import msgspec
import phonenumbers
import sqlalchemy as sa

from app.core.addresses import strip_phone
from app.core.errors import Problem
from app.core.gzip_body import unpack
from app.db import refusals
from app.db.erasure_texts import Page
from app.db.refusals import RefusalTexts
from app.services.context import AppContext

# Bodies in memory at a time: a compressed one may have megabytes.
_BATCH = 20
# A shorter subject, such as 1, is only found as a JSON text and as the number of its field.
_MIN_LENGTH = 5
_MIN_PHONE_DIGITS, _MAX_PHONE_DIGITS = 7, 15
_ESCAPED = re.compile(r"\\u([0-9A-Fa-f]{4})")
_ESCAPED_CHARACTER = re.compile(r'\\(["\\/bfnrt])')
_WHITE_SPACE = dict.fromkeys("bfnrt", " ")
_OTHER_DIGIT = re.compile(r"[^\D0-9]")
# What people and programs write between the digits of a phone number: white space, dashes, dots, brackets, slashes, invisible
# marks. Possessive, so that the time stays linear.
_BETWEEN_DIGITS = (
    r"[\s./()\[\]\-\u2010-\u2015\u2212\ufe58\ufe63\uff0d\uff0e\uff08\uff09\uff3b\uff3d"
    r"\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff\u00ad]*+"
)
# What is written instead of the country code, or behind it, where that is no 0: in Russia, Hungary, Mexico (by WhatsApp),
# Lithuania and Belarus.
_PREFIXES = {7: "8", 36: "06", 52: "1", 370: "8", 375: "8"}
_BATCH_ROUTE = "/api/v1/cvf-events/batch"
_raw_items = msgspec.json.Decoder(list[msgspec.Raw])

# The items of a batch that stay, with their texts.
Items = list[tuple[Mapping[str, Any], bytes]]


def erase_refusals_page(
    connection: sa.Connection, context: AppContext, account_id: int, mentions: Mentions, after: UUID | None
) -> Page:
    """Of a page of an account's refusals after one (None: from the oldest), delete those that mention a subject, or whose body
    cannot be read; of a batch only the items that do."""
    rows = refusals.find_texts_after(connection, account_id, after, _BATCH)
    erased = sum(_erase(context, connection, account_id, row, mentions) for row in rows)
    return Page(rows[-1].id if len(rows) == _BATCH else None, erased)


def _erase(
    context: AppContext, connection: sa.Connection, account_id: int, row: RefusalTexts, mentions: Mentions
) -> bool:
    """Erase what a refusal has of the subject; whether it had anything."""
    body = _readable(row, context.settings.max_batch_unpacked_bytes)
    is_explained = mentions.are_in(row.explanation)
    if body is not None and not is_explained and not mentions.are_in(body.decode(errors="replace")):
        return False
    items = None if body is None or is_explained else _items_of_others(row, body, mentions)
    if not items:
        refusals.delete_refusals(connection, account_id, [row.id])
        return True
    texts, kept, start = [], [], 0
    for item, text in items:
        kept.append({**item, "start": start, "bytes": len(text)})
        texts.append(text)
        start += len(text) + 1
    body = b"\n".join(texts)
    items_json = json.dumps(kept, ensure_ascii=False)
    refusals.replace_body(connection, account_id, row.id, items_json, zlib.compress(body, 1), len(body))
    return True


def _readable(row: RefusalTexts, limit: int) -> bytes | None:
    """The body of a refusal, unpacked; None for one that cannot be read."""
    if row.content_encoding is None or not row.body:
        return row.body or b""
    if row.content_encoding != "gzip":
        return None
    try:
        return unpack(row.body, limit)
    except Problem:
        return None


def _items_of_others(row: RefusalTexts, body: bytes, mentions: Mentions) -> Items | None:
    """The items of a batch that do not mention the subject; None where it is not clear which of them does."""
    if row.route != _BATCH_ROUTE or not row.replayable:
        return None
    if row.items is not None:
        items: Items = [(one, body[one["start"] : one["start"] + one["bytes"]]) for one in row.items]
    else:
        whole = {"type": row.type, "detail": row.detail, "errors": None}
        items = [({"index": index, **whole}, text) for index, text in enumerate(_split(body))]
    others = [(item, text) for item, text in items if not mentions.are_in(text.decode(errors="replace"))]
    return others if len(others) < len(items) else None


def _split(body: bytes) -> list[bytes]:
    """The items of a batch that was refused as a whole; none for an array that is no JSON."""
    if not body.lstrip().startswith(b"["):
        return [line for line in body.split(b"\n") if line.strip()]
    try:
        return [bytes(item) for item in _raw_items.decode(body)]
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return []


class Mentions:
    """Finds a subject, as a text or as a number, in texts that may be broken JSON; and its phone numbers, however they are
    written, with or without the country code."""

    def __init__(self, subject: str, phones: Collection[str], names: Collection[str]) -> None:
        text = re.escape(subject)
        if len(subject) >= _MIN_LENGTH:
            self._subject = re.compile(rf"(?<!\w){text}(?!\w)")
        else:
            known = "|".join(re.escape(name) for name in names)
            self._subject = re.compile(rf'"{text}"|"(?:{known})"\s*:\s*{text}(?![\w.])')
        numbers = sorted({digits for phone in (*phones, subject) for digits in _phone_digits(phone)})
        digits = "|".join(map(_BETWEEN_DIGITS.join, numbers))
        self._phone = re.compile(rf"(?<!\d)0{{0,2}}(?:{digits})(?!\d)") if digits else None

    def are_in(self, text: str) -> bool:
        """Whether a text mentions the subject."""
        if "\\" in text:
            text = _without_escapes(text)
        if self._subject.search(text):
            return True
        if self._phone is None:
            return False
        if not text.isascii():
            text = _OTHER_DIGIT.sub(lambda found: str(int(found[0])), text)
        return self._phone.search(text) is not None


def _without_escapes(text: str) -> str:
    """A JSON text with the characters that its escapes stand for."""
    text = _ESCAPED.sub(lambda found: chr(int(found[1], 16)), text)
    text = _ESCAPED_CHARACTER.sub(lambda found: _WHITE_SPACE.get(found[1], found[1]), text)
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _phone_digits(text: str) -> Iterator[str]:
    """The digits of a phone number, also without its country code, and with the prefix that people write instead of it or behind
    it; nothing for another text."""
    digits = strip_phone(text).removeprefix("+")
    if not (_MIN_PHONE_DIGITS <= len(digits) <= _MAX_PHONE_DIGITS and digits.isascii() and digits.isdigit()):
        return
    yield digits
    with suppress(phonenumbers.NumberParseException):
        number = phonenumbers.parse(f"+{digits}")
        national, code = str(number.national_number), number.country_code
        if len(national) >= _MIN_PHONE_DIGITS:
            prefix = _PREFIXES.get(code or 0, "0")
            yield from (national, f"{prefix}{national}", f"{code}{prefix}{national}")
