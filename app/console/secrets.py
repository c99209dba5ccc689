"""Secrets of an account: their names and what reads them. No page shows a value."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, abort, flash, redirect, render_template, url_for
from flask_wtf import FlaskForm
from wtforms import PasswordField, StringField, SubmitField
from wtforms.validators import InputRequired, Length

from app.console.access import app_context, current_account, route
from app.core.errors import Problem
from app.core.models import EDITOR, VIEWER
from app.services import secrets
from app.services.secrets import MAX_BYTES, MIN_CHARACTERS

blueprint = Blueprint("secrets", __name__)


class SecretForm(FlaskForm):  # type: ignore[misc]
    """A new secret, or a new value of one."""

    name = StringField(
        "Name",
        [InputRequired(), Length(max=64)],
        description="A capital letter, then capital letters, digits and _, such as SHOPIFY.",
        render_kw={"autocomplete": "off", "spellcheck": "false"},
    )
    value = PasswordField(
        "Value",
        [InputRequired()],
        description=f"At least {MIN_CHARACTERS} characters, at most {MAX_BYTES:,} bytes. It is encrypted and never shown again. "
        "A new value takes the place of the old one.",
        render_kw={"autocomplete": "new-password"},
    )
    submit = SubmitField("Set secret")


@route(blueprint, "/<account>/secrets", VIEWER)
def show() -> Any:
    """The secrets, and the form for a value."""
    return _page(SecretForm())


def _page(form: SecretForm, status: int = 200) -> Any:
    found = secrets.list_secrets(app_context(), current_account().id)
    return render_template("secrets.html", secrets=found, form=form, limit=secrets.MAX_SECRETS), status


@route(blueprint, "/<account>/secrets", EDITOR, ("POST",))
def set_value() -> Any:
    """Create a secret, or replace its value."""
    form, account = SecretForm(), current_account()
    if not form.validate_on_submit():
        return _page(form, 422)
    try:
        is_new = secrets.set_secret(app_context(), account.id, form.name.data, form.value.data)
    except Problem as exc:
        (form.value if exc.detail.startswith("the value ") else form.name).errors = [exc.detail]
        return _page(form, exc.status)
    flash(f"{form.name.data} is {'set' if is_new else 'changed'}. All processes use it within seconds.")
    return redirect(url_for("secrets.show", account=account.slug))


@route(blueprint, "/<account>/secrets/<name>/remove", EDITOR)
def confirm_remove(name: str) -> Any:
    """What still reads a secret, and the button that removes it."""
    found = [one for one in secrets.list_secrets(app_context(), current_account().id) if one.name == name]
    if not found:
        abort(404)
    return render_template("secret_remove.html", secret=found[0])


@route(blueprint, "/<account>/secrets/<name>/remove", EDITOR, ("POST",))
def remove(name: str) -> Any:
    """Remove a secret, also one that is in use: the page before has said what uses it."""
    account = current_account()
    users = secrets.remove_secret(app_context(), account.id, name, force=True)
    flash(f"{name} is removed." + (f" It was used by {', '.join(users)}." if users else ""))
    return redirect(url_for("secrets.show", account=account.slug))
