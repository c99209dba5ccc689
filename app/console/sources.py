"""Sources of an account: the list, a new one, and the page of one with its document, versions, URL and deliveries."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from flask import Blueprint, abort, flash, redirect, render_template, request, url_for

from app.console.access import app_context, current_account, origin, route
from app.console.source_form import SourceForm, prepared_text, read_text, submit
from app.core.models import EDITOR, VIEWER
from app.db.deliveries import WAITING, DeliveryFilter
from app.db.shared_sql import MAX_COUNTED
from app.services import deliveries, differences, secrets, sources
from app.services.sources import OVERLAP
from app.workflows.sources.preset_files import find_preset, preset_names
from app.workflows.validate import NAME

blueprint = Blueprint("sources", __name__)
_PAGE = 50
_DAY = timedelta(days=1)
# Deliveries and versions that the page of a source shows.
_LATEST, _VERSIONS = 10, 20
# How long the old URL works, in hours.
_OVERLAPS = (24, 1, 168, 0)


@route(blueprint, "/<account>/sources", VIEWER)
def show() -> Any:
    """The sources by name, with their deliveries of the last 24 hours."""
    context, account_id = app_context(), current_account().id
    found = sources.list_sources(context, account_id, after=request.args.get("after", ""), limit=_PAGE + 1)
    rows = found[:_PAGE]
    counts = deliveries.count_by_source(context, account_id, [one.id for one in rows], context.clock() - _DAY)
    more = rows[-1].name if len(found) > _PAGE else None
    return render_template("sources.html", sources=rows, counts=counts, more=more, max_counted=MAX_COUNTED)


@route(blueprint, "/<account>/sources/new", EDITOR)
def prepare() -> Any:
    """Choose a preset, a name and a secret; then the document that they make, to create the source."""
    provider, name = request.args.get("provider"), request.args.get("name", "").strip()
    is_named = NAME.fullmatch(name) is not None
    form = None
    if provider is not None and is_named and provider in ("", *preset_names()):
        form = SourceForm(prepared_text(provider, name, request.args.get("secret", "")))
        form.check(app_context(), current_account().id)
    return _new_page(form, is_invalid=bool(name) and not is_named)


def _new_page(form: SourceForm | None, *, is_invalid: bool = False, status: int = 200) -> Any:
    presets = [(name, find_preset(name)["description"]) for name in preset_names()]
    stored = [one.name for one in secrets.list_secrets(app_context(), current_account().id)]
    page = render_template("source_new.html", form=form, presets=presets, stored=stored, is_invalid=is_invalid)
    return page, status


@route(blueprint, "/<account>/sources", EDITOR, ("POST",))
def create() -> Any:
    """Create a source. The response is the only page that ever shows its URL."""
    context, account_id = app_context(), current_account().id
    form = SourceForm(read_text())
    applied = submit(
        context, account_id, form, lambda text: sources.apply_source(context, account_id, text, is_new=True)
    )
    if applied is None:
        return _new_page(form, status=422)
    assert applied.token is not None
    return _url_page(applied.name, applied.token)


def _url_page(name: str, token: str, **values: Any) -> str:
    source = sources.find_source(app_context(), current_account().id, name)
    return render_template("source_url.html", source=source, url=f"{origin()}/hooks/{token}", **values)


@route(blueprint, "/<account>/sources/check", EDITOR, ("POST",))
def check() -> Any:
    """The mistakes of the document in the form, while it is typed."""
    form = SourceForm(read_text())
    form.check(app_context(), current_account().id)
    return render_template("source_mistakes.html", form=form)


@route(blueprint, "/<account>/source/<name>", VIEWER)
def show_one(name: str) -> Any:
    """One source: its document, URL and versions, and its latest deliveries."""
    context, account_id = app_context(), current_account().id
    source = sources.find_source(context, account_id, name)
    counts = deliveries.count_by_source(context, account_id, [source.id], context.clock() - _DAY)[source.id]
    latest = deliveries.find_latest_deliveries(context, account_id, DeliveryFilter(source.id), _LATEST)
    waiting = deliveries.find_first_deliveries(context, account_id, DeliveryFilter(source.id, WAITING), 1)
    return render_template(
        "source.html",
        source=source,
        counts=counts,
        max_counted=MAX_COUNTED,
        latest=latest,
        is_waiting=bool(waiting),
        versions=sources.list_versions(context, account_id, name, _VERSIONS),
        overlaps=_OVERLAPS,
    )


@route(blueprint, "/<account>/source/<name>/edit", EDITOR)
def edit(name: str) -> Any:
    """The document in a form."""
    context, account_id = app_context(), current_account().id
    source = sources.find_source(context, account_id, name)
    form = SourceForm(source.source)
    form.check(context, account_id)
    return render_template("source_edit.html", name=name, form=form, version=source.latest_version)


@route(blueprint, "/<account>/source/<name>/edit", EDITOR, ("POST",))
def save(name: str) -> Any:
    """Save the next version, which is in use from the next delivery on."""
    context, account = app_context(), current_account()
    sources.find_source(context, account.id, name)
    form, version = SourceForm(read_text()), request.form.get("version", 0, type=int)

    def apply(text: str) -> sources.AppliedSource:
        return sources.apply_source(context, account.id, text, edited=(name, version))

    applied = submit(context, account.id, form, apply)
    if applied is None:
        return render_template("source_edit.html", name=name, form=form, version=version), 422
    if applied.change == "unchanged":
        flash("Nothing has changed.")
    else:
        flash(f"Version {applied.version} is in use from the next delivery on ({', '.join(applied.differences[:10])}).")
    return redirect(url_for("sources.show_one", account=account.slug, name=name))


@route(blueprint, "/<account>/source/<name>/versions/<version>", VIEWER)
def show_version(name: str, version: str) -> Any:
    """The document of one version, and what it changed."""
    if not version.isdecimal() or len(version) > 9:
        abort(404)
    context, account_id, number = app_context(), current_account().id, int(version)
    text = sources.find_version(context, account_id, name, number)
    before = sources.find_version(context, account_id, name, number - 1) if number > 1 else None
    rows = [] if before is None else differences.compare(before, text)
    values = {"rows": rows, "limit": differences.MAX_ROWS}
    return render_template("source_version.html", name=name, version=number, text=text, **values)


@route(blueprint, "/<account>/source/<name>/rotate", EDITOR, ("POST",))
def rotate(name: str) -> Any:
    """Make a new URL, which is shown once; the old one works until the overlap has ended."""
    hours = request.form.get("overlap", "")
    known: Mapping[str, timedelta] = {str(one): timedelta(hours=one) for one in _OVERLAPS}
    rotated = sources.rotate_token(app_context(), current_account().id, name, known.get(hours, OVERLAP))
    return _url_page(name, rotated.token, is_rotated=True, old_until=rotated.old_until)


@route(blueprint, "/<account>/source/<name>/switch", EDITOR, ("POST",))
def switch(name: str) -> Any:
    """Enable or disable a source."""
    account, enabled = current_account(), request.form.get("enabled") == "1"
    sources.set_enabled(app_context(), account.id, name, enabled=enabled)
    flash("The source is enabled." if enabled else "The source is disabled: deliveries are kept and not mapped.")
    return redirect(url_for("sources.show_one", account=account.slug, name=name))


@route(blueprint, "/<account>/source/<name>/delete", EDITOR)
def plan_delete(name: str) -> Any:
    """What ends with a source, and the button that deletes it."""
    context, account_id = app_context(), current_account().id
    source = sources.find_source(context, account_id, name)
    waiting = deliveries.find_first_deliveries(context, account_id, DeliveryFilter(source.id, WAITING), 1)
    return render_template("source_delete.html", source=source, is_waiting=bool(waiting))


@route(blueprint, "/<account>/source/<name>/delete", EDITOR, ("POST",))
def delete(name: str) -> Any:
    """Delete a source with its versions and URLs."""
    account = current_account()
    sources.delete_source(app_context(), account.id, name)
    flash(f"The source {name} is deleted. Its URL no longer works.")
    return redirect(url_for("sources.show", account=account.slug))
