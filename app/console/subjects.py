"""One person, or another subject of events: timeline, why each workflow started or not, and erasure."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from flask import Blueprint, abort, flash, redirect, render_template, request, url_for
from flask_wtf import FlaskForm
from wtforms import HiddenField, StringField, SubmitField
from wtforms.validators import InputRequired

from app.console.access import app_context, current_account, route
from app.console.lists import read_filters, read_page
from app.core.exact_json import replace_unstorable
from app.core.models import OWNER, VIEWER
from app.core.phone_numbers import UnusablePhone, read_phone
from app.core.subjects import MAX_SUBJECT_LENGTH
from app.db.shared_sql import MAX_COUNTED
from app.services import data_subjects, deliveries, erasure_jobs, explanations, inspection, refusals, timeline

blueprint = Blueprint("subjects", __name__)


class ErasureForm(FlaskForm):  # type: ignore[misc]
    """Erases a person, whose id has to be typed."""

    subject = HiddenField()
    confirmation = StringField("Type the id to confirm", [InputRequired()], render_kw={"autocomplete": "off"})
    submit = SubmitField("Erase permanently")


@route(blueprint, "/<account>/subjects", VIEWER)
def find() -> Any:
    """Look for a subject by the id, or by that of an event or a run; a text that is the id of a row leads to its page."""
    account, wanted = current_account(), read_filters("subject").get("subject", "")
    if row := _find_row(wanted):
        return redirect(row)
    if wanted := wanted or _find_subject() or "":
        return redirect(url_for("subjects.show", account=account.slug, subject=wanted))
    return render_template("subjects.html")


def _find_row(text: str) -> str | None:
    """The page of the event, run, delivery or refusal with this id; None if there is none."""
    try:
        row_id = UUID(text)
    except ValueError:
        return None
    context, account = app_context(), current_account()
    if inspection.find_event_details(context, account.id, row_id):
        return url_for("events.show_one", account=account.slug, event_id=row_id)
    if inspection.find_run(context, account.id, row_id):
        return url_for("runs.show_one", account=account.slug, run_id=row_id)
    if account.id in deliveries.find_owners_of_delivery(context, row_id):
        return url_for("deliveries.show_one", account=account.slug, delivery_id=row_id)
    if account.id in refusals.find_owners_of_refusal(context, row_id):
        return url_for("refusals.show_one", account=account.slug, refusal_id=row_id)
    return None


def _find_subject() -> str | None:
    """The subject of the event or the run that the URL names; None when it names none."""
    context, account_id = app_context(), current_account().id
    event_id, run_id = request.args.get("event", type=UUID), request.args.get("run", type=UUID)
    if event_id is not None:
        found = inspection.find_event_details(context, account_id, event_id)
        return found.event.distinct_id if found else abort(404)
    if run_id is not None:
        run = inspection.find_run(context, account_id, run_id)
        return run.distinct_id if run else abort(404)
    return None


def _subject() -> str:
    """The subject that the URL names, letter by letter."""
    return replace_unstorable(request.args.get("subject", ""))[:MAX_SUBJECT_LENGTH] or abort(404)


@route(blueprint, "/<account>/subject", VIEWER)
def show() -> Any:
    """One subject: progress in patterns, and what came in and what that started, newest first."""
    context, account_id, subject = app_context(), current_account().id, _subject()
    page = read_page(
        lambda before, limit: timeline.find_timeline(context, account_id, subject, before, limit),
        lambda entry: entry.id,
        {"subject": subject},
    )
    progress = data_subjects.list_progress(context, account_id, subject) if page.is_first else []
    digits = None if page.rows else _digits(subject)
    return render_template("subject.html", subject=subject, progress=progress, page=page, digits=digits)


def _digits(text: str) -> str | None:
    """The digits of a phone number, which senders often have as the id; None if the text is no other spelling of one."""
    try:
        digits = read_phone(text).removeprefix("+")
    except UnusablePhone:
        return None
    return digits if digits != text else None


@route(blueprint, "/<account>/subject/why", VIEWER)
def why() -> Any:
    """Why each workflow, or one, did or did not start for a subject."""
    subject, workflow = _subject(), read_filters("workflow").get("workflow")
    answers = explanations.explain_starts(app_context(), current_account().id, subject)
    names = [answer.workflow for answer in answers]
    if workflow is not None:
        found = [answer for answer in answers if answer.workflow == workflow]
        answers = found or explanations.explain_starts(app_context(), current_account().id, subject, workflow)
    return render_template(
        "subject_why.html",
        subject=subject,
        workflow=workflow,
        names=names,
        answers=answers,
        max_shown=explanations.MAX_WORKFLOWS,
    )


@route(blueprint, "/<account>/subject/erase", OWNER)
def confirm_erasure() -> Any:
    """What would be erased, and the form that does it."""
    return _erasure_page(ErasureForm(formdata=None, subject=_subject()))


def _erasure_page(form: ErasureForm, status: int = 200) -> Any:
    subject = form.subject.data
    counts = timeline.count_subject(app_context(), current_account().id, subject)
    return render_template(
        "subject_erase.html", subject=subject, form=form, counts=counts, max_counted=MAX_COUNTED
    ), status


@route(blueprint, "/<account>/subject/erase", OWNER, ("POST",))
def erase() -> Any:
    """Have a worker erase a subject whose id was typed again, and show how far it has come."""
    form = ErasureForm()
    if not form.subject.data:
        abort(404)
    if form.validate_on_submit() and form.confirmation.data.strip() != form.subject.data.strip():
        form.confirmation.errors = ["This is not the id."]
    if form.errors:
        return _erasure_page(form, 422)
    account = current_account()
    if erasure_jobs.request_erasure(app_context(), account.id, form.subject.data):
        flash("A worker erases the person now. This page shows how far it has come, and then the receipt.")
    else:
        flash("The person is being erased already.")
    return redirect(url_for("subjects.show_receipts", account=account.slug))


@route(blueprint, "/<account>/receipts", VIEWER)
def show_receipts() -> Any:
    """Erasures that have not ended, and the receipts of those that have, newest first."""
    return _show_receipts("receipts.html")


@route(blueprint, "/<account>/receipts/now", VIEWER)
def show_receipts_now() -> Any:
    """The same alone, for a page that is open."""
    return _show_receipts("receipts_now.html")


def _show_receipts(template: str) -> Any:
    context, account_id = app_context(), current_account().id
    page = read_page(
        lambda before, limit: data_subjects.list_receipts(context, account_id, None, before=before, limit=limit),
        lambda receipt: receipt.id,
        {},
    )
    unfinished = erasure_jobs.list_unfinished(context, account_id) if page.is_first else []
    return render_template(template, page=page, unfinished=unfinished)
