"""The user's own page: password and sessions."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from flask import Blueprint, flash, redirect, render_template, url_for
from flask_wtf import FlaskForm
from wtforms import PasswordField, SubmitField
from wtforms.validators import EqualTo, InputRequired, Length

from app.console.access import app_context, user_route, visitor
from app.core.passwords import MAX_LENGTH, MIN_LENGTH
from app.services import users

blueprint = Blueprint("profile", __name__)


class PasswordForm(FlaskForm):  # type: ignore[misc]
    """A new password."""

    current = PasswordField(
        "Current password", [InputRequired(), Length(max=MAX_LENGTH)], render_kw={"autocomplete": "current-password"}
    )
    new = PasswordField(
        "New password",
        [InputRequired(), Length(MIN_LENGTH, MAX_LENGTH)],
        description=f"At least {MIN_LENGTH} characters.",
        render_kw={"autocomplete": "new-password"},
    )
    again = PasswordField(
        "New password again",
        [InputRequired(), EqualTo("new", "The two new passwords differ.")],
        render_kw={"autocomplete": "new-password"},
    )
    submit = SubmitField("Change password")


@user_route(blueprint, "/profile")
def show() -> Any:
    """Who is signed in where."""
    return _page(PasswordForm())


def _page(form: PasswordForm, status: int = 200) -> Any:
    user = visitor()
    sessions = users.list_sessions(app_context(), user.user)
    return render_template("profile.html", form=form, sessions=sessions, current=user.session.id), status


@user_route(blueprint, "/profile/password", ("POST",))
def change_password() -> Any:
    """Change the user's password; all other sessions end."""
    user, form = visitor(), PasswordForm()
    if not form.validate_on_submit():
        return _page(form, 422)
    if not users.check_password(app_context(), user.user, form.current.data):
        form.current.errors = ["This is not your current password."]
        return _page(form, 422)
    users.set_password(app_context(), user.user.email, form.new.data, keep=user.session.id)
    flash("The password is changed. All other sessions have ended.")
    return redirect(url_for("profile.show"))


@user_route(blueprint, "/profile/sessions/<uuid:session_id>/end", ("POST",))
def end_session(session_id: UUID) -> Any:
    """Sign a browser out."""
    users.end_sessions(app_context(), visitor().user, session_id)
    flash("The session has ended.")
    return redirect(url_for("profile.show"))
