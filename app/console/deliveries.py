"""What third parties posted: the list, one delivery with its body, trials of a document on it, and mapping again."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any
from uuid import UUID

from flask import Blueprint, Response, current_app, flash, redirect, render_template, request, url_for

from app.api.responses import request_id
from app.api.sender import take_from_plan
from app.console.access import app_context, current_account, may, route
from app.console.jinja_filters import MAX_JSON, show_count
from app.console.lists import flash_failures, read_filters, read_page, read_time
from app.console.source_form import SourceForm, read_text
from app.core.errors import Problem, ProblemType
from app.core.models import EDITOR, VIEWER
from app.db.deliveries import WAITING, DeliveryFilter, DeliveryRow
from app.ingest.sources import delivery_replay
from app.ingest.sources.delivery_replay import ReplayResult, why_not_replayable
from app.ingest.sources.received import request_of
from app.ingest.sources.signer import CannotSign, SignedSender
from app.ingest.sources.trial import TriedDocument, UnreadableRequest, read_request, try_text
from app.services import deliveries, inspection, sources
from app.workflows.sources.preset_files import preset_names, sample_of
from app.workflows.yaml_loader import InvalidDocument

blueprint = Blueprint("deliveries", __name__)
_MAX_SHOWN = 10
_EMPTY_REQUEST = 'POST /hooks/x HTTP/1.1\nContent-Type: application/json\n\n{"id": 1}\n'


@route(blueprint, "/<account>/deliveries", VIEWER)
def show() -> Any:
    """The deliveries that pass the filters of the URL, newest first."""
    context, account_id = app_context(), current_account().id
    filters = read_filters("source", "result", "request_id", "since", "until")
    source, result = filters.get("source"), filters.get("result")
    results = WAITING if result == "waiting" else [result] if result else None
    wanted = DeliveryFilter(
        source_id=None if source is None else sources.find_source(context, account_id, source).id,
        results=results,
        request_id=filters.get("request_id"),
        since=read_time(filters, "since"),
        until=read_time(filters, "until"),
    )
    page = read_page(
        lambda before, limit: deliveries.find_latest_deliveries(
            context, account_id, replace(wanted, before=before), limit
        ),
        lambda delivery: delivery.id,
        filters,
    )
    return render_template("deliveries.html", page=page)


@route(blueprint, "/<account>/deliveries/<uuid:delivery_id>", VIEWER)
def show_one(delivery_id: UUID) -> Any:
    """One delivery: what was posted, whether it was verified, and which events it made or why not."""
    row = _find(delivery_id)
    text = sources.find_source(app_context(), row.account_id, row.source).source if row.source and may(EDITOR) else ""
    return _page(row, SourceForm(text))


def _find(delivery_id: UUID) -> DeliveryRow:
    return deliveries.find_delivery(app_context(), current_account().id, delivery_id)


def _page(row: DeliveryRow, form: SourceForm, tried: TriedDocument | None = None) -> str:
    context = app_context()
    body = inspection.readable_body(context, deliveries.find_body(context, row), row.content_encoding)
    return render_template(
        "delivery.html",
        delivery=row,
        body=body.decode(errors="backslashreplace"),
        form=form,
        tried=tried,
        why_not=why_not_replayable(row, app_context().clock()),
        is_cut=len(body) > MAX_JSON,
    )


@route(blueprint, "/<account>/deliveries/<uuid:delivery_id>/body", VIEWER)
def download(delivery_id: UUID) -> Any:
    """The body byte for byte as it arrived, as a file."""
    fields = {"Content-Disposition": f'attachment; filename="delivery-{delivery_id}"'}
    body = deliveries.find_body(app_context(), _find(delivery_id))
    return Response(body, content_type="application/octet-stream", headers=fields)


@route(blueprint, "/<account>/deliveries/<uuid:delivery_id>/try", EDITOR, ("POST",))
def try_document(delivery_id: UUID) -> Any:
    """What a document makes of a kept delivery. Nothing is stored."""
    context, row, form = app_context(), _find(delivery_id), SourceForm(read_text())
    try:
        body = deliveries.find_body(context, row)
        sent = request_of(row, body, context.settings.max_batch_unpacked_bytes)
        return _page(row, form, try_text(context, row.account_id, form.text, sent, row))
    except InvalidDocument as exc:
        form.mistakes = exc.mistakes
    except Problem as exc:
        form.error = exc.detail
    return _page(row, form), 422


@route(blueprint, "/<account>/deliveries/<uuid:delivery_id>/replay", EDITOR, ("POST",))
def replay(delivery_id: UUID) -> Any:
    """Map a delivery again by the current version of its source."""
    try:
        _flash(delivery_replay.replay_delivery(app_context(), _find(delivery_id)))
    except Problem as exc:
        if exc.type is not ProblemType.CONFLICT:
            raise
        flash(exc.detail, "warning")
    return redirect(url_for("deliveries.show_one", account=current_account().slug, delivery_id=delivery_id))


@route(blueprint, "/<account>/source/<name>/replay", EDITOR)
def plan_replay(name: str) -> Any:
    """How many deliveries of a source are not mapped and why, and the button that maps them again."""
    source = sources.find_source(app_context(), current_account().id, name)
    wanted = DeliveryFilter(after=_after())
    plan = delivery_replay.plan_source_replay(app_context(), current_account().id, source.id, wanted)
    problems = plan.problems.most_common(_MAX_SHOWN)
    return render_template("source_replay.html", source=source, plan=plan, problems=problems, after=wanted.after)


def _after() -> UUID | None:
    """The delivery behind which to continue: those before it were tried."""
    return request.args.get("after", type=UUID)


@route(blueprint, "/<account>/source/<name>/replay", EDITOR, ("POST",))
def replay_all(name: str) -> Any:
    """Map the deliveries of a source again that are not mapped, oldest first."""
    account = current_account()
    result = delivery_replay.replay_source(app_context(), account.id, name, DeliveryFilter(after=_after()))
    if result.done:
        _flash(result)
    else:
        flash("All deliveries are mapped.")
    if result.next is not None:
        return redirect(url_for("deliveries.plan_replay", account=account.slug, name=name, after=result.next))
    return redirect(url_for("sources.show_one", account=account.slug, name=name))


def _flash(result: ReplayResult) -> None:
    earlier = f", {show_count(result.duplicates, 'event')} stored before" if result.duplicates else ""
    text = f"{result.mapped:,} of {result.done:,} mapped: {show_count(result.stored, 'new event')}{earlier}."
    flash(text, "warning" if result.failures else "message")
    flash_failures("Delivery", result.failures)


@route(blueprint, "/<account>/source/<name>/try", EDITOR)
def try_request(name: str) -> Any:
    """A form with a request, which begins with the sample of the preset."""
    source = sources.find_source(app_context(), current_account().id, name)
    provider = source.document.get("provider")
    sample = sample_of(provider).decode() if provider in preset_names() else _EMPTY_REQUEST
    return render_template("source_try.html", form=SourceForm(source.source), name=name, sent=sample, tried=None)


@route(blueprint, "/<account>/source/<name>/try", EDITOR, ("POST",))
def do_try_request(name: str) -> Any:
    """What the document in the form makes of the request in the form. Nothing is stored."""
    context, account_id = app_context(), current_account().id
    sources.find_source(context, account_id, name)
    form, sent = SourceForm(read_text()), request.form.get("request", "").replace("\r\n", "\n")
    tried = None
    try:
        parsed = read_request(sent.encode(), context.settings.max_batch_unpacked_bytes)
        tried = try_text(context, account_id, form.text, parsed)
    except InvalidDocument as exc:
        form.mistakes = exc.mistakes
    except UnreadableRequest as exc:
        form.error = f"The request cannot be read: {exc}"
    except Problem as exc:
        form.error = exc.detail
    page = render_template("source_try.html", form=form, name=name, sent=sent, tried=tried)
    return page, 422 if tried is None else 200


@route(blueprint, "/<account>/source/<name>/send", EDITOR, ("POST",))
def send_request(name: str) -> Any:
    """Sign the request in the form, and accept it as if the provider had posted it."""
    context, account = app_context(), current_account()
    source = sources.find_source(context, account.id, name)
    form, sent = SourceForm(source.source), request.form.get("request", "").replace("\r\n", "\n")
    extensions = current_app.extensions
    sender = SignedSender(context, extensions["accounts"], extensions["source_acceptor"])
    try:
        parsed = read_request(sent.encode(), context.settings.max_batch_unpacked_bytes)
        receipt = sender.send(source, parsed, request_id(), lambda found: partial(take_from_plan, found))
    except UnreadableRequest as exc:
        form.error = f"The request cannot be read: {exc}"
    except CannotSign as exc:
        form.error = f"The request cannot be signed: {exc}"
    except Problem as exc:
        form.error = exc.detail
    else:
        flash("The request was signed and accepted like one of the provider.")
        return redirect(url_for("deliveries.show_one", account=account.slug, delivery_id=receipt.id))
    return render_template("source_try.html", form=form, name=name, sent=sent, tried=None), 422
