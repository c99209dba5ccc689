"""Events that come many at once: a body becomes its items, an item becomes a verified `Event`, by the rules for single ones.

Comes in: bytes. Goes out: `Event`s that equal what a request of their own would have made of them. Most items are read by
a short way, which only takes what is beyond doubt; all others go the way of single events, which finds the words for
what is wrong.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Annotated, Any, TypeVar
from uuid import UUID

import msgspec
from msgspec import Raw

from app.core.errors import Problem, ProblemType
from app.core.exact_json import DEEPEST, ExactObject, not_json, read_object, said
from app.core.models import Event
from app.ingest.limechat.parser import event_in
from app.ingest.limechat.plain_events import read_plain
from app.ingest.limechat.schemas import PRINTABLE

# msgspec counts the items of an array when it has them all: too many for that, and they are read one by one.
_MOST_COMMAS = 250_000
_LINE = re.compile(rb"[^ \t\r\n][^\n]*")
_SPACE = re.compile(r"[ \t\r\n]*")
T = TypeVar("T")
_decoder = json.JSONDecoder(parse_int=str, parse_float=str)


# From a body to items


def split_array(body: bytes, most: int) -> Sequence[Raw | bytes]:
    """The items of a JSON array; raises Problem 400 with the place where it is none, 413 for more than `most`."""
    if not body.strip():
        raise not_json("The body is empty; it has to be a JSON array of events.")
    if not body.isascii():
        _refuse_other_than_utf8(body)
    if body.count(b",") > _MOST_COMMAS:
        return _split_carefully(body.decode(), most)
    decoder = msgspec.json.Decoder(Annotated[list[Raw], msgspec.Meta(max_length=most)])
    try:
        parts: list[Raw] = decoder.decode(body)
    except msgspec.ValidationError as wrong:
        if "length" in str(wrong):
            raise too_many(most) from None
        raise not_json("The top level has to be an array of events.") from None
    except msgspec.DecodeError:
        return _split_carefully(body.decode(), most)
    except RecursionError:
        raise not_json(f"The body is nested more than {DEEPEST} levels deep.") from None
    return parts


def _split_carefully(text: str, most: int) -> list[bytes]:
    """The same, slower: it knows the place of a mistake, and lets through what may be wrong with one item alone."""
    items: list[bytes] = []
    try:
        start = _next(text, 0)
        if text[start] != "[":
            raise json.JSONDecodeError("Expecting value", text, start)
        position = _next(text, start + 1)
        while True:
            _, end = _decoder.raw_decode(text, position)
            if len(items) == most:
                raise too_many(most)
            items.append(text[position:end].encode())
            position = _next(text, end)
            sign = text[position : position + 1]
            if sign == "]":
                break
            if sign != ",":
                raise json.JSONDecodeError("Expecting ',' delimiter", text, position)
            position = _next(text, position + 1)
        if _next(text, position + 1) != len(text):
            raise json.JSONDecodeError("Extra data", text, _next(text, position + 1))
    except json.JSONDecodeError as wrong:
        raise not_json(f"The body is not JSON: {said(wrong)} at line {wrong.lineno}, column {wrong.colno}.") from None
    except RecursionError:
        raise not_json(f"The body is nested more than {DEEPEST} levels deep.") from None
    return items


def _next(text: str, position: int) -> int:
    """Where something stands again from a position on."""
    found = _SPACE.match(text, position)
    return found.end() if found else position


def _refuse_other_than_utf8(body: bytes) -> None:
    try:
        body.decode()
    except UnicodeDecodeError as wrong:
        raise not_json(f"The body is not UTF-8: byte {wrong.start + 1} (0x{body[wrong.start]:02x}) is wrong.") from None


def split_lines(body: bytes, most: int) -> list[tuple[int, int]]:
    """Where the lines begin and end on which there is something; raises Problem 413 for more than `most`."""
    found: list[tuple[int, int]] = []
    for line in _LINE.finditer(body):
        if len(found) == most:
            raise too_many(most)
        found.append(line.span())
    return found


def too_many(most: int) -> Problem:
    """The 413 of a batch of more events than may come at once."""
    return Problem(ProblemType.TOO_MANY_EVENTS, f"A batch may hold {most} events at most.")


# From an item to an event


def read_item(
    item: bytes,
    *,
    account_id: int,
    event_id: UUID,
    received_at: datetime,
    idempotency_key: str | None = None,
    most_bytes: int,
) -> Event:
    """The event that an item tells, checked; raises Problem as for a request of its own.

    `idempotency_key` is that of an item that carries none itself.
    """
    if len(item) > most_bytes:
        raise Problem(ProblemType.BODY_TOO_LARGE, f"The event is larger than {most_bytes} bytes.")
    read = read_plain(item, account_id, event_id, received_at) or _read_carefully(
        item, account_id, event_id, received_at
    )
    if read.idempotency_key is None and idempotency_key is not None:
        read = replace(read, idempotency_key=idempotency_key)
    if read.idempotency_key is not None:
        read = replace(read, body_digest=hashlib.sha256(item).digest())
    return read


def _read_carefully(item: bytes, account_id: int, event_id: UUID, received_at: datetime) -> Event:
    exact = read_object(item)
    key = check_key(exact.value.get("idempotency_key"))
    return event_in(
        ExactObject(_without_key(exact.value), _without_key(exact.raw)),
        account_id=account_id,
        event_id=event_id,
        received_at=received_at,
        idempotency_key=key,
        body_digest=None,
    )


def check_key(key: Any) -> str | None:
    """The idempotency key that an item carries; raises Problem 422 where it cannot be one."""
    if key is None or (isinstance(key, str) and PRINTABLE.fullmatch(key)):
        return key
    message = "has to be 1 to 255 printable ASCII characters"
    errors = [{"field": "idempotency_key", "message": message}]
    raise Problem(ProblemType.VALIDATION_FAILED, f"idempotency_key {message}", errors=errors)


def _without_key(members: Mapping[str, T]) -> dict[str, T]:
    return {name: part for name, part in members.items() if name != "idempotency_key"}
