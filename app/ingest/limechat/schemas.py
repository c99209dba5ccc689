"""The LimeChat contract as marshmallow schemas: the headers, the body of an event, and an item of a batch.

Source of the format: the seed document "Custom Events" and `POST /api/v1/cvf-events`; where it is silent, `docs/receiving.md`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from heapq import nsmallest
from typing import Any, ClassVar, TypeVar

from marshmallow import EXCLUDE, Schema, ValidationError, fields, missing

from app.core.api_keys import SentKey, prefix_of
from app.core.idempotency_keys import describe_rule, is_idempotency_key
from app.core.ids import read_distinct_id
from app.core.phone_numbers import UnusablePhone, read_phone

MAX_LENGTH = 255
# Behind the key of a batch come `#` and the number of the item.
MAX_BATCH_KEY_LENGTH = 240
_MAX_NAMES, _MAX_NAME_LENGTH = 20, 80
# When the event happened. It refuses no event, and is no field of the schemas: each event takes time for each field.
OCCURRED_AT = "occurred_at"
_NO_TIME = (
    "occurred_at: must be a time with an offset, such as 2026-11-22T10:00:00+05:30, or seconds or milliseconds since 1970; "
    "the event is stored without it, what was sent is in extra"
)


Value = TypeVar("Value")


class PlainField(fields.Field[Value]):
    """A field whose `_deserialize` does all of its validation; it takes no validators. `JSON_SCHEMA` is what the API's document
    says of its values."""

    JSON_SCHEMA: ClassVar[Mapping[str, Any]] = {}

    def deserialize(
        self, value: Any, attr: str | None = None, data: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> Any:
        """The valid value; raises ValidationError."""
        if value is missing or value is None:
            return super().deserialize(value, attr, data, **kwargs)
        # marshmallow would compose the validators of the field again for each value.
        return self._deserialize(value, attr, data, **kwargs)


class EventName(PlainField[str]):
    """The name of an event: text of 1 to 255 characters, exactly as sent."""

    JSON_SCHEMA: ClassVar[Mapping[str, Any]] = {
        "type": "string",
        "minLength": 1,
        "maxLength": MAX_LENGTH,
        "description": "Kept exactly as sent. Workflows find it by exactly this text.",
    }

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **_: Any) -> str:
        if not isinstance(value, str):
            raise ValidationError("must be text: the name of the event")
        if not 1 <= len(value) <= MAX_LENGTH:
            raise ValidationError(f"has {len(value)} characters; it must have 1 to {MAX_LENGTH}")
        return value


class DistinctId(PlainField[str | None]):
    """The subject: text of 1 to 255 characters. An integer is read as its digits; null and empty text count as absent, and then
    there must be a phone number."""

    JSON_SCHEMA: ClassVar[Mapping[str, Any]] = {
        "type": ["string", "integer", "null"],
        "maxLength": MAX_LENGTH,
        "description": "Whom the event is about. Absent, null or empty: the digits of the phone number.",
    }

    def deserialize(
        self, value: Any, attr: str | None = None, data: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> Any:
        """The subject, or None; raises ValidationError also when both it and the phone number are absent."""
        try:
            distinct_id = read_distinct_id(None if value is missing else value)
        except ValueError as exc:
            raise ValidationError(str(exc)) from None
        if distinct_id is None and (data or {}).get("phone") in (None, ""):
            raise ValidationError("is missing, and so is phone; one of the two is required")
        return distinct_id


class Phone(PlainField[str | None]):
    """A phone number with country code, converted to E.164; null and empty text count as absent."""

    JSON_SCHEMA: ClassVar[Mapping[str, Any]] = {
        "type": ["string", "null"],
        "description": "An international number with + and the country code, such as +915673412780.",
    }

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **_: Any) -> str | None:
        if value is None or value == "":
            return None
        try:
            return read_phone(value)
        except UnusablePhone as exc:
            raise ValidationError(str(exc)) from None


class Data(PlainField[dict[str, Any]]):
    """The data of an event: an object."""

    JSON_SCHEMA: ClassVar[Mapping[str, Any]] = {"type": "object", "description": "Kept with every digit."}

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **_: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise ValidationError('must be an object, such as {"product_id": "65432"}')
        return value


class IdempotencyKey(PlainField[str]):
    """An idempotency key: printable ASCII characters."""

    JSON_SCHEMA: ClassVar[Mapping[str, Any]] = {
        "type": ["string", "null"],
        "maxLength": MAX_LENGTH,
        "description": "Printable ASCII characters. A repeated event with its key is stored once.",
    }

    def __init__(self, max_length: int = MAX_LENGTH, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._max_length = max_length

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **_: Any) -> str:
        if not is_idempotency_key(value, self._max_length):
            raise ValidationError(describe_rule(self._max_length))
        return str(value)


class ApiKey(PlainField[SentKey]):
    """Text that has the shape of an API key or access token, with its prefix."""

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **_: Any) -> SentKey:
        prefix = prefix_of(value) if isinstance(value, str) else ""
        if not prefix:
            raise ValidationError("must be an API key")
        return SentKey(value, prefix)


class AccountId(PlainField[str]):
    """Text; whether it is the id of the sender's account is checked with the API key."""

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **_: Any) -> str:
        if not isinstance(value, str):
            raise ValidationError("must be text: the id of the account")
        return value


class EventSchema(Schema):
    """The body of `POST /api/v1/cvf-events`. The caller keeps unknown fields, from the JSON text."""

    class Meta:
        unknown = EXCLUDE

    event = EventName(required=True, error_messages={"required": "is missing: the name of the event"})
    distinct_id = DistinctId(allow_none=True)
    phone = Phone(allow_none=True)
    data = Data(error_messages={"null": "must be an object, or absent"})


class BatchItemSchema(EventSchema):
    """An event in a batch or in a file: it may carry its idempotency key."""

    idempotency_key = IdempotencyKey(allow_none=True)


class HeadersSchema(Schema):
    """The headers of an event: the API key, the account and, if the sender retries, an idempotency key."""

    class Meta:
        unknown = EXCLUDE

    api_key = ApiKey(required=True, data_key="x-limechat-uat")
    account_id = AccountId(
        required=True, data_key="x-fb-account-id", error_messages={"required": "is missing: the id of the account"}
    )
    idempotency_key = IdempotencyKey(data_key="Idempotency-Key")


class BatchHeadersSchema(HeadersSchema):
    """The headers of a batch."""

    idempotency_key = IdempotencyKey(MAX_BATCH_KEY_LENGTH, data_key="Idempotency-Key")


def warnings_of(name: str, extra: Mapping[str, str]) -> tuple[str, ...]:
    """Warnings for what is accepted but may be a mistake: spaces in the name, unknown fields, a time that is none."""
    warnings = []
    if " " in name:
        warnings.append("event: has spaces; it is kept as sent, but names without spaces are recommended")
    if extra:
        warnings += _warnings_of_extra(extra)
    return tuple(warnings)


def _warnings_of_extra(extra: Mapping[str, str]) -> Iterator[str]:
    unknown = [name for name in extra if name != OCCURRED_AT]
    if unknown:
        shown = nsmallest(_MAX_NAMES, unknown)
        names = [name if len(name) <= _MAX_NAME_LENGTH else name[:_MAX_NAME_LENGTH] + "…" for name in shown]
        more = f" and {len(unknown) - _MAX_NAMES} more" if len(unknown) > _MAX_NAMES else ""
        yield f"unknown fields kept in extra: {', '.join(names)}{more}"
    if len(unknown) < len(extra):
        yield _NO_TIME
