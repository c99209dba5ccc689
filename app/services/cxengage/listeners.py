"""Listeners: URLs where third parties post bodies of their own format.

Each listener has an API key (its token) with the scope `listener:LI1`, which allows nothing else.
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
from app.core.errors import Problem, ProblemType, Unavailable
from app.core.exact_json import object_text
from app.core.models import Key
from app.db import api_keys, cxengage_resources
from app.db.audit import Change
from app.db.cxengage_resources import LISTENERS, ListenerRow
from app.services import audit
from app.services.context import AppContext
from app.services.cxengage import crud

# Bytes of JSON of a listener's mapping, of its options, and of its further members together.
MAX_JSON = 64 * 1024
_members = msgspec.json.Decoder(dict[str, msgspec.Raw])


@dataclass(frozen=True, slots=True)
class NewListener:
    """A listener and its token, which is shown only once."""

    row: ListenerRow
    token: str


def scope_of(name: str) -> str:
    """The scope of the keys of a listener."""
    return f"listener:{name}"


def create_listener(
    context: AppContext, account_id: int, values: Mapping[str, Any], more: Mapping[str, str]
) -> NewListener:
    """Create a listener and its token; `more` are further members as JSON texts."""
    now = context.clock()
    with context.database.transaction() as connection:
        values = {**values, "more_json": _merged("{}", more)}
        row = crud.insert(connection, account_id, LISTENERS, values, now)
        crud.record(connection, context, account_id, LISTENERS, (None, row))
        return NewListener(row, _make_token(connection, account_id, row.number, now))


def change_listener(
    context: AppContext, account_id: int, name: str, changes: Mapping[str, Any], more: Mapping[str, str]
) -> ListenerRow:
    """Change a listener; null removes a member of `more`. Raises Problem 404."""
    now = context.clock()
    with context.database.transaction() as connection:
        row = crud.find(connection, account_id, LISTENERS, name, lock=True)
        changes = {**changes, "more_json": _merged(row.more_json, more)}
        cxengage_resources.update(connection, LISTENERS, account_id, row.number, changes, now)
        changed = crud.find(connection, account_id, LISTENERS, name)
        crud.record(connection, context, account_id, LISTENERS, (row, changed))
        return changed


def renew_token(context: AppContext, account_id: int, name: str) -> NewListener:
    """Replace the token of a listener; raises Problem 404."""
    now = context.clock()
    with context.database.transaction() as connection:
        row = crud.find(connection, account_id, LISTENERS, name)
        api_keys.revoke_keys_of_scope(connection, account_id, scope_of(name), now)
        audit.record(connection, context, Change("listener.renew-token", account_id, name))
        return NewListener(row, _make_token(connection, account_id, row.number, now))


def delete_listener(context: AppContext, account_id: int, name: str) -> None:
    """Delete a listener and revoke its token; raises Problem 404."""
    now = context.clock()
    with context.database.transaction() as connection:
        row = crud.find(connection, account_id, LISTENERS, name)
        cxengage_resources.delete(connection, LISTENERS, account_id, row.number)
        api_keys.revoke_keys_of_scope(connection, account_id, scope_of(name), now)
        crud.record(connection, context, account_id, LISTENERS, (row, None))


def find_enabled(context: AppContext, account_id: int, name: str) -> ListenerRow:
    """A listener that takes events; raises Problem 404, or 403 when it is switched off."""
    listener = crud.find_resource(context, account_id, LISTENERS, name)
    if not listener.status:
        raise Problem(ProblemType.LISTENER_DISABLED, f"The listener {name} is switched off.")
    return listener


def count_received(context: AppContext, account_id: int, name: str, now: datetime) -> None:
    """Count an event of a listener. The event is already stored, so a lost count is OK."""
    number = crud.number_of(LISTENERS, name)
    with suppress(Unavailable), context.database.transaction() as connection:
        cxengage_resources.count_received(connection, account_id, number or 0, now)


def _make_token(connection: sa.Connection, account_id: int, number: int, now: datetime) -> str:
    text, prefix, digest = make_key()
    key = Key(prefix, digest, (scope_of(f"LI{number}"),), None)
    api_keys.insert_key(connection, account_id, key, f"listener LI{number}", now)
    return text


def _merged(current: str, changes: Mapping[str, str]) -> str:
    """A JSON object with changed members, their values as exact texts; null removes a member. Raises Problem 422 when it
    becomes too large."""
    members = {name: bytes(text).decode() for name, text in _members.decode(current).items()}
    merged = {name: text for name, text in {**members, **changes}.items() if text != "null"}
    text = object_text(merged)
    if changes and (size := len(text.encode())) > MAX_JSON:
        raise Problem(
            ProblemType.VALIDATION_FAILED, f"further members: have {size} bytes as JSON; at most {MAX_JSON} are allowed"
        )
    return text
