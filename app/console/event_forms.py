"""What people do with events: send a test event, and replay a stored one after a look at what would start."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from flask import abort, current_app, flash, redirect, render_template, request, url_for
from flask_wtf import FlaskForm
from wtforms import StringField, SubmitField, TelField, TextAreaField

from app.api.sender import take_from_plan
from app.console.access import app_context, current_account, route
from app.console.events import blueprint
from app.console.jinja_filters import show_count
from app.core.errors import Problem
from app.core.models import EDITOR, Receipt
from app.ingest.account_cache import AccountCache
from app.ingest.event_replay import Replayed, replay_event
from app.ingest.trial_event import TypedEvent, send_test_event

_DATA = '{\n  "product_name": "Blue shirt",\n  "price": 499.00,\n  "cart_url": "https://shop.example/cart/17"\n}'


class EventForm(FlaskForm):  # type: ignore[misc]
    """An event to send. The receivers' own checks find its mistakes."""

    event = StringField("Event", description="Its name, such as order_created.", render_kw={"maxlength": 255})
    distinct_id = StringField(
        "Person",
        description="The id by which you know the person, such as a customer number or the digits of the phone number.",
        render_kw={"maxlength": 255},
    )
    phone = TelField(
        "Phone", description="With country code, such as +915673412780. One of person and phone is needed."
    )
    data = TextAreaField(
        "Data", description="A JSON object.", render_kw={"rows": 8, "spellcheck": "false"}, default=_DATA
    )
    submit = SubmitField("Send")


@route(blueprint, "/<account>/events/new", EDITOR)
def new() -> Any:
    """The form that sends a test event; fields of the URL are filled in."""
    return _page(EventForm(request.args))


def _page(form: EventForm, status: int = 200, problem: str | None = None) -> Any:
    return render_template("event_new.html", form=form, problem=problem), status


@route(blueprint, "/<account>/events/new", EDITOR, ("POST",))
def send() -> Any:
    """Send a test event, and show it with what it starts."""
    form = EventForm()
    if not form.validate_on_submit():
        return _page(form, 422)
    try:
        receipt = _send(form)
    except Problem as exc:
        messages = {one["field"]: one["message"] for one in exc.errors or ()}
        for field in (form.event, form.distinct_id, form.phone, form.data):
            if message := messages.pop(field.name, None):
                field.errors = [message]
        return _page(form, exc.status, exc.detail if messages or not exc.errors else None)
    flash("The event is stored. This page shows what it starts.")
    return redirect(url_for("events.show_one", account=current_account().slug, event_id=receipt.id))


def _send(form: EventForm) -> Receipt:
    """Accept the event of the form as if a sender had posted it. Raises Problem."""
    accounts: AccountCache = current_app.extensions["accounts"]
    account = accounts.find_by_id(current_account().id)
    if account is None:
        abort(404)
    take_from_plan(account)
    texts = (form.event, form.distinct_id, form.phone, form.data)
    typed = TypedEvent(*(field.data or "" for field in texts))
    return send_test_event(app_context(), current_app.extensions["acceptor"], account, typed)


@route(blueprint, "/<account>/events/<uuid:event_id>/replay", EDITOR)
def preview_replay(event_id: UUID) -> Any:
    """What a replay of the event would start now, and the buttons that start it."""
    replayed = _replay(event_id, dry_run=True)
    return render_template("event_replay.html", event_id=event_id, replayed=replayed)


@route(blueprint, "/<account>/events/<uuid:event_id>/replay", EDITOR, ("POST",))
def replay(event_id: UUID) -> Any:
    """Match the event again, with all workflows or with the one of the form."""
    try:
        replayed = _replay(event_id, workflow=request.form.get("workflow") or None)
    except Problem as exc:
        flash(exc.detail)
    else:
        started = [one for one in replayed if one.decision.run_id is not None and one.earlier is None]
        flash(f"{show_count(len(started), 'run')} started." if started else "No run was started.")
    return redirect(url_for("events.show_one", account=current_account().slug, event_id=event_id))


def _replay(event_id: UUID, *, dry_run: bool = False, workflow: str | None = None) -> list[Replayed]:
    try:
        return replay_event(app_context(), current_account().id, event_id, dry_run=dry_run, workflow=workflow)
    except Problem as exc:
        if exc.status == 404:
            abort(404)
        raise
