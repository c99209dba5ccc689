"""Workflows of an account: the list with what each does now, one workflow with its drawing, its versions, and what a version
would have done."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from flask import Blueprint, Response, abort, flash, redirect, render_template, request, url_for
from markupsafe import escape
from werkzeug.wrappers import Response as AnyResponse

from app.console import drawing
from app.console.access import app_context, current_account, route
from app.console.jinja_filters import MAX_JSON, show_count
from app.console.lists import PAGE, read_filters, read_page_by_name
from app.core.errors import Problem, Unavailable
from app.core.models import EDITOR, VIEWER
from app.db.inspection import RunFilter
from app.db.shared_sql import MAX_COUNTED
from app.db.workflow_activity import MAX_RUNS
from app.db.workflows import WorkflowRow
from app.services import differences, inspection, integrations, simulation, workflow_activity, workflows
from app.workflows.validate import find_mistakes
from app.workflows.yaml_loader import InvalidDocument, Mistake, read_document

blueprint = Blueprint("workflows", __name__)
_LATEST_RUNS = 10
# Bytes of HTML of a document.
_MAX_HTML = 30_000
# Days of a backtest: those of the first page, and at most; and the seconds that it may take.
_DAYS, _MAX_DAYS, _SECONDS = 7, 31, 5.0


@route(blueprint, "/<account>/workflows", VIEWER)
def show_all() -> Any:
    """The workflows of the account by name, each with what it does now."""
    context, account_id, filters = app_context(), current_account().id, read_filters("name")
    part = filters.get("name", "")
    page = read_page_by_name(
        lambda after, limit: workflow_activity.list_activity(context, account_id, part=part, after=after, limit=limit),
        lambda row: row[0].name,
        filters,
    )
    return render_template("workflows.html", page=page)


@route(blueprint, "/<account>/workflow", VIEWER)
def show() -> Any:
    """The workflow that the URL names: its enabled version (else the newest), or the one of the URL; and what it does now."""
    context, account_id, workflow = app_context(), current_account().id, _find()
    version = _read_version(workflow, workflow.enabled_version or workflow.latest_version)
    source = workflows.find_version(context, account_id, workflow.name, version)
    mistakes = [] if version == workflow.enabled_version else find_mistakes(source.encode())
    document, shown = None if mistakes else read_document(source).value, _cut(source)
    return render_template(
        "workflow.html",
        workflow=workflow,
        version=version,
        lines=shown.splitlines(),
        is_cut=len(shown) < len(source),
        mistakes=mistakes,
        missing=[] if document is None else integrations.find_missing_kinds(context, account_id, document),
        document=document,
        pattern=[] if document is None else [drawing.draw_pattern(document["on"])],
        exits=[drawing.draw_pattern(document["exit_on"])] if document and "exit_on" in document else [],
        first_event="" if document is None else drawing.first_event(document["on"]),
        steps=[] if document is None else drawing.draw_steps(document["steps"]),
        is_drawn=lambda boxes: drawing.count_boxes(boxes) <= drawing.MAX_BOXES,
        details=workflow_activity.find_details(context, workflow),
        runs=inspection.find_latest_runs(context, account_id, RunFilter(workflow=workflow.name), _LATEST_RUNS),
    )


def _cut(source: str) -> str:
    """The beginning of a document that a page has room for; quotes take five characters."""
    shown = source[:MAX_JSON]
    while len(escape(shown).encode()) > _MAX_HTML:
        shown = shown[: len(shown) * 3 // 4]
    return shown


@route(blueprint, "/<account>/workflow/source", VIEWER)
def show_source() -> Any:
    """The document of a version as it was saved, as text."""
    workflow = _find()
    version = _read_version(workflow, workflow.latest_version)
    source = workflows.find_version(app_context(), current_account().id, workflow.name, version)
    return Response(source, content_type="text/plain; charset=utf-8")


def _find() -> WorkflowRow:
    """The workflow that the URL or the form names. 404 when there is none."""
    try:
        return workflows.find_workflow(app_context(), current_account().id, request.values.get("name", ""))
    except Problem:
        abort(404)


def _read_version(workflow: WorkflowRow, default: int, field: str = "version") -> int:
    """A version of the workflow that the URL or the form names. 404 when there is none."""
    version = request.values.get(field, default, type=int)
    if not 1 <= version <= workflow.latest_version:
        abort(404)
    return version


def _to_workflow(name: str) -> AnyResponse:
    return redirect(url_for("workflows.show", account=current_account().slug, name=name))


# Versions


@route(blueprint, "/<account>/workflow/versions", VIEWER)
def show_versions() -> Any:
    """The versions of a workflow, newest first: when each was saved, and by whom."""
    workflow = _find()
    before = _read_version(workflow, workflow.latest_version + 1, "after") if "after" in request.args else None
    found = workflow_activity.list_versions(app_context(), workflow, before=before, limit=PAGE + 1)
    more = found[PAGE - 1].version if len(found) > PAGE else None
    return render_template("workflow_versions.html", workflow=workflow, versions=found[:PAGE], more=more)


@route(blueprint, "/<account>/workflow/difference", VIEWER)
def show_difference() -> Any:
    """What changed from one version to another: by default the last change."""
    workflow, context, account_id = _find(), app_context(), current_account().id
    new = _read_version(workflow, workflow.latest_version, "new")
    old = _read_version(workflow, max(1, new - 1), "old")
    sources = [workflows.find_version(context, account_id, workflow.name, version) for version in (old, new)]
    rows = differences.compare(*sources)
    return render_template(
        "workflow_difference.html", workflow=workflow, old=old, new=new, rows=rows, limit=differences.MAX_ROWS
    )


@route(blueprint, "/<account>/workflow/enable", EDITOR, ("POST",))
def enable() -> Any:
    """Enable a version."""
    workflow = _find()
    version = _read_version(workflow, workflow.latest_version)
    try:
        workflows.enable_workflow(app_context(), current_account().id, workflow.name, version)
    except InvalidDocument as exc:
        return _refused(workflow, version, exc.mistakes)
    flash(f"Version {version} is enabled: it looks at events from now on.")
    return _to_workflow(workflow.name)


def _refused(workflow: WorkflowRow, version: int, mistakes: list[Mistake]) -> Any:
    values = {"workflow": workflow, "version": version, "mistakes": mistakes}
    return render_template("workflow_refused.html", **values), 422


@route(blueprint, "/<account>/workflow/disable", EDITOR)
def plan_disable() -> Any:
    """What disabling means, and whether its runs are cancelled, too."""
    return _plan("workflow_disable.html")


@route(blueprint, "/<account>/workflow/delete", EDITOR)
def plan_delete() -> Any:
    """What would be deleted."""
    return _plan("workflow_delete.html")


def _plan(template: str) -> Any:
    workflow = _find()
    runs = workflow_activity.count_runs(app_context(), current_account().id, workflow.id)
    return render_template(template, workflow=workflow, runs=runs, max_runs=MAX_RUNS, max_running=MAX_COUNTED)


@route(blueprint, "/<account>/workflow/disable", EDITOR, ("POST",))
def disable() -> Any:
    """Disable a workflow. Its runs go on, or are cancelled."""
    context, account_id, workflow = app_context(), current_account().id, _find()
    cancel_runs = "cancel_runs" in request.form
    cancelled = workflows.disable_workflow(context, account_id, workflow.name, cancel_runs=cancel_runs, at_once=True)
    more = f" {show_count(cancelled, 'run')} cancelled." if cancel_runs else ""
    flash(f"{workflow.name} is disabled: it looks at no further event.{more}")
    return _to_workflow(workflow.name)


@route(blueprint, "/<account>/workflow/delete", EDITOR, ("POST",))
def delete() -> Any:
    """Delete a workflow with its versions, progress and runs."""
    context, account_id, workflow = app_context(), current_account().id, _find()
    erased = workflows.delete_workflow(context, account_id, workflow.name, at_once=True)
    flash(f"{workflow.name} is deleted, with {show_count(erased.runs, 'run')}.")
    return redirect(url_for("workflows.show_all", account=current_account().slug))


# Backtest


@route(blueprint, "/<account>/workflow/backtest", VIEWER)
def backtest() -> Any:
    """What a version would have done with the stored events of the last days. Changes nothing."""
    context, account_id, workflow = app_context(), current_account().id, _find()
    version = _read_version(workflow, workflow.latest_version)
    days = min(max(request.args.get("days", _DAYS, type=int), 1), _MAX_DAYS)
    values = {"workflow": workflow, "version": version, "days": days, "max_days": _MAX_DAYS}
    since = context.clock() - timedelta(days=days)
    try:
        rule = simulation.compile_source(workflows.find_version(context, account_id, workflow.name, version))
        tally, is_complete = simulation.tally_backtest(context, account_id, rule, since, _SECONDS)
    except InvalidDocument as exc:
        return _refused(workflow, version, exc.mistakes)
    except Unavailable:
        return render_template("workflow_backtest.html", tally=None, **values), 503
    dates = [f"{since + timedelta(days=day):%Y-%m-%d}" for day in range(days + 1)]
    starts = [(date, tally.days.get(date, 0)) for date in dates]
    return render_template("workflow_backtest.html", tally=tally, is_complete=is_complete, starts=starts, **values)
