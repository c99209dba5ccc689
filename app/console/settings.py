"""Settings of an account: its id, names, time zone, plan, retention and members, and the audit log."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from flask import Blueprint, flash, redirect, render_template, request, url_for
from flask_wtf import FlaskForm
from wtforms import EmailField, SelectChoice, SelectField, StringField, SubmitField
from wtforms.validators import InputRequired, Length

from app.console.access import app_context, current_account, route
from app.console.lists import read_filters, read_page, read_time
from app.core.errors import Problem
from app.core.models import OWNER, PLANS, REFUSE, ROLES, STORE, VIEWER
from app.db.accounts import AccountDetails
from app.db.audit import EntryFilter
from app.db.retention import KINDS
from app.services import accounts, audit, retention, users

blueprint = Blueprint("settings", __name__)
_NONE = "none"
# Characters of a duration.
_MAX_DURATION = 40


class DetailsForm(FlaskForm):  # type: ignore[misc]
    """What `signalbox account change` changes."""

    name = StringField("Name", [InputRequired(), Length(max=255)])
    time_zone = StringField(
        "Time zone",
        [InputRequired(), Length(max=64)],
        description="In which you enter times in the filters, such as Asia/Kolkata or +05:30. Times are shown in the zone of "
        "each reader.",
    )
    unusable_phone = SelectField(
        "An event whose phone cannot be used",
        choices=[SelectChoice(REFUSE, "refuse it"), SelectChoice(STORE, "store it without the phone")],
    )
    key_attribute = StringField(
        "Key attribute", [InputRequired(), Length(max=255)], description="It identifies the subject of CxEngage events."
    )
    event_attribute = StringField(
        "Event attribute", [InputRequired(), Length(max=255)], description="Of CxEngage events: names the event."
    )
    submit_details = SubmitField("Save")


class RoleForm(FlaskForm):  # type: ignore[misc]
    """A role of a user in the account."""

    email = EmailField("Email", [InputRequired(), Length(max=254)], description="Of a user who exists.")
    role = SelectField(
        "Role", choices=[*(SelectChoice(role, role) for role in reversed(ROLES)), SelectChoice(_NONE, "none: remove")]
    )
    submit = SubmitField("Set role")


@route(blueprint, "/<account>/settings", VIEWER)
def show() -> Any:
    """The account and its members."""
    return _page()


def _page(form: RoleForm | None = None, details: DetailsForm | None = None, status: int = 200) -> Any:
    account, context = current_account(), app_context()
    plan = PLANS[account.plan]
    last_hour, last_day = accounts.count_latest_events(context, account.id)
    values = {
        "form": form or RoleForm(),
        "details": details or DetailsForm(obj=account),
        "members": users.list_members(context, account.id),
        "rate": account.events_per_second or plan.events_per_second,
        "last_hour": last_hour,
        "last_day": last_day,
        "counted": accounts.COUNTED,
        "kept": retention.find_retention(context, account.id),
        "write_keep": retention.write_keep,
    }
    return render_template("settings.html", **values), status


@route(blueprint, "/<account>/settings", OWNER, ("POST",))
def change() -> Any:
    """Change names, the time zone, and what becomes of unusable phones."""
    form, account = DetailsForm(), current_account()
    if not form.validate_on_submit():
        return _page(details=form, status=422)
    fields = ("name", "key_attribute", "event_attribute", "unusable_phone", "time_zone")
    wanted = {name: form[name].data for name in fields if form[name].data != getattr(account, name)}
    try:
        accounts.update_account_details(app_context(), account.id, AccountDetails(**wanted))
    except Problem as exc:
        form.submit_details.errors = [exc.detail]
        return _page(details=form, status=exc.status)
    flash("The settings are saved. They apply to the next event.")
    return redirect(url_for("settings.show", account=account.slug))


# Retention


@route(blueprint, "/<account>/settings/retention", OWNER)
def plan_retention() -> Any:
    """What a new retention would delete; without new durations, the form."""
    names = [kind.name for kind in KINDS]
    texts = {name: text for name in names if (text := request.args.get(name, "").strip()[:_MAX_DURATION])}
    wanted = retention.read_change(texts)
    shorter = retention.find_shortened(app_context(), current_account().id, wanted.keep, wanted.reset)
    return _retention_page(texts, wanted.errors, shorter)


def _retention_page(texts: dict[str, str], errors: dict[str, str], shorter: list[str], status: int = 200) -> Any:
    kept = retention.find_retention(app_context(), current_account().id)
    now = {one.kind.name: retention.DEFAULT if one.is_default else retention.write_keep(one.keep) for one in kept}
    values = {
        "kept": kept,
        "now": now,
        "texts": texts,
        "changed": {kind: text for kind, text in texts.items() if text != now[kind]},
        "write_keep": retention.write_keep,
    }
    return render_template("retention.html", errors=errors, shorter=shorter, **values), status


@route(blueprint, "/<account>/settings/retention", OWNER, ("POST",))
def change_retention() -> Any:
    """Keep rows for other durations from now on."""
    account, names = current_account(), [kind.name for kind in KINDS]
    texts = {name: text for name in names if (text := request.form.get(name, "").strip()[:_MAX_DURATION])}
    wanted = retention.read_change(texts)
    if wanted.errors:
        return _retention_page(texts, wanted.errors, [], 422)
    try:
        retention.change_retention(app_context(), account.id, account.slug, wanted.keep, wanted.reset)
    except Problem as exc:
        return _retention_page(texts, {exc.detail.partition(":")[0]: exc.detail}, [], exc.status)
    flash("The retention is changed.")
    return redirect(url_for("settings.show", account=account.slug))


# The signing secret


@route(blueprint, "/<account>/settings/signing", VIEWER)
def show_signing() -> Any:
    """What the signing secret is for, and the button that shows it."""
    return render_template("signing.html", secret=None)


@route(blueprint, "/<account>/settings/signing", OWNER, ("POST",))
def reveal_signing() -> Any:
    """The page with the signing secret."""
    secret = accounts.show_signing_secret(app_context(), current_account().id)
    return render_template("signing.html", secret=secret)


# Members and the audit log


@route(blueprint, "/<account>/settings/members", OWNER, ("POST",))
def set_role() -> Any:
    """Give a user a role, or none."""
    form, account = RoleForm(), current_account()
    if not form.validate_on_submit():
        return _page(form, status=422)
    role = None if form.role.data == _NONE else form.role.data
    try:
        users.set_role(app_context(), form.email.data, account, role)
    except Problem as exc:
        form.email.errors = [exc.detail]
        return _page(form, status=exc.status)
    flash(f"{form.email.data}: {form.role.data}.")
    return redirect(url_for("settings.show", account=account.slug))


@route(blueprint, "/<account>/audit", VIEWER)
def show_audit() -> Any:
    """Who changed what, newest first."""
    filters = read_filters("actor", "action", "object", "since")
    wanted = EntryFilter(
        current_account().id,
        filters.get("actor"),
        filters.get("action"),
        filters.get("object"),
        read_time(filters, "since"),
    )
    page = read_page(
        lambda before, limit: audit.list_entries(app_context(), replace(wanted, before=before), limit),
        lambda entry: entry.id,
        filters,
    )
    return render_template("audit.html", page=page)
