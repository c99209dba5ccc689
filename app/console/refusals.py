"""Refused requests of an account: the list, one refusal with what was sent, and replay."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from typing import Any
from uuid import UUID

from flask import Blueprint, Response, abort, flash, redirect, render_template, url_for

from app.console.access import app_context, current_account, route
from app.console.jinja_filters import MAX_JSON, show_count
from app.console.lists import read_filters, read_page, read_time
from app.core.api_keys import read_prefix
from app.core.models import EDITOR, VIEWER
from app.db.refusals import RefusalFilter, RefusalRow
from app.ingest.refusals_replay import Replayed, Replayer
from app.services import inspection, refusals

blueprint = Blueprint("refusals", __name__)


@route(blueprint, "/<account>/refusals", VIEWER)
def show() -> Any:
    """The refusals that pass the filters of the URL, newest first."""
    filters = read_filters("status", "type", "key", "route", "since", "waiting")
    status = filters.get("status", "")
    wanted = RefusalFilter(
        status=int(status) if status.isdecimal() and len(status) == 3 else None,
        type=filters.get("type"),
        key_prefix=read_prefix(filters["key"]) if "key" in filters else None,
        key_name=filters.get("key"),
        route=filters.get("route"),
        since=read_time(filters, "since"),
        waiting="waiting" in filters,
    )
    account_id = current_account().id
    page = read_page(
        lambda before, limit: refusals.find_latest_refusals(
            app_context(), account_id, replace(wanted, before=before), limit
        ),
        lambda refusal: refusal.id,
        filters,
    )
    return render_template("refusals.html", page=page)


@route(blueprint, "/<account>/refusals/<uuid:refusal_id>", VIEWER)
def show_one(refusal_id: UUID) -> Any:
    """One refusal: who sent what, why it was refused, and whether it was replayed."""
    context, refusal = app_context(), _find(refusal_id)
    body = refusals.find_body(context, refusal)
    readable = None if body is None else inspection.readable_body(context, body, refusal.content_encoding)
    text = None if readable is None else readable.decode(errors="backslashreplace")
    return render_template(
        "refusal.html",
        refusal=refusal,
        body=None if text is None else text[:MAX_JSON],
        is_cut=text is not None and len(text) > MAX_JSON,
        why_not=refusals.why_not_replayable(refusal),
    )


def _find(refusal_id: UUID) -> RefusalRow:
    return refusals.find_refusal(app_context(), current_account().id, refusal_id)


@route(blueprint, "/<account>/refusals/<uuid:refusal_id>/body", VIEWER)
def download(refusal_id: UUID) -> Any:
    """The original body, as a file."""
    body = refusals.find_body(app_context(), _find(refusal_id))
    if body is None:
        abort(404)
    fields = {"Content-Disposition": f'attachment; filename="refusal-{refusal_id}"'}
    return Response(body, content_type="application/octet-stream", headers=fields)


@route(blueprint, "/<account>/refusals/<uuid:refusal_id>/replay", EDITOR, ("POST",))
def replay(refusal_id: UUID) -> Any:
    """Accept what was refused as if it came now."""
    with closing(Replayer(app_context())) as replayer:
        replayed = replayer.replay(_find(refusal_id))
    flash(_outcome(replayed))
    return redirect(url_for("refusals.show_one", account=current_account().slug, refusal_id=refusal_id))


def _outcome(replayed: Replayed) -> str:
    refused = list((replayed.refused or {}).items())
    if not refused:
        return f"Accepted: {show_count(replayed.stored, 'new event')}."
    index, problem = refused[0]
    where = "" if index is None else f"event {index}: "
    more = f" (and {len(refused) - 1} more)" if len(refused) > 1 else ""
    return f"Refused again: {where}{problem.detail}{more}"
