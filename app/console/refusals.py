"""Refused requests of an account: the list, one refusal with what was sent, and replay, of one or of many after a plan."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from typing import Any
from uuid import UUID

from flask import Blueprint, Response, abort, flash, redirect, render_template, request, url_for

from app.console.access import app_context, current_account, route
from app.console.jinja_filters import MAX_JSON, show_count
from app.console.lists import flash_failures, read_filters, read_page, read_time
from app.core.api_keys import read_prefix
from app.core.models import EDITOR, VIEWER
from app.db.refusals import RefusalFilter, RefusalRow
from app.ingest.refusals_replay import MAX_REPLAYED, Replayed, Replayer, replay_plan
from app.services import inspection, refusals
from app.services.refusals import ReplayPlan

blueprint = Blueprint("refusals", __name__)
_MAX_SHOWN = 10


@route(blueprint, "/<account>/refusals", VIEWER)
def show() -> Any:
    """The refusals that pass the filters of the URL, newest first."""
    filters, account_id = {**_read_filters(), **read_filters("waiting")}, current_account().id
    wanted = replace(_filter_of(filters), waiting="waiting" in filters)
    page = read_page(
        lambda before, limit: refusals.find_latest_refusals(
            app_context(), account_id, replace(wanted, before=before), limit
        ),
        lambda refusal: refusal.id,
        filters,
    )
    chosen = {name: text for name, text in filters.items() if name != "waiting"}
    is_waiting = any(row.replayed_at is None and refusals.why_not_replayable(row) is None for row in page.rows)
    return render_template("refusals.html", page=page, chosen=chosen, is_waiting=is_waiting)


def _read_filters() -> dict[str, str]:
    return read_filters("status", "type", "key", "route", "request_id", "since", "until")


def _filter_of(filters: dict[str, str]) -> RefusalFilter:
    """As `signalbox refusal list` has it."""
    status = filters.get("status", "")
    return RefusalFilter(
        status=int(status) if status.isdecimal() and len(status) == 3 else None,
        type=filters.get("type"),
        key_prefix=read_prefix(filters["key"]) if "key" in filters else None,
        key_name=filters.get("key"),
        route=filters.get("route"),
        request_id=filters.get("request_id"),
        since=read_time(filters, "since"),
        until=read_time(filters, "until"),
    )


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
    if replayed.refused:
        return f"Refused again: {replayed.explain()}"
    return f"Accepted: {show_count(replayed.stored, 'new event')}."


# Many refusals


@route(blueprint, "/<account>/refusals/replay", EDITOR)
def plan_replay() -> Any:
    """How many refusals that pass the filters can be replayed, by reason, and the button that replays them."""
    filters, after = _read_filters(), _after()
    plan = _plan(filters, after)
    kinds = plan.kinds.most_common(_MAX_SHOWN)
    values = {"filters": filters, "after": after, "number": len(plan.chosen), "is_cut": plan.is_cut}
    return render_template("refusals_replay.html", kinds=kinds, others=len(plan.kinds) - len(kinds), **values)


def _after() -> UUID | None:
    """The refusal behind which to continue: those before it were tried."""
    return request.args.get("after", type=UUID)


def _plan(filters: dict[str, str], after: UUID | None) -> ReplayPlan:
    wanted = replace(_filter_of(filters), after=after)
    return refusals.plan_replay(app_context(), current_account().id, wanted, MAX_REPLAYED)


@route(blueprint, "/<account>/refusals/replay", EDITOR, ("POST",))
def replay_many() -> Any:
    """Replay the refusals that pass the filters, oldest first."""
    account, after = current_account(), _after()
    filters: dict[str, Any] = _read_filters()
    result = replay_plan(app_context(), account.id, _plan(filters, after))
    text = f"{result.accepted:,} of {result.done:,} accepted: {show_count(result.stored, 'new event')}."
    flash(text, "warning" if result.failures else "message")
    flash_failures("Refusal", result.failures)
    if result.next is not None:
        return redirect(url_for("refusals.plan_replay", account=account.slug, after=result.next, **filters))
    return redirect(url_for("refusals.show", account=account.slug, **filters))
