"""The editor of workflows: a text area whose mistakes are shown at their lines, and saving as a new version."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from flask import Blueprint, abort, flash, redirect, render_template, request, url_for

from app.console.access import app_context, current_account, route
from app.core.models import EDITOR, VIEWER
from app.services import workflows
from app.services.workflows import Applied, SavedMeanwhile
from app.workflows.workflow_template_files import workflow_templates
from app.workflows.yaml_loader import InvalidDocument, Mistake

blueprint = Blueprint("workflow_editor", __name__)
_NEW = """\
name: my-workflow
description: What it is for
on: order_placed
steps:
  - log: "{{ distinct_id }} has ordered"
"""
# Lines of the text area.
_MIN_LINES = 16


@dataclass(frozen=True, slots=True)
class Draft:
    """What the form holds: the text, the workflow that it was loaded from ("" for a new one), that one's latest version then (0),
    and the other name about which the page has warned."""

    source: str
    loaded: str = ""
    version: int = 0
    warned: str = ""

    @property
    def lines(self) -> Sequence[str]:
        """The lines of the text, as YAML counts them."""
        return self.source.split("\n")


@dataclass(frozen=True, slots=True)
class Checked:
    """The name in the text ("" without a valid one) and the mistakes. `renamed`: saving creates another workflow."""

    name: str
    mistakes: Sequence[Mistake]
    renamed: bool


@route(blueprint, "/<account>/workflows/edit", EDITOR)
def edit() -> Any:
    """The latest version of the workflow `name`, or a new workflow, which may begin from a `template`."""
    name, template = request.args.get("name", ""), request.args.get("template", "")
    if not name and template:
        if template not in workflow_templates():
            abort(404)
        return _page(Draft(workflow_templates()[template].source))
    if not name:
        return _page(Draft(_NEW))
    found = workflows.find_workflow(app_context(), current_account().id, name)
    return _page(Draft(found.source, found.name, found.latest_version))


@route(blueprint, "/<account>/workflows/templates", VIEWER)
def show_templates() -> Any:
    """The templates to begin from."""
    return render_template("workflow_templates.html", templates=workflow_templates().values())


@route(blueprint, "/<account>/workflows/check", EDITOR, ("POST",))
def check() -> Any:
    """The mistakes of the text: the fragment alone for the script, else the page with them."""
    draft = read_draft()
    if "X-Fragment" in request.headers:
        return render_template("workflow_mistakes.html", draft=draft, checked=_check(draft))
    return _page(draft)


@route(blueprint, "/<account>/workflows/edit", EDITOR, ("POST",))
def save() -> Any:
    """Save the text as a new version, and enable it if that was chosen."""
    draft, account = read_draft(), current_account()
    checked, how = _check(draft), request.form.get("save", "")
    if checked.renamed and draft.warned != checked.name:
        return _page(draft, checked, status=409)
    if checked.mistakes and how != "with-mistakes":
        return _page(draft, checked, status=422)
    after = 0 if checked.renamed else draft.version
    try:
        saved = workflows.save_edited(app_context(), account.id, draft.source, after, enable=how == "enable")
    except InvalidDocument as exc:
        return _page(draft, Checked(checked.name, exc.mistakes, checked.renamed), status=422)
    except SavedMeanwhile as exc:
        now = Draft(draft.source, exc.name if exc.version else "", exc.version)
        return _page(now, meanwhile=exc, opened=draft, status=409)
    flash(_outcome(saved))
    return redirect(url_for("workflows.show", account=account.slug, name=saved.name, version=saved.version))


def read_draft() -> Draft:
    """What the form holds. Browsers send CRLF."""
    form = request.form
    version = form.get("version", "")
    return Draft(
        form.get("source", "").replace("\r\n", "\n").replace("\r", "\n"),
        form.get("loaded", ""),
        int(version) if version.isascii() and version.isdecimal() and len(version) < 10 else 0,
        form.get("warned", ""),
    )


def _check(draft: Draft) -> Checked:
    name, mistakes = workflows.check_in_account(app_context(), current_account().id, draft.source)
    return Checked(name, mistakes, renamed=bool(draft.loaded and name and name != draft.loaded))


def _page(draft: Draft, checked: Checked | None = None, *, status: int = 200, **more: Any) -> Any:
    rows = max(_MIN_LINES, len(draft.lines) + 1)
    return render_template(
        "workflow_edit.html", draft=draft, checked=checked or _check(draft), rows=rows, **more
    ), status


def _outcome(saved: Applied) -> str:
    what = (
        f"Nothing has changed since version {saved.version}"
        if saved.change == "unchanged"
        else f"Version {saved.version} is saved"
    )
    if saved.enabled_version == saved.version:
        return f"{what}. It is enabled."
    enabled = f"version {saved.enabled_version} stays enabled" if saved.enabled_version else "the workflow is disabled"
    return f"{what}; {enabled}."
