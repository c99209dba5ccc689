"""API keys of an account: a list, and a new key, which is shown once with a command that works."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from flask import Blueprint, abort, flash, redirect, render_template, request, url_for
from flask_wtf import FlaskForm
from wtforms import SelectChoice, SelectField, SelectMultipleField, StringField, SubmitField
from wtforms.validators import Length, ValidationError
from wtforms.widgets import CheckboxInput, ListWidget

from app.console.access import app_context, current_account, origin, route
from app.core.models import (
    ACCOUNT_MANAGE,
    AUDIT_READ,
    EVENTS_READ,
    EVENTS_WRITE,
    KEYS_MANAGE,
    OWNER,
    RUNS_READ,
    RUNS_WRITE,
    SETTINGS_READ,
    SETTINGS_WRITE,
    SOURCES_READ,
    SOURCES_WRITE,
    SUBJECTS_ERASE,
    SUBJECTS_READ,
    USERS_MANAGE,
    VIEWER,
    WORKFLOWS_READ,
    WORKFLOWS_WRITE,
)
from app.services import api_keys

blueprint = Blueprint("api_keys", __name__)
SCOPES = {
    EVENTS_WRITE: "send events",
    EVENTS_READ: "read received events and what workflows decided",
    ACCOUNT_MANAGE: "all of the management API and of the CxEngage routes",
    WORKFLOWS_READ: "read workflows and check documents",
    WORKFLOWS_WRITE: "create, change, enable, disable and delete workflows",
    RUNS_READ: "read runs",
    RUNS_WRITE: "retry and cancel runs, and replay events",
    SOURCES_READ: "read sources and their deliveries",
    SOURCES_WRITE: "change sources",
    SUBJECTS_READ: "read what is stored about a person",
    SUBJECTS_ERASE: "erase what is stored about a person",
    SETTINGS_READ: "read settings, integrations and the names of secrets",
    SETTINGS_WRITE: "change settings, integrations and secrets",
    KEYS_MANAGE: "API keys and OAuth clients",
    USERS_MANAGE: "users",
    AUDIT_READ: "read the audit log",
}
_LIFETIMES = [
    SelectChoice("", "never"),
    SelectChoice("30", "in 30 days"),
    SelectChoice("90", "in 90 days"),
    SelectChoice("365", "in a year"),
]
_PAGE = 50


def _at_least_one(form: FlaskForm, field: SelectMultipleField) -> None:
    """InputRequired would make the browser require every box."""
    if not field.data:
        raise ValidationError("Choose at least one.")


def scopes_field(texts: Mapping[str, str], chosen: Sequence[str]) -> SelectMultipleField:
    """A field of a form with a box for each scope, with what it allows; some are ticked at first."""
    return SelectMultipleField(
        "What it may do",
        [_at_least_one],
        choices=[SelectChoice(scope, f"{text} ({scope})") for scope, text in texts.items()],
        default=list(chosen),
        option_widget=CheckboxInput(),
        widget=ListWidget(prefix_label=False),
    )


class KeyForm(FlaskForm):  # type: ignore[misc]
    """A new key."""

    name = StringField("Name", [Length(max=255)], description="Who will use it, such as the checkout or a partner.")
    scopes = scopes_field(SCOPES, [EVENTS_WRITE])
    lifetime = SelectField("Expires", choices=_LIFETIMES)
    submit = SubmitField("Generate new key")


@route(blueprint, "/<account>/keys", VIEWER)
def show() -> Any:
    """The keys of the account, and the form for a new one."""
    return _page(KeyForm())


def _page(form: KeyForm, status: int = 200) -> Any:
    account, after = current_account(), request.args.get("after")
    found = api_keys.list_keys(app_context(), account.id, after=after, limit=_PAGE + 1)
    more = found[_PAGE - 1].prefix if len(found) > _PAGE else None
    values = {"keys": found[:_PAGE], "more": more, "form": form, "now": app_context().clock()}
    return render_template("keys.html", **values), status


@route(blueprint, "/<account>/keys", OWNER, ("POST",))
def create() -> Any:
    """Create a key. The response is the only page that ever shows it."""
    form, account = KeyForm(), current_account()
    if not form.validate_on_submit():
        return _page(form, 422)
    days = form.lifetime.data
    lifetime = timedelta(days=int(days)) if days else None
    key = api_keys.create_key(app_context(), account.id, form.name.data or "", tuple(form.scopes.data), lifetime)
    return render_template("key_created.html", key=key, origin=origin(), scopes=form.scopes.data)


@route(blueprint, "/<account>/keys/<prefix>/revoke", OWNER, ("POST",))
def revoke(prefix: str) -> Any:
    """Revoke a key."""
    account = current_account()
    if not api_keys.revoke_key(app_context(), prefix, account.id):
        abort(404)
    flash(f"The key sb_{prefix}_… is revoked. It stops working within five seconds.")
    return redirect(url_for("api_keys.show", account=account.slug))
