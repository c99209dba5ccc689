"""The audit log: who changed what.

Each use case that changes the configuration, or what people do to runs, events and subjects, calls `record` in the transaction of
the change. `tests/cli/test_every_command.py` and `tests/api/cxengage/test_audited_routes.py` find those that do not.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any
from urllib.parse import unquote

import sqlalchemy as sa

from app.core.exact_json import replace_unstorable
from app.core.ids import utc_text
from app.db import audit
from app.db.audit import Change, Entry, EntryFilter
from app.services.context import AppContext

# Characters of a text, and of all members together as JSON. Beyond them the log has the hash and the length.
MAX_TEXT = 500
MAX_JSON = 8 * 1024
_URL = re.compile(r"""\b[a-z][a-z+]*://[^\s"'<>]+""", re.IGNORECASE)
_USER = re.compile(r"^([^:]+://)[^/?#]*@")
_PARAMETER = re.compile(r"([?&]([^=&#]+)=)([^&#]*)")


def record(connection: sa.Connection, context: AppContext, change: Change) -> None:
    """Record a change of `context.actor` in the transaction that makes it.

    Masks members with secret names and the secrets in URLs. A text with other secrets, such as a document, has to be given as
    its `digest`. Long texts are replaced by their digests here.
    """
    kept = Change(
        change.action,
        change.account_id,
        None if change.object_id is None else _mask_urls(change.object_id),
        _bounded(change.before),
        _bounded(change.after),
    )
    audit.insert_change(connection, context.actor, kept, context.clock())


def digest(text: str | bytes) -> dict[str, Any]:
    """What the log has in place of a text: its SHA-256 and its length, by which people recognize it."""
    raw = text.encode("utf-8", "replace") if isinstance(text, str) else text
    return {"sha256": hashlib.sha256(raw).hexdigest(), "length": len(text)}


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The members that differ, before and after."""
    names = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    return {name: before[name] for name in names if name in before}, {
        name: after[name] for name in names if name in after
    }


def list_entries(context: AppContext, wanted: EntryFilter, limit: int) -> list[Entry]:
    """At most `limit` entries that pass the filter, newest first."""
    with context.database.transaction() as connection:
        return audit.list_entries(connection, wanted, limit)


def _bounded(values: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    if not values:
        return None
    # Loads all actions, which commands that only read do without.
    from app.actions.masking import Secrets, mask_members

    cleaned, _ = mask_members(_clean(values), Secrets())
    text = json.dumps(cleaned, ensure_ascii=False)
    return cleaned if len(text) <= MAX_JSON else digest(text)


def _clean(value: Any) -> Any:
    """A value as JSON: times as text, secrets in URLs masked, long texts digested."""
    if isinstance(value, Mapping):
        return {replace_unstorable(str(name)): _clean(member) for name, member in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(member) for member in value]
    if isinstance(value, datetime):
        return utc_text(value)
    if value is None or isinstance(value, bool | int | float):
        return value
    text = _mask_urls(str(value))
    return text if len(text) <= MAX_TEXT else digest(text)


def _mask_urls(text: str) -> str:
    return _URL.sub(lambda match: _mask_url(match[0]), replace_unstorable(text))


def _mask_url(url: str) -> str:
    """A URL with its user and password, query parameters with secret names, and tokens of webhooks masked."""
    from app.actions.integration_kinds import MASK
    from app.actions.masking import Secrets, is_secret_name

    secrets = Secrets()
    secrets.add_path(url)
    url = _USER.sub(rf"\1{MASK}@", secrets.mask(url))
    return _PARAMETER.sub(lambda match: match[1] + (MASK if is_secret_name(unquote(match[2])) else match[3]), url)
