"""The short way from an object's text to a verified `Event`: it takes only what is beyond doubt.

Comes in: the bytes of one JSON object. Goes out: the event that the careful way (`exact_json` and the marshmallow schemas)
would have made of it; or None, for all that the careful way has to decide and find the words for.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
from msgspec import UNSET, Raw, UnsetType

from app.core.exact_json import DEEPEST, SUSPICIOUS
from app.core.models import Event
from app.ingest.limechat.schemas import LONGEST, LONGEST_PHONE, PRINTABLE, e164, warnings_of

# An object shorter than this has no number that Postgres cannot hold, unless its exponent makes it one.
_SHORT = 4_000
_TINY = 1e-300
_COLON = re.compile(rb'"[ \t\r\n]*:')


class _Plain(msgspec.Struct, forbid_unknown_fields=True):
    """What most events look like; only those of a batch carry an idempotency key."""

    event: str
    distinct_id: str | UnsetType = UNSET
    phone: str | UnsetType = UNSET
    data: Raw | UnsetType = UNSET
    idempotency_key: str | UnsetType = UNSET

    def members(self) -> int:
        """How many of these the item has."""
        return 5 - (self.distinct_id, self.phone, self.data, self.idempotency_key).count(UNSET)


_plain = msgspec.json.Decoder(_Plain)
_any = msgspec.json.Decoder()


def read_plain(item: bytes, account_id: int, event_id: UUID, received_at: datetime) -> Event | None:
    """The event of an object about which there is nothing to ask; None for any other."""
    if item.count(b"{") + item.count(b"[") > DEEPEST:
        return None
    try:
        plain = _plain.decode(item)
        data = {} if plain.data is UNSET else _any.decode(plain.data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    if not isinstance(data, dict) or not _is_storable(item, plain.members(), data):
        return None
    phone = None if plain.phone is UNSET else _phone(plain.phone)
    if plain.phone is not UNSET and phone is None:
        return None
    distinct_id = phone[1:] if plain.distinct_id is UNSET and phone is not None else plain.distinct_id
    key = None if plain.idempotency_key is UNSET else plain.idempotency_key
    if distinct_id is UNSET or not 1 <= len(distinct_id) <= LONGEST or not 1 <= len(plain.event) <= LONGEST:
        return None
    if key is not None and not PRINTABLE.fullmatch(key):
        return None
    return Event(
        id=event_id,
        account_id=account_id,
        event=plain.event,
        distinct_id=distinct_id,
        phone=phone,
        data=data,
        data_json="{}" if plain.data is UNSET else bytes(plain.data).decode(),
        extra_json=None,
        received_at=received_at,
        idempotency_key=key,
        warnings=warnings_of(plain.event, {}) if " " in plain.event else (),
    )


def _phone(text: str) -> str | None:
    return e164(text)[0] if len(text) <= LONGEST_PHONE else None


def _is_storable(item: bytes, members: int, data: dict[str, Any]) -> bool:
    """Whether it is certain that no name is there twice, and nothing that jsonb cannot hold.

    Each member has a quote and a colon behind its name. Text may have the same, so that there can only seem to be more
    members than there are: where there are as many as different names, no name is there twice.
    """
    apart = b'" ' in item or b'"\t' in item or b'"\r' in item or b'"\n' in item
    seen = len(_COLON.findall(item)) if apart else item.count(b'":')
    found = _Found()
    found.look(data)
    if members + found.members != seen:
        return False
    doubtful = found.tiny or b"\\u" in item or len(item) >= _SHORT
    return not (doubtful and SUSPICIOUS.search(item))


class _Found:
    """What there is in a value: how many members all its objects have, and whether there is a number next to zero, which
    may have been written with an exponent out of all proportion."""

    def __init__(self) -> None:
        self.members = 0
        self.tiny = False

    def look(self, value: dict[str, Any] | list[Any]) -> None:
        """Look through a value."""
        parts: Any = value
        if isinstance(value, dict):
            self.members += len(value)
            parts = value.values()
        for part in parts:
            kind = type(part)
            if kind is dict or kind is list:
                self.look(part)
            elif kind is float and -_TINY < part < _TINY:
                self.tiny = True
