"""Runs of an account: the list, one run with its steps and attempts, and retry and cancel, of one run or of many after a plan."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from uuid import UUID

from flask import Blueprint, abort, flash, redirect, render_template, request, url_for
from werkzeug.wrappers import Response

from app.console.access import app_context, current_account, route
from app.console.jinja_filters import show_count
from app.console.lists import read_filters, read_page, read_time
from app.console.timing import LENGTH, time_run
from app.core.models import EDITOR, VIEWER
from app.db.inspection import RUN_STATUSES, RunFilter
from app.services import inspection, runs
from app.services.runs import MAX_PLANNED

blueprint = Blueprint("runs", __name__)
# Steps and attempts of a run that its page shows, the latest.
_MAX_STEPS, _MAX_ATTEMPTS = 100, 1_000


@route(blueprint, "/<account>/runs", VIEWER)
def show() -> Any:
    """The runs that pass the filters of the URL, newest first."""
    filters = _read_filters()
    wanted, account_id = _filter_of(filters), current_account().id
    page = read_page(
        lambda before, limit: inspection.find_latest_runs(
            app_context(), account_id, replace(wanted, before=before), limit
        ),
        lambda run: run.id,
        filters,
    )
    rest = {name: text for name, text in filters.items() if name != "status"}
    return render_template("runs.html", page=page, statuses=RUN_STATUSES, rest=rest)


def _read_filters() -> dict[str, str]:
    filters = read_filters("workflow", "subject", "status", "since", "until", "target", "error_class")
    # Bookmarks of a release before the filter `status` have this parameter.
    return {**filters, "status": "failed"} if "failed" in request.args else filters


def _filter_of(filters: dict[str, str]) -> RunFilter:
    """As `signalbox run list` has it: the times of failed runs are those of the failure."""
    return RunFilter(
        failed=filters.get("status") == "failed",
        workflow=filters.get("workflow"),
        subject=filters.get("subject"),
        since=read_time(filters, "since"),
        until=read_time(filters, "until"),
        status=filters.get("status"),
        target=filters.get("target"),
        error_class=filters.get("error_class"),
    )


@route(blueprint, "/<account>/runs/<uuid:run_id>", VIEWER)
def show_one(run_id: UUID) -> Any:
    """One run: its steps in order, and the request and answer of each attempt."""
    context = app_context()
    found = inspection.find_latest_of_run(context, current_account().id, run_id, _MAX_STEPS, _MAX_ATTEMPTS)
    if found is None:
        abort(404)
    attempts: dict[int, list[Any]] = {}
    details, totals = found.details, found.totals
    for attempt in details.attempts:
        attempts.setdefault(attempt.ordinal, []).append(attempt)
    now = context.clock()
    timing = time_run(details.run, details.attempts, totals.working, now)
    values = {"attempts": attempts, "timing": timing, "length": LENGTH, "now": now}
    return render_template("run.html", run=details.run, details=details, blocks=found.blocks, totals=totals, **values)


@route(blueprint, "/<account>/runs/<uuid:run_id>/retry", EDITOR, ("POST",))
def retry(run_id: UUID) -> Any:
    """Retry a failed run at the failed step."""
    done = runs.retry_runs(app_context(), current_account().id, [run_id])
    flash("The run continues at the failed step." if done else "The run has not failed, so it was not retried.")
    return redirect(url_for("runs.show_one", account=current_account().slug, run_id=run_id))


@route(blueprint, "/<account>/runs/<uuid:run_id>/cancel", EDITOR, ("POST",))
def cancel(run_id: UUID) -> Any:
    """Cancel a running run."""
    done = runs.cancel_runs(app_context(), current_account().id, [run_id])
    flash("The run is cancelled." if done else "The run does not run any more, so it was not cancelled.")
    return redirect(url_for("runs.show_one", account=current_account().slug, run_id=run_id))


# Many runs


@route(blueprint, "/<account>/runs/retry", EDITOR)
def plan_retry() -> Any:
    """Which failed runs would be retried: those that are named, or that pass the filters."""
    return _plan("retry", "failed")


@route(blueprint, "/<account>/runs/cancel", EDITOR)
def plan_cancel() -> Any:
    """Which running runs would be cancelled: those that are named, or that pass the filters."""
    return _plan("cancel", "running")


def _plan(action: str, status: str) -> Any:
    filters, context, account_id = _read_filters(), app_context(), current_account().id
    is_named = "chosen" in request.args
    if is_named:
        rows = inspection.find_runs(context, account_id, _read_ids(request.args.getlist("run")))
        found, has_more = [run for run in rows if run.status == status], False
    else:
        found, has_more = runs.plan_runs(context, account_id, _filter_of({**filters, "status": status}))
    chosen_by = {} if is_named else {name: text for name, text in filters.items() if name != "status"}
    values = {"runs": found, "more": has_more, "chosen_by": chosen_by, "action": action}
    return render_template("runs_plan.html", is_named=is_named, status=status, **values)


def _read_ids(texts: list[str]) -> list[UUID]:
    """The ids of a form. A text that is none has not come from a page: 400."""
    try:
        return list(dict.fromkeys(UUID(text) for text in texts[:MAX_PLANNED]))
    except ValueError:
        abort(400)


@route(blueprint, "/<account>/runs/retry", EDITOR, ("POST",))
def retry_many() -> Any:
    """Retry the runs of a plan."""
    chosen, filters = _read_ids(request.form.getlist("run")), _read_filters()
    done = runs.retry_runs(app_context(), current_account().id, chosen, chosen_by=filters or None)
    return _finish_plan(len(chosen), len(done), "scheduled again at the failed step")


@route(blueprint, "/<account>/runs/cancel", EDITOR, ("POST",))
def cancel_many() -> Any:
    """Cancel the runs of a plan."""
    chosen = _read_ids(request.form.getlist("run"))
    done = runs.cancel_runs(app_context(), current_account().id, chosen)
    return _finish_plan(len(chosen), len(done), "cancelled")


def _finish_plan(wanted: int, done: int, what: str) -> Response:
    rest = (
        f" {show_count(wanted - done, 'run')} changed in the meantime and were left unchanged." if done < wanted else ""
    )
    flash(f"{show_count(done, 'run')} {what}.{rest}")
    return redirect(url_for("runs.show", account=current_account().slug))
