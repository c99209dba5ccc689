"""Tries a workflow on a stored or an own event: would it start, why not, and what would each step send. Sends nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from flask import Blueprint, redirect, render_template, request, url_for

from app.console.access import app_context, current_account, route
from app.console.drawing import first_event
from app.console.workflow_editor import Draft, read_draft
from app.core.errors import Problem
from app.core.models import EDITOR
from app.services import workflow_trial, workflows
from app.services.run_trial import request_parts
from app.services.workflow_trial import Trial
from app.workflows.workflow_template_files import workflow_templates
from app.workflows.yaml_loader import InvalidDocument, Mistake, read_document

blueprint = Blueprint("workflow_trial", __name__)
_EXAMPLE = """\
{"event": "EVENT", "distinct_id": "919876543210", "phone": "+919876543210", "data": {}}
"""
_OWN, _LATEST, _STORED = "own", "latest", "stored"
# Seconds of a trial.
_SECONDS = 3.0
# Characters of a text of a request that the page shows.
MAX_TEXT = 4_000


@dataclass(frozen=True, slots=True)
class Form:
    """What the form holds: the text of the workflow with what the editor knows of it, on which kind of event it is tried, and the
    events."""

    draft: Draft
    on: str
    own: str
    latest: str
    event_id: str

    @property
    def source(self) -> str:
        """The text of the workflow."""
        return self.draft.source


@route(blueprint, "/<account>/workflows/try", EDITOR)
def show() -> Any:
    """The form for the workflow `name` (and `version`); with an `event`, what it would do on this stored event."""
    name, version = request.args.get("name", ""), request.args.get("version", "")
    if not name:
        return redirect(url_for("workflow_editor.edit", account=current_account().slug))
    context, account_id = app_context(), current_account().id
    found = workflows.find_workflow(context, account_id, name)
    number = int(version) if version.isascii() and version.isdecimal() and len(version) < 10 else found.latest_version
    draft = Draft(workflows.find_version(context, account_id, name, number), name, found.latest_version)
    event_id = request.args.get("event", "")
    form = _form(draft, _STORED if event_id else "", event_id=event_id)
    return _answer(form) if event_id else _page(form)


@route(blueprint, "/<account>/workflows/try", EDITOR, ("POST",))
def run() -> Any:
    """What the text of the form, saved or not, would do. From the editor, without an event, the form for it."""
    draft, on = read_draft(), request.form.get("on", "")
    form = _form(draft, on, request.form.get("own", ""), request.form.get("latest", ""), request.form.get("event", ""))
    return _answer(form) if on else _page(form)


def _form(draft: Draft, on: str, own: str = "", latest: str = "", event_id: str = "") -> Form:
    """The form, with the names of events of the workflow where nothing was chosen."""
    document = read_document(draft.source).value
    name = first_event(document.get("on")) if isinstance(document, dict) else ""
    template = workflow_templates().get(str(document.get("name"))) if isinstance(document, dict) else None
    sample = template.sample if template else _EXAMPLE.replace("EVENT", name.replace('"', "") or "order_placed")
    return Form(draft, on or _OWN, own or sample, latest or name, event_id)


def _answer(form: Form) -> Any:
    context, account_id = app_context(), current_account().id
    try:
        if form.on == _OWN:
            events = workflow_trial.read_events(form.own, context.clock(), account_id)
            trial = workflow_trial.try_own(context, account_id, form.source, events, seconds=_SECONDS)
        else:
            chosen = _event_id(form)
            trial = workflow_trial.try_stored(context, account_id, form.source, chosen, seconds=_SECONDS)
    except InvalidDocument as exc:
        return _page(form, mistakes=exc.mistakes, status=422)
    except ValueError as exc:
        return _page(form, error=str(exc), status=422)
    except Problem as exc:
        return _page(form, error=exc.detail, status=exc.status)
    return _page(form, trial)


def _event_id(form: Form) -> UUID:
    """The stored event that was chosen. Raises ValueError, and Problem 404."""
    if form.on == _LATEST:
        return workflow_trial.find_latest_event(app_context(), current_account().id, form.latest.strip())
    try:
        return UUID(form.event_id.strip())
    except ValueError:
        raise ValueError("The id of an event is expected; the page of an event shows it.") from None


def _page(
    form: Form, trial: Trial | None = None, *, mistakes: list[Mistake] | None = None, error: str = "", status: int = 200
) -> Any:
    values = {"form": form, "trial": trial, "mistakes": mistakes or [], "error": error}
    return render_template("workflow_try.html", request_parts=request_parts, max_text=MAX_TEXT, **values), status
