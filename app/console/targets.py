"""Targets of an account that are paused while they keep failing, or disabled until somebody enables them."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, flash, redirect, render_template, request, url_for

from app.console.access import app_context, current_account, route
from app.console.lists import Page, read_cursor
from app.core.models import EDITOR, VIEWER
from app.services import inspection, integrations, targets

blueprint = Blueprint("targets", __name__)
# Targets may have a thousand characters, and are shown whole.
_PAGE = 25


@route(blueprint, "/<account>/targets", VIEWER)
def show() -> Any:
    """The targets, the latest first, with the runs that disabled them."""
    context, account_id = app_context(), current_account().id
    found = targets.list_targets(context, account_id, after=read_cursor(targets.read_cursor), limit=_PAGE + 1)
    rows = found[:_PAGE]
    page = Page(rows, targets.write_cursor(rows[-1]) if len(found) > _PAGE else None, {})
    runs = inspection.find_runs(context, account_id, [row.run_id for row in rows if row.run_id is not None])
    return render_template("targets.html", page=page, runs={run.id: run for run in runs})


@route(blueprint, "/<account>/targets/enable", EDITOR, ("POST",))
def enable() -> Any:
    """Enable a disabled target."""
    target = request.form.get("target", "")
    integrations.enable_target(app_context(), current_account().id, target)
    flash(f"{target} is enabled. Workers call it again within seconds.")
    return redirect(url_for("targets.show", account=current_account().slug))
