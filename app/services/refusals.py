"""Use cases for refusals: list and show them, and erase those that name a data subject."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from contextlib import suppress
from uuid import UUID

import phonenumbers

from app.core.addresses import strip_phone
from app.core.errors import Problem, ProblemType
from app.core.gzip_body import unpack
from app.db import accounts, inspection, refusals
from app.db.refusals import RefusalFilter, RefusalRow, RefusalTexts
from app.services.context import AppContext

# Bodies in memory at a time: a compressed one may have megabytes.
_BATCH = 20
# A shorter subject, such as 1, is only found as a JSON text and as the number of its field.
_MIN_LENGTH = 5
_MIN_PHONE_DIGITS, _MAX_PHONE_DIGITS = 7, 15
_ESCAPED = re.compile(r"\\u([0-9A-Fa-f]{4})")
_ESCAPED_CHARACTER = re.compile(r'\\(["\\/])')
# What people and programs write between the digits of a phone number: white space, dashes, dots, brackets, invisible marks.
_AROUND_DIGITS = re.compile(
    r"[\s.()\[\]\-\u2010-\u2015\u2212\ufe58\ufe63\uff0d\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff\u00ad]+"
)


def find_latest_refusals(context: AppContext, account_id: int, wanted: RefusalFilter, limit: int) -> list[RefusalRow]:
    """The refusals of an account that pass the filter, newest first."""
    with context.database.transaction() as connection:
        inspection.allow_slow_statements(connection)
        return refusals.find_latest_refusals(connection, account_id, wanted, limit)


def find_owners_of_refusal(context: AppContext, refusal_id: UUID) -> list[int]:
    """The ids of the accounts that have a refusal of this id; almost always none or one."""
    with context.database.transaction() as connection:
        return refusals.find_accounts_with_refusal(connection, refusal_id)


def find_refusal(context: AppContext, account_id: int, refusal_id: UUID) -> RefusalRow:
    """A refusal; raises Problem 404."""
    with context.database.transaction() as connection:
        found = refusals.find_refusal(connection, account_id, refusal_id)
    if found is None:
        raise Problem(ProblemType.NOT_FOUND, f"the account has no refusal {refusal_id}")
    return found


def find_body(context: AppContext, refusal: RefusalRow) -> bytes | None:
    """The body of a refusal as it is kept; None for none."""
    with context.database.transaction() as connection:
        return refusals.find_body(connection, refusal.account_id, refusal.id)


def readable_body(context: AppContext, refusal: RefusalRow, body: bytes) -> bytes:
    """The body unpacked, where it is gzip that can be unpacked."""
    if refusal.content_encoding != "gzip":
        return body
    try:
        return unpack(body, context.settings.max_batch_unpacked_bytes)
    except Problem:
        return body


def why_not_replayable(refusal: RefusalRow) -> str | None:
    """Why the body of a refusal cannot be accepted whatever is changed here; None when it can be tried."""
    if not refusal.replayable:
        return "a part of the body is missing"
    if refusal.type == ProblemType.ACCOUNT_MISMATCH.slug:
        return "the request named another account than that of its key"
    if refusal.content_encoding not in (None, "gzip"):
        return f"the body is packed with {refusal.content_encoding}, which is not read"
    return None


# Erasing


def erase_refusals(context: AppContext, account_id: int, subject: str, phones: Collection[str]) -> int:
    """Delete the refusals of an account that name a subject or one of its phone numbers (E.164), or whose body cannot be read;
    how many. Reads all of the account, a few at a time, in transactions of their own."""
    with context.database.transaction() as connection:
        (account,) = accounts.list_accounts(connection, after=account_id - 1, limit=1)
    mentions = Mentions(subject, phones, ("distinct_id", account.key_attribute))
    erased, after = 0, None
    while True:
        with context.database.transaction() as connection:
            texts = refusals.find_texts_after(connection, account_id, after, _BATCH)
            found = [one.id for one in texts if _names_subject(context, one, mentions)]
            erased += refusals.delete_refusals(connection, account_id, found) if found else 0
        if len(texts) < _BATCH:
            return erased
        after = texts[-1].id


def _names_subject(context: AppContext, texts: RefusalTexts, mentions: Mentions) -> bool:
    body = texts.body or b""
    if texts.content_encoding is not None:
        try:
            body = unpack(body, context.settings.max_batch_unpacked_bytes) if texts.content_encoding == "gzip" else b""
        except Problem:
            body = b""
        if not body and texts.body:
            return True
    return mentions.are_in(body.decode(errors="replace")) or mentions.are_in(texts.explanation)


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
        digits = "|".join(sorted({digits for phone in (*phones, subject) for digits in _phone_digits(phone)}))
        self._phone = re.compile(rf"(?<!\d)(?:00|0)?(?:{digits})(?!\d)") if digits else None

    def are_in(self, text: str) -> bool:
        """Whether a text mentions the subject."""
        if "\\" in text:
            text = _without_escapes(text)
        if self._subject.search(text):
            return True
        return self._phone is not None and self._phone.search(_AROUND_DIGITS.sub("", text)) is not None


def _without_escapes(text: str) -> str:
    """A JSON text with the characters that its escapes stand for."""
    text = _ESCAPED.sub(lambda found: chr(int(found[1], 16)), text)
    text = _ESCAPED_CHARACTER.sub(lambda found: found[1], text)
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _phone_digits(text: str) -> Iterator[str]:
    """The digits of a phone number, and those without its country code; nothing for another text."""
    digits = strip_phone(text).removeprefix("+")
    if not (_MIN_PHONE_DIGITS <= len(digits) <= _MAX_PHONE_DIGITS and digits.isascii() and digits.isdigit()):
        return
    yield digits
    with suppress(phonenumbers.NumberParseException):
        national = str(phonenumbers.parse(f"+{digits}").national_number)
        if len(national) >= _MIN_PHONE_DIGITS:
            yield national
