"""What a LimeChat event looks like, as marshmallow schemas: the headers, and the body's fields.

Source of the format: the seed document "Custom Events" and `POST /api/v1/cvf-events`; where it is silent, the receiving
contract in `docs/receiving.md`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import phonenumbers
from marshmallow import INCLUDE, Schema, ValidationError, fields, validates_schema

LONGEST = 255
_MOST_SHOWN, _LONGEST_SHOWN = 20, 80
LONGEST_PHONE = 64
_PHONE_SHAPE = re.compile(r"\+[0-9 .()\[\]-]+")
PRINTABLE = re.compile(r"[\x20-\x7e]{1,255}")


class EventName(fields.Field[str]):
    """The name of an event: text of 1 to 255 characters, exactly as sent."""

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **_: Any) -> str:
        return _text(value, "the name of the event")


class DistinctId(fields.Field[str | None]):
    """The subject: text of 1 to 255 characters; an integer stands for its digits, null and empty text for nothing."""

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **_: Any) -> str | None:
        if value is None or value == "":
            return None
        if isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        return _text(value, "an identifier of the person")


class Phone(fields.Field[str | None]):
    """A phone number with country code, kept as E.164; null and empty text stand for nothing."""

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **_: Any) -> str | None:
        if value is None or value == "":
            return None
        if isinstance(value, int | float) and not isinstance(value, bool):
            raise ValidationError('is a number; send it as text with the country code, such as "+915673412780"')
        if not isinstance(value, str):
            raise ValidationError('has to be text with the country code, such as "+915673412780"')
        if len(value) > LONGEST_PHONE:
            raise ValidationError("is longer than any phone number")
        number, wrong = e164(value)
        if number is None:
            raise ValidationError(wrong)
        return number


class Data(fields.Field[dict[str, Any]]):
    """The data of an event: an object."""

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **_: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise ValidationError('has to be an object, such as {"product_id": "65432"}')
        return value


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise ValidationError(f"has to be text: {what}")
    if not 1 <= len(value) <= LONGEST:
        raise ValidationError(f"has {len(value)} characters; it has to have 1 to {LONGEST}")
    return value


@lru_cache(maxsize=16_384)
def e164(text: str) -> tuple[str | None, str]:
    """The number as +, country code and digits, or None and what is wrong."""
    if not text.startswith("+"):
        return None, "has to begin with + and the country code, such as +915673412780"
    if not _PHONE_SHAPE.fullmatch(text):
        return None, "may hold only digits, spaces, dots, dashes and brackets after the +"
    try:
        number = phonenumbers.parse(text)
    except phonenumbers.NumberParseException:
        return None, "has no known country code, or no number behind it"
    reason = phonenumbers.is_possible_number_with_reason(number)
    if reason == phonenumbers.ValidationResult.TOO_SHORT:
        return None, "is too short for a number of that country"
    if reason == phonenumbers.ValidationResult.TOO_LONG:
        return None, "is too long for a number of that country"
    if not phonenumbers.is_possible_number(number):
        return None, "is no possible number of that country"
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164), ""


class EventSchema(Schema):
    """The body of `POST /api/v1/cvf-events`; unknown fields are let through for the caller to keep."""

    class Meta:
        unknown = INCLUDE

    event = EventName(required=True, error_messages={"required": "is missing: the name of the event"})
    distinct_id = DistinctId(allow_none=True)
    phone = Phone(allow_none=True)
    data = Data(error_messages={"null": "has to be an object, or absent"})

    @validates_schema(pass_original=True, skip_on_field_errors=False)
    def has_a_subject(self, data: dict[str, Any], original: dict[str, Any], **_: Any) -> None:
        """Somebody has to be meant."""
        if original.get("distinct_id") in (None, "") and original.get("phone") in (None, ""):
            raise ValidationError(
                "is missing, and so is phone: one of the two has to say whom the event is about", "distinct_id"
            )


class HeadersSchema(Schema):
    """The headers of an event beside the key: the account and, if the sender retries, an idempotency key."""

    account_id = fields.String(required=True, error_messages={"required": "is missing: the id of the account"})
    idempotency_key = fields.String(load_default=None)

    @validates_schema(skip_on_field_errors=True)
    def has_a_printable_idempotency_key(self, data: dict[str, Any], **_: Any) -> None:
        """A key that was sent has to be usable."""
        key = data["idempotency_key"]
        if key is not None and not PRINTABLE.fullmatch(key):
            raise ValidationError("has to be 1 to 255 printable ASCII characters", "idempotency_key")


FIELD_NAMES = frozenset(EventSchema().fields)


def warnings_of(name: str, extra: Mapping[str, str]) -> tuple[str, ...]:
    """What is accepted but may not be meant: spaces in the name, unknown fields."""
    warnings = []
    if " " in name:
        warnings.append("event: has spaces; it is kept as sent, but names without spaces are recommended")
    if extra:
        names = [name if len(name) <= _LONGEST_SHOWN else name[:_LONGEST_SHOWN] + "…" for name in sorted(extra)]
        more = f" and {len(names) - _MOST_SHOWN} more" if len(names) > _MOST_SHOWN else ""
        warnings.append(f"unknown fields kept in extra: {', '.join(names[:_MOST_SHOWN])}{more}")
    return tuple(warnings)
