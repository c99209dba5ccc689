"""Listeners: where third parties post in their own shape. Each has a key of its own, good for posting to it and nothing else.

The key is shown once, when it is made; kept is its hash, as of all keys (scope `listener:LI1`).
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec
import sqlalchemy as sa

from app.core.api_keys import make_key
from app.core.errors import Unavailable
from app.core.models import Key
from app.db import api_keys, cxengage_resources
from app.db.cxengage_resources import LISTENERS, ListenerRow
from app.services.context import AppContext
from app.services.cxengage import crud

_members = msgspec.json.Decoder(dict[str, msgspec.Raw])


@dataclass(frozen=True, slots=True)
class MadeListener:
    """A listener and its key, which nobody can be told again."""

    row: ListenerRow
    token: str


def scope_of(name: str) -> str:
    """The scope of the keys that may post to a listener."""
    return f"listener:{name}"


def create_listener(
    context: AppContext, account_id: int, values: Mapping[str, Any], more: Mapping[str, str]
) -> MadeListener:
    """Make a listener and its key; `more` are further members, each as JSON text."""
    moment = context.clock()
    with context.database.transaction() as connection:
        crud.check_room(connection, account_id, LISTENERS)
        values = {**values, "more_json": _merged("{}", more)}
        number = cxengage_resources.add(connection, LISTENERS, account_id, values, moment)
        token = _make_token(connection, account_id, number, moment)
        row = cxengage_resources.find(connection, LISTENERS, account_id, number)
        assert row is not None
    return MadeListener(row, token)


def change_listener(
    context: AppContext, account_id: int, name: str, changes: Mapping[str, Any], more: Mapping[str, str]
) -> ListenerRow:
    """Put other values into a listener; a member of `more` that is null is taken away. Raises Problem 404."""
    moment = context.clock()
    with context.database.transaction() as connection:
        row = crud.find_on(connection, account_id, LISTENERS, name, lock=True)
        changes = {**changes, "more_json": _merged(row.more_json, more)}
        cxengage_resources.change(connection, LISTENERS, account_id, row.number, changes, moment)
        return crud.find_on(connection, account_id, LISTENERS, name)


def renew_token(context: AppContext, account_id: int, name: str) -> MadeListener:
    """Give a listener a new key in the place of the one it has; raises Problem 404."""
    moment = context.clock()
    with context.database.transaction() as connection:
        row = crud.find_on(connection, account_id, LISTENERS, name)
        api_keys.revoke_keys_of_scope(connection, account_id, scope_of(name), moment)
        return MadeListener(row, _make_token(connection, account_id, row.number, moment))


def remove_listener(context: AppContext, account_id: int, name: str) -> None:
    """Delete a listener and revoke its key; raises Problem 404."""
    moment = context.clock()
    with context.database.transaction() as connection:
        row = crud.find_on(connection, account_id, LISTENERS, name)
        cxengage_resources.remove(connection, LISTENERS, account_id, row.number)
        api_keys.revoke_keys_of_scope(connection, account_id, scope_of(name), moment)


def note_received(context: AppContext, account_id: int, name: str, moment: datetime) -> None:
    """Count an event that a listener has taken. It is stored already, so it's OK to miss one here."""
    number = crud.number_of(LISTENERS, name)
    with suppress(Unavailable), context.database.transaction() as connection:
        cxengage_resources.note_received(connection, account_id, number or 0, moment)


def _make_token(connection: sa.Connection, account_id: int, number: int, moment: datetime) -> str:
    text, prefix, digest = make_key()
    key = Key(prefix, digest, (scope_of(f"LI{number}"),), None, None)
    api_keys.insert_key(connection, account_id, key, f"listener LI{number}", moment)
    return text


def _merged(known: str, changes: Mapping[str, str]) -> str:
    """A JSON object with other members, nothing re-encoded but their names; null takes a member away."""
    members = {name: bytes(text).decode() for name, text in _members.decode(known).items()}
    left = {name: text for name, text in {**members, **changes}.items() if text != "null"}
    return "{" + ",".join(f"{msgspec.json.encode(name).decode()}:{text}" for name, text in left.items()) + "}"
