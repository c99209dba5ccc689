"""Signing in and out."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from flask import Flask, redirect, render_template, request, session, url_for
from flask_login import current_user, login_required, login_user, logout_user
from flask_wtf import FlaskForm
from werkzeug.wrappers import Response
from wtforms import EmailField, PasswordField, SubmitField
from wtforms.validators import InputRequired, Length

from app.api.route_limits import client_address, limiter
from app.console.access import Visitor, app_context, visitor
from app.core.passwords import MAX_LENGTH
from app.services import users

# Attempts from one address, and for one user from any address.
_PER_ADDRESS, _PER_USER = "20 per 5 minutes", "10 per 5 minutes"


class SignInForm(FlaskForm):  # type: ignore[misc]
    """Who signs in."""

    email = EmailField("Email", [InputRequired(), Length(max=254)], render_kw={"autocomplete": "username"})
    password = PasswordField(
        "Password", [InputRequired(), Length(max=MAX_LENGTH)], render_kw={"autocomplete": "current-password"}
    )
    submit = SubmitField("Sign in")


def register(console: Flask) -> None:
    """Add the routes."""
    console.add_url_rule("/sign-in", "sign_in", _show, methods=("GET",))
    limited = limiter.limit(_PER_ADDRESS, key_func=client_address)(_sign_in)
    console.add_url_rule(
        "/sign-in", "do_sign_in", limiter.limit(_PER_USER, key_func=_user_of_form)(limited), methods=("POST",)
    )
    console.add_url_rule("/sign-out", "sign_out", _sign_out, methods=("POST",))


def _user_of_form() -> str:
    return "user:" + request.form.get("email", "").strip().lower()[:254]


def _show() -> Any:
    """The form, or the page that was wanted for who is signed in already."""
    if current_user.is_authenticated:
        return redirect(_wanted())
    return render_template("sign_in.html", form=SignInForm())


def _sign_in() -> Any:
    form = SignInForm()
    if not form.validate_on_submit():
        return render_template("sign_in.html", form=form), 422
    context = app_context()
    found = users.sign_in(
        context, form.email.data, form.password.data, client_address(), request.headers.get("User-Agent", "")
    )
    if found is None:
        form.password.errors = ["The email address or the password is wrong."]
        return render_template("sign_in.html", form=form), 422
    # A new session: a cookie that somebody else has set in this browser must not become that of the user (session fixation).
    session.clear()
    login_user(Visitor(found[1], found[0]))
    session.permanent = True
    return redirect(_wanted())


def _wanted() -> str:
    """The page to which `next` leads: one of this console only."""
    wanted = request.args.get("next", "")
    parts = urlsplit(wanted)
    is_ours = wanted.startswith(request.script_root + "/") and not (parts.scheme or parts.netloc or "\\" in wanted)
    return wanted if is_ours else url_for("home")


@login_required  # type: ignore[untyped-decorator]
def _sign_out() -> Response:
    users.end_sessions(app_context(), visitor().user, visitor().session.id)
    logout_user()
    session.clear()
    return redirect(url_for("sign_in"))
