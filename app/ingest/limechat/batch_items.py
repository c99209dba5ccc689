"""Splits the body of a batch into its items, and parses an item, or a line of an import file, as a single event."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any
from uuid import UUID

import msgspec
from msgspec import Raw
from msgspec.structs import replace

from app.core.errors import Problem, ProblemType
from app.core.event_times import read_epoch
from app.core.exact_json import MAX_DEPTH, ExactObject, malformed_body, not_utf8, read_object, syntax_error
from app.core.gzip_body import BYTE_ORDER_MARK
from app.core.ids import utc_text
from app.core.json_nesting import find_end
from app.core.models import Event
from app.core.pacing import in_pieces, pause_if_due
from app.ingest.limechat.parser import BATCH_ITEM, item_schema, parse_event
from app.ingest.limechat.schemas import OCCURRED_AT

# msgspec checks the number of items only after it has read all of them.
_MAX_COMMAS = 250_000
# In pieces: a body may have nothing else.
_BLANK = re.compile(rb"[ \t\r\n]{1,65536}")
_SPACE = re.compile(r"[ \t\r\n]*")


def split_array(body: bytes, max_items: int, max_bytes: int) -> Sequence[Raw | bytes]:
    """The items of a JSON array; raises Problem 400 with the position of a syntax error, 413 for more than `max_items`. Items of
    more than `max_bytes`, which are refused later, may have syntax errors."""
    if not body.strip():
        raise malformed_body("The body is empty; it must be a JSON array of events.")
    try:
        body.isascii() or body.decode()
    except UnicodeDecodeError as exc:
        raise not_utf8(exc) from None
    if body.count(b",") > _MAX_COMMAS:
        return _split_text(body.decode(), max_items, max_bytes)
    decoder = msgspec.json.Decoder(Annotated[list[Raw], msgspec.Meta(max_length=max_items)])
    try:
        parts: list[Raw] = decoder.decode(body)
    except msgspec.ValidationError as exc:
        if "length" in str(exc):
            raise too_many(max_items) from None
        raise malformed_body("The top level must be an array of events.") from None
    except msgspec.DecodeError:
        return _split_text(body.decode(), max_items, max_bytes)
    except RecursionError:
        raise _too_deep() from None
    return parts


def _split_text(text: str, max_items: int, max_bytes: int) -> list[bytes]:
    """Slower than msgspec, but it knows the position of an error, and stops after `max_items`."""
    items: list[bytes] = []
    decoder = json.JSONDecoder(parse_int=in_pieces(str), parse_float=in_pieces(str), object_pairs_hook=in_pieces(len))
    try:
        start = _skip_space(text, 0)
        if text[start] != "[":
            raise json.JSONDecodeError("Expecting value", text, start)
        position = _skip_space(text, start + 1)
        while True:
            pause_if_due()
            end = _find_end_of_large(text, position, max_bytes) or decoder.raw_decode(text, position)[1]
            if len(items) == max_items:
                raise too_many(max_items)
            items.append(text[position:end].encode())
            position = _skip_space(text, end)
            sign = text[position : position + 1]
            if sign == "]":
                break
            if sign != ",":
                raise json.JSONDecodeError("Expecting ',' delimiter", text, position)
            position = _skip_space(text, position + 1)
        if _skip_space(text, position + 1) != len(text):
            raise json.JSONDecodeError("Extra data", text, _skip_space(text, position + 1))
    except json.JSONDecodeError as exc:
        raise syntax_error(exc) from None
    except RecursionError:
        raise _too_deep() from None
    return items


def _find_end_of_large(text: str, start: int, max_bytes: int) -> int | None:
    """Where an item ends that is too large to be parsed: its values could take hundreds of megabytes. None for others."""
    if len(text) - start <= max_bytes or text[start] not in "[{":
        return None
    end = find_end(text, start)
    return end if end is not None and end - start > max_bytes else None


def _skip_space(text: str, position: int) -> int:
    found = _SPACE.match(text, position)
    return found.end() if found else position


def _too_deep() -> Problem:
    return malformed_body(f"The body is nested more than {MAX_DEPTH} levels deep.")


def split_lines(body: bytes, max_items: int) -> list[tuple[int, int]]:
    """Start and end of each line that is not blank; raises Problem 413 for more than `max_items`. A byte order mark in front of
    a line, as in files that were joined, is left out."""
    found: list[tuple[int, int]] = []
    end = 0
    while (start := _skip_blank(body, end)) < len(body):
        end = body.find(b"\n", start)
        end = len(body) if end < 0 else end
        if body.startswith(BYTE_ORDER_MARK, start):
            start += len(BYTE_ORDER_MARK)
            if not body[start:end].strip():
                continue
        if len(found) == max_items:
            raise too_many(max_items)
        found.append((start, end))
    return found


def _skip_blank(body: bytes, position: int) -> int:
    """The position of the next character that is not white space."""
    while blank := _BLANK.match(body, position):
        pause_if_due()
        position = blank.end()
    return position


def too_many(max_items: int) -> Problem:
    """The 413 for a batch of more than `max_items` events."""
    return Problem(ProblemType.TOO_MANY_EVENTS, f"A batch may have at most {max_items} events.")


def read_item(
    item: bytes,
    *,
    account_id: int,
    event_id: UUID,
    received_at: datetime,
    idempotency_key: str | None = None,
    is_webhook_id: bool = False,
    max_bytes: int,
    stores_unusable_phone: Callable[[], bool] = lambda: False,
) -> Event:
    """The event of an item; raises Problem as for a single event. `idempotency_key` (`is_webhook_id`:
    a `webhook-id`) is for an item that has none itself."""
    if len(item) > max_bytes:
        raise Problem(ProblemType.BODY_TOO_LARGE, f"The event is larger than {max_bytes} bytes.")
    exact = read_object(item)
    return parse_event(
        exact,
        item_schema(exact.value),
        account_id=account_id,
        event_id=event_id,
        received_at=received_at,
        idempotency_key=idempotency_key,
        is_webhook_id=is_webhook_id,
        body=item,
        stores_unusable_phone=stores_unusable_phone,
    )


EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)
_NO_ID = UUID(int=0)

Identify = Callable[[datetime, str | None], UUID]


def read_line(
    line: bytes,
    *,
    account_id: int,
    time_field: str,
    latest: datetime,
    identify: Identify,
    stores_unusable_phone: bool = False,
) -> Event:
    """The event of a line; raises Problem. `identify` computes its id from its time and its idempotency key.

    `time_field` is a field such as `received_at`, or a path into data such as `data.created_at`. A top-level field is not
    stored as an unknown field. With `occurred_at` it is both times.
    """
    exact = read_object(line)
    try:
        received_at = _timestamp(_value_at(exact.value, time_field))
    except (ValueError, OverflowError) as exc:
        raise _invalid_time(time_field, str(exc)) from None
    if not EARLIEST <= received_at <= latest:
        raise _invalid_time(time_field, f"is {utc_text(received_at)}; it must be from 2000 to now")
    rest = ExactObject(_without(exact.value, time_field), _without(exact.raw, time_field))
    event = parse_event(
        rest,
        BATCH_ITEM,
        account_id=account_id,
        event_id=_NO_ID,
        received_at=received_at,
        stores_unusable_phone=lambda: stores_unusable_phone,
    )
    event = replace(event, id=identify(received_at, event.idempotency_key))
    return replace(event, occurred_at=received_at) if time_field == OCCURRED_AT else event


def _without(members: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in members.items() if key != name}


def _value_at(value: Any, path: str) -> Any:
    for name in path.split("."):
        if not isinstance(value, Mapping) or name not in value:
            raise ValueError("is missing: when the event was")
        value = value[name]
    return value


def _timestamp(value: Any) -> datetime:
    """A time as ISO 8601 text (UTC by default) or as a number since 1970. Raises ValueError, OverflowError."""
    if isinstance(value, str):
        try:
            timestamp = datetime.fromisoformat(value.strip())
        except ValueError:
            raise ValueError("is no time such as 2026-11-22T10:00:00Z") from None
        return timestamp.replace(tzinfo=UTC) if timestamp.tzinfo is None else timestamp.astimezone(UTC)
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        raise ValueError("must be a time such as 2026-11-22T10:00:00Z, or a number of seconds since 1970")
    return read_epoch(value)


def _invalid_time(field: str, message: str) -> Problem:
    return Problem(ProblemType.VALIDATION_FAILED, f"{field} {message}", errors=[{"field": field, "message": message}])
