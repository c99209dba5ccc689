"""Saves sources, rotates their tokens, tries them on requests, and maps their deliveries again."""

from __future__ import annotations

from dataclasses import asdict
from datetime import timedelta
from typing import Any

from app.api.management.access import Access, current
from app.api.management.fields import PageByNameQuery, read_page
from app.api.management.request_body import invalid
from app.api.management.routes import Blueprint, route
from app.api.management.schemas.sources import (
    CreatedSourceSchema,
    ReplayedDeliveriesSchema,
    ReplayPlanQuery,
    ReplayPlanSchema,
    ReplaySourceSchema,
    RotatedSchema,
    RotateSchema,
    SavedSourceSchema,
    SourceDocumentSchema,
    SourcePageSchema,
    SourceSchema,
    SourceVersionPageSchema,
    TriedSourceSchema,
    TryRequestSchema,
)
from app.api.management.schemas.workflows import CheckedSchema, VersionQuery
from app.core.durations import read_duration
from app.core.models import SOURCES_READ, SOURCES_WRITE
from app.db.deliveries import DeliveryFilter
from app.db.sources import SourceRow
from app.ingest.sources import delivery_replay
from app.ingest.sources.delivery_replay import ReplayResult
from app.ingest.sources.trial import TriedDocument, UnreadableRequest, read_request, try_text
from app.services import sources

blueprint = Blueprint("sources", __name__, description="Sources: URLs to which third parties post.")
_OF_NAME = {"source": "$response.body#/name"}


@route(blueprint, "GET", "/sources", SOURCES_READ, query=PageByNameQuery, answer=SourcePageSchema)
def list_sources(query: dict[str, Any]) -> Any:
    """List sources

    By name, without their documents. `after` is a name.
    """
    access = current()
    return read_page(
        query,
        lambda after, limit: sources.list_sources(access.context, access.account_id, after=after or "", limit=limit),
        lambda row: row.name,
    )


@route(
    blueprint,
    "POST",
    "/sources",
    SOURCES_WRITE,
    body=SourceDocumentSchema,
    answer=CreatedSourceSchema,
    status=201,
    links={
        "show": {"operationId": "show_source", "parameters": _OF_NAME},
        "rotate": {"operationId": "rotate_source", "parameters": _OF_NAME},
    },
)
def create_source(body: dict[str, Any]) -> Any:
    """Create a source

    From a document, which names it. 409 when there is a source with this name. The answer is the only one that has the token.
    """
    access = current()
    applied = sources.apply_source(access.context, access.account_id, body["source"], is_new=True)
    row = _find(access, applied.name)
    blueprint.set_etag(row, SourceSchema)
    return {**_shown(row), **_of_token(str(applied.token))}


def _find(access: Access, name: str) -> SourceRow:
    return sources.find_source(access.context, access.account_id, name)


def _shown(row: SourceRow) -> dict[str, Any]:
    return {name: getattr(row, name) for name in SourceSchema().fields}


def _of_token(token: str) -> dict[str, str]:
    return {"token": token, "path": f"/hooks/{token}"}


@route(
    blueprint,
    "POST",
    "/source-check",
    SOURCES_READ,
    body=SourceDocumentSchema,
    answer=CheckedSchema,
    takes_key=False,
)
def check_source(body: dict[str, Any]) -> Any:
    """Check the document of a source

    Saves nothing. The answer has all mistakes, secrets that the account lacks included.
    """
    access = current()
    name, mistakes = sources.check_in_account(access.context, access.account_id, body["source"])
    return {"name": name, "mistakes": mistakes}


@route(blueprint, "GET", "/sources/<source>", SOURCES_READ, answer=SourceSchema)
def show_source(source: str) -> Any:
    """Show a source

    With its document.
    """
    return _find(current(), source)


@route(blueprint, "PUT", "/sources/<source>", SOURCES_WRITE, body=SourceDocumentSchema, answer=SourceSchema)
def change_source(body: dict[str, Any], source: str) -> Any:
    """Save a new version of a source

    It is in use from the next delivery on. An unchanged document makes no version.
    """
    access = current()
    known = _find(access, source)
    blueprint.check_etag(known, SourceSchema)
    edited = (source, known.latest_version)
    sources.apply_source(access.context, access.account_id, body["source"], edited=edited)
    return _find(access, source)


@route(blueprint, "DELETE", "/sources/<source>", SOURCES_WRITE, status=204)
def delete_source(source: str) -> None:
    """Delete a source

    With its versions: posts to it get a 404. Its deliveries and events stay.
    """
    access = current()
    blueprint.check_etag(_find(access, source), SourceSchema)
    sources.delete_source(access.context, access.account_id, source)


@route(blueprint, "POST", "/sources/<source>/rotate", SOURCES_WRITE, body=RotateSchema, answer=RotatedSchema)
def rotate_source(body: dict[str, Any], source: str) -> Any:
    """Rotate the token of a source

    Makes a new URL. The old one works until the overlap has ended.
    """
    access, text = current(), body["overlap"]
    overlap = timedelta() if text == "0" else read_duration(text)
    rotated = sources.rotate_token(access.context, access.account_id, source, overlap)
    return {**_of_token(rotated.token), "old_until": rotated.old_until}


@route(blueprint, "POST", "/sources/<source>/enable", SOURCES_WRITE, answer=SourceSchema)
def enable_source(source: str) -> Any:
    """Enable a source

    Its next deliveries become events.
    """
    return _switch(source, enabled=True)


@route(blueprint, "POST", "/sources/<source>/disable", SOURCES_WRITE, answer=SourceSchema)
def disable_source(source: str) -> Any:
    """Disable a source

    Its deliveries are kept and not mapped.
    """
    return _switch(source, enabled=False)


def _switch(source: str, *, enabled: bool) -> SourceRow:
    access = current()
    sources.set_enabled(access.context, access.account_id, source, enabled=enabled)
    return _find(access, source)


@route(
    blueprint,
    "GET",
    "/sources/<source>/versions",
    SOURCES_READ,
    query=VersionQuery,
    answer=SourceVersionPageSchema,
)
def list_source_versions(query: dict[str, Any], source: str) -> Any:
    """List the versions of a source

    The newest first, without their documents. `after` is a version.
    """
    access = current()
    return read_page(
        query,
        lambda after, limit: sources.list_versions(access.context, access.account_id, source, limit, before=after),
        lambda row: row.version,
    )


@route(blueprint, "GET", "/sources/<source>/versions/<int:version>", SOURCES_READ, answer=SavedSourceSchema)
def show_source_version(source: str, version: int) -> Any:
    """Show the document of a version of a source"""
    access = current()
    text = sources.find_version(access.context, access.account_id, source, version)
    return {"name": source, "version": version, "source": text}


@route(
    blueprint,
    "POST",
    "/sources/<source>/try",
    SOURCES_READ,
    body=TryRequestSchema,
    answer=TriedSourceSchema,
    takes_key=False,
)
def try_source(body: dict[str, Any], source: str) -> Any:
    """Try a source on a request

    Whether it is verified, and which events it becomes. Stores nothing.
    """
    access = current()
    saved = _find(access, source).source
    limit = access.context.settings.max_batch_unpacked_bytes
    try:
        request = read_request(body["request"].encode(errors="replace"), limit)
        tried = try_text(access.context, access.account_id, body["source"] or saved, request, at=body["at"])
    except UnreadableRequest as exc:
        raise invalid([{"field": "request", "message": str(exc)}]) from None
    return show_tried(tried)


def show_tried(tried: TriedDocument) -> dict[str, Any]:
    """What a document makes of a request, as TriedSourceSchema has it."""
    trial = tried.trial
    problems = [
        {
            "item": item,
            "path": mistake.path,
            "message": mistake.message,
            "line": mistake.line,
            "column": mistake.column,
        }
        for item, mistake in tried.mistakes
    ]
    return {
        "verified": None if trial.verdict is None else trial.verdict.verified,
        "reason": trial.unknown if trial.verdict is None else trial.verdict.reason,
        "missing_secrets": trial.missing,
        "handshake": trial.handshake,
        "events": trial.events,
        "problems": problems,
    }


@route(blueprint, "GET", "/sources/<source>/replay", SOURCES_READ, query=ReplayPlanQuery, answer=ReplayPlanSchema)
def plan_source_replay(query: dict[str, Any], source: str) -> Any:
    """Count the deliveries of a source that are not mapped

    With their problems: those that a replay of the source maps again.
    """
    access = current()
    source_id = _find(access, source).id
    plan = delivery_replay.plan_source_replay(access.context, access.account_id, source_id, DeliveryFilter(**query))
    problems = [
        {"result": result, "problem": problem, "count": count}
        for (result, problem), count in plan.problems.most_common()
    ]
    return {"count": len(plan.ids), "is_cut": plan.is_cut, "problems": problems}


@route(
    blueprint,
    "POST",
    "/sources/<source>/replay",
    SOURCES_WRITE,
    body=ReplaySourceSchema,
    answer=ReplayedDeliveriesSchema,
    is_atomic=False,
)
def replay_source(body: dict[str, Any], source: str) -> Any:
    """Map the deliveries of a source again

    Those that are not mapped, oldest first: at most 500, and for at most 10 seconds. While `next` is not null, send it as `after`
    to continue behind them, also behind those that cannot be mapped still. 409 while the source is disabled.
    """
    access = current()
    result = delivery_replay.replay_source(access.context, access.account_id, source, DeliveryFilter(**body))
    return show_replayed(result)


def show_replayed(result: ReplayResult) -> dict[str, Any]:
    """What became of deliveries, as ReplayedDeliveriesSchema has it."""
    failures = [{"id": delivery_id, "reason": reason} for delivery_id, reason in result.failures]
    return {**asdict(result), "failures": failures}
