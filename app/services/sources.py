"""Saves sources and their versions, lists them, rotates their tokens, enables, disables and deletes them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from app.core.api_keys import make_source_token
from app.core.errors import Problem, ProblemType
from app.core.ids import uuid7
from app.core.models import Key
from app.db import accounts, api_keys, cxengage_resources, sources
from app.db.audit import Change
from app.db.cxengage_resources import LISTENERS
from app.db.document_versions import SOURCE_VERSIONS, NewVersion, Version
from app.db.sources import SourceRow
from app.services import audit
from app.services.context import AppContext
from app.services.document_versions import MAX_RECORDED, find_differences, find_text
from app.services.secrets import find_missing
from app.workflows.sources.document import SECRET, check_source, to_document
from app.workflows.validate import NAME
from app.workflows.yaml_loader import Document, InvalidDocument, Mistake, read_document

# How long the old URL of a source works after a rotation.
OVERLAP = timedelta(days=1)
# Each web process compiles all sources of an account.
MAX_SOURCES = 200


@dataclass(frozen=True, slots=True)
class AppliedSource:
    """What applying a document did.

    `change`: "created", "changed" (a new version) or "unchanged". `differences`: the changed paths. `token`: that of a new
    source, which is shown only once.
    """

    name: str
    version: int
    change: str
    enabled: bool
    differences: tuple[str, ...] = ()
    token: str | None = None


@dataclass(frozen=True, slots=True)
class Rotated:
    """The new token of a source, which is shown only once. `old_until`: until when the old ones work; None: they no longer do."""

    token: str
    old_until: datetime | None


def checked_source(text: str) -> Document:
    """Read and check the text of a source. Raises InvalidDocument with all mistakes."""
    document = read_document(text)
    if mistakes := check_source(document):
        raise InvalidDocument(mistakes)
    return document


def check_in_account(context: AppContext, account_id: int, text: str) -> tuple[str, list[Mistake]]:
    """The name in the text of a source ("" without a valid one), and all mistakes, secrets that the account lacks included."""
    document = read_document(text)
    mistakes = check_source(document)
    if not mistakes:
        with context.database.transaction() as connection:
            mistakes = [
                *find_missing(connection, account_id, document, find_secret_paths(document.value)),
                *_check_listener(connection, account_id, document),
            ]
    name = document.value.get("name") if isinstance(document.value, dict) else None
    return (name if isinstance(name, str) and NAME.fullmatch(name) else ""), mistakes


def find_secret_paths(document: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(path, name) of each secret that a document without mistakes reads."""
    texts = [(f"secrets[{index}]", text) for index, text in enumerate(document.get("secrets", ()))]
    texts += [("verify_token", document["verify_token"])] if "verify_token" in document else []
    for path, text in texts:
        yield from ((path, name) for name in SECRET.findall(text))


def apply_source(
    context: AppContext, account_id: int, text: str, *, edited: tuple[str, int] | None = None, is_new: bool = False
) -> AppliedSource:
    """Save a document as a new source, which gets a token and is enabled, or as the next version of a source, which is in use
    from the next delivery on. An unchanged document changes nothing. Raises InvalidDocument, also for a secret or a listener that
    the account does not have, and Problem 409 when the account has MAX_SOURCES.

    `edited`: the name that the document has to have, and the version that has to be the latest (otherwise Problem 409). With
    `is_new` no source may have its name (otherwise Problem 409).
    """
    document = checked_source(text)
    name, stored, now = document.value["name"], to_document(document.value), context.clock()
    with context.database.transaction() as connection:
        accounts.increment_version(connection, account_id)
        mistakes = find_missing(connection, account_id, document, find_secret_paths(document.value))
        if mistakes := [*mistakes, *_check_listener(connection, account_id, document)]:
            raise InvalidDocument(mistakes)
        known = sources.find_source(connection, account_id, name)
        _check_edited(document, known, edited, is_new=is_new)
        differences = tuple(sorted(find_differences(known.document, stored))) if known else ()
        if known is not None and not differences:
            return AppliedSource(name, known.latest_version, "unchanged", known.enabled)
        if known is None:
            _check_number(connection, account_id)
        version = known.latest_version + 1 if known else 1
        source_id = known.id if known else uuid7(now)
        sources.save_version(connection, account_id, NewVersion(source_id, name, version, text, stored), now)
        after: dict[str, Any] = {"version": version}
        if known is not None:
            after["changed"] = differences[:MAX_RECORDED]
            change = Change("source.change", account_id, name, {"version": known.latest_version}, after)
            audit.record(connection, context, change)
            return AppliedSource(name, version, "changed", known.enabled, differences)
        token = _make_token(connection, account_id, source_id, name, now)
        audit.record(connection, context, Change("source.create", account_id, name, None, after))
        return AppliedSource(name, version, "created", enabled=True, token=token)


def _check_listener(connection: sa.Connection, account_id: int, document: Document) -> Iterator[Mistake]:
    """The mistake of a source whose listener does not exist, or has another source."""
    listener = document.value.get("listener")
    if listener is None:
        return
    number = int(listener.removeprefix(LISTENERS.prefix))
    if cxengage_resources.find(connection, LISTENERS, account_id, number) is None:
        yield document.mistake("listener", f"the account has no listener {listener}")
    for other in sources.list_sources(connection, account_id, "", None):
        if other.name != document.value["name"] and other.document.get("listener") == listener:
            yield document.mistake(
                "listener", f"{listener} leads to the source {other.name}; a listener has one source"
            )


def _check_edited(document: Document, known: SourceRow | None, edited: tuple[str, int] | None, *, is_new: bool) -> None:
    if is_new and known is not None:
        raise Problem(ProblemType.CONFLICT, f"there is a source {known.name!r} already")
    if edited is None:
        return
    name, latest = edited
    if document.value["name"] != name:
        raise InvalidDocument([document.mistake("name", f"must stay {name}: another name is another source")])
    if known is None:
        raise Problem(ProblemType.CONFLICT, "The source was deleted while you edited.")
    if known.latest_version != latest:
        detail = f"Version {known.latest_version} was saved while you edited. Copy your changes, and edit that version."
        raise Problem(ProblemType.CONFLICT, detail)


def _check_number(connection: sa.Connection, account_id: int) -> None:
    if sources.count_sources(connection, account_id) >= MAX_SOURCES:
        detail = f"the account has {MAX_SOURCES} sources, as many as it may have; delete one first"
        raise Problem(ProblemType.CONFLICT, detail)


def _make_token(connection: sa.Connection, account_id: int, source_id: UUID, name: str, now: datetime) -> str:
    token, prefix, digest = make_source_token()
    key = Key(prefix, digest, (_scope(source_id),), None)
    api_keys.insert_key(connection, account_id, key, f"source {name}", now)
    return token


def _scope(source_id: UUID) -> str:
    return f"source:{source_id}"


def rotate_token(context: AppContext, account_id: int, name: str, overlap: timedelta = OVERLAP) -> Rotated:
    """Make a new token of a source; the old ones expire after `overlap`, or at once. Raises Problem 404."""
    now = context.clock()
    old_until = now + overlap if overlap else None
    with context.database.transaction() as connection:
        found = _lock_source(connection, account_id, name)
        if old_until is None:
            api_keys.revoke_keys_of_scope(connection, account_id, _scope(found.id), now)
        else:
            api_keys.expire_keys_of_scope(connection, account_id, _scope(found.id), old_until)
        token = _make_token(connection, account_id, found.id, name, now)
        after = {"old_until": old_until or now}
        audit.record(connection, context, Change("source.rotate", account_id, name, None, after))
    return Rotated(token, old_until)


def set_enabled(context: AppContext, account_id: int, name: str, *, enabled: bool) -> None:
    """Enable or disable a source; changes nothing when it is so already. Raises Problem 404."""
    with context.database.transaction() as connection:
        found = _lock_source(connection, account_id, name)
        if found.enabled == enabled:
            return
        sources.set_enabled(connection, account_id, found.id, enabled, context.clock())
        action = "source.enable" if enabled else "source.disable"
        change = Change(action, account_id, name, {"enabled": found.enabled}, {"enabled": enabled})
        audit.record(connection, context, change)


def delete_source(context: AppContext, account_id: int, name: str) -> None:
    """Delete a source with its versions and tokens: senders get a 404. Its deliveries and events stay. Raises Problem 404."""
    with context.database.transaction() as connection:
        found = _lock_source(connection, account_id, name)
        api_keys.revoke_keys_of_scope(connection, account_id, _scope(found.id), context.clock())
        sources.delete_source(connection, account_id, found.id)
        before = {"version": found.latest_version, "enabled": found.enabled, "source": audit.digest(found.source)}
        audit.record(connection, context, Change("source.delete", account_id, name, before))


def _lock_source(connection: sa.Connection, account_id: int, name: str) -> SourceRow:
    """A source, locked with its account until the transaction ends. Raises Problem 404."""
    accounts.lock_account(connection, account_id)
    return _existing(sources.find_source(connection, account_id, name), name)


def _existing(found: SourceRow | None, name: str) -> SourceRow:
    if found is None:
        raise Problem(ProblemType.NOT_FOUND, f"there is no source {name!r}")
    return found


def list_sources(context: AppContext, account_id: int, *, after: str = "", limit: int | None = None) -> list[SourceRow]:
    """Sources of an account by name: those after `after`, at most `limit` (None: all)."""
    with context.database.transaction() as connection:
        return sources.list_sources(connection, account_id, after, limit)


def find_source(context: AppContext, account_id: int, name: str) -> SourceRow:
    """A source by its name. Raises Problem 404."""
    with context.database.transaction() as connection:
        return _existing(sources.find_source(connection, account_id, name), name)


def check_enabled(source: SourceRow) -> None:
    """Raises Problem 409 for a disabled source: it maps no deliveries again."""
    if not source.enabled:
        raise Problem(ProblemType.CONFLICT, f"the source {source.name} is disabled; enable it first")


def find_version(context: AppContext, account_id: int, name: str, version: int) -> str:
    """The text of one version of a source. Raises Problem 404."""
    with context.database.transaction() as connection:
        source = _existing(sources.find_source(connection, account_id, name), name)
        return find_text(connection, SOURCE_VERSIONS, source, version)


def list_versions(
    context: AppContext, account_id: int, name: str, limit: int, *, before: int | None = None
) -> list[Version]:
    """The versions of a source, newest first: those before a version. Raises Problem 404."""
    with context.database.transaction() as connection:
        source = _existing(sources.find_source(connection, account_id, name), name)
        return SOURCE_VERSIONS.list_latest(connection, account_id, source.id, limit, before)
