"""Integrations of an account: the services that it sends with. Secret fields are never shown."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from flask import Blueprint, flash, redirect, render_template, request, url_for

from app.actions.integration_kinds import KINDS, Kind
from app.console.access import app_context, current_account, route
from app.core.errors import Problem
from app.core.models import OWNER, VIEWER
from app.services import integrations
from app.services.integrations import Integration

blueprint = Blueprint("integrations", __name__)
# What is shown of a long text; the text itself is not.
_LONG = re.compile(r"\(\d+ characters\)")


@route(blueprint, "/<account>/integrations", VIEWER)
def show() -> Any:
    """All kinds of integrations, with what is set up."""
    found = {one.kind: one for one in integrations.list_integrations(app_context(), current_account().id)}
    return render_template("integrations.html", kinds=KINDS, found=found)


@route(blueprint, "/<account>/integrations/<kind>", OWNER)
def edit(kind: str) -> Any:
    """The form of one integration."""
    return _page(integrations.find_kind(kind))


def _page(kind: Kind, error: str = "", status: int = 200) -> Any:
    known = _find(kind)
    shown = {} if known is None or known.fields is None else dict(known.fields)
    hidden = _hidden(kind, shown)
    # What was typed stays, except for secrets.
    typed = {field.name: request.form[field.name] for field in kind.fields if field.name in request.form}
    values = {name: text for name, text in {**shown, **typed}.items() if name not in hidden}
    page = render_template("integration.html", kind=kind, known=known, values=values, hidden=hidden, error=error)
    return page, status


def _find(kind: Kind) -> Integration | None:
    found = integrations.list_integrations(app_context(), current_account().id)
    return next((one for one in found if one.kind == kind.name), None)


def _hidden(kind: Kind, shown: Mapping[str, str]) -> dict[str, str]:
    """The fields whose value is not shown, with what is shown of it (empty: there is none)."""
    return {
        field.name: shown.get(field.name, "")
        for field in kind.fields
        if field.secret or _LONG.fullmatch(shown.get(field.name, ""))
    }


@route(blueprint, "/<account>/integrations/<kind>", OWNER, ("POST",))
def save(kind: str) -> Any:
    """Set up an integration, or change it. An empty field removes what is shown, and keeps what is not."""
    chosen, account = integrations.find_kind(kind), current_account()
    known = _find(chosen)
    hidden = _hidden(chosen, {} if known is None or known.fields is None else known.fields)
    changes = {}
    for field in chosen.fields:
        text = request.form.get(field.name, "").replace("\r\n", "\n").strip()
        if text or field.name not in hidden or f"remove-{field.name}" in request.form:
            changes[field.name] = text
    try:
        integrations.set_integration(app_context(), account.id, chosen, changes)
    except Problem as exc:
        return _page(chosen, exc.detail, exc.status)
    flash(f"{chosen.name} is set up. Workers use it within seconds.")
    return redirect(url_for("integrations.show", account=account.slug))


@route(blueprint, "/<account>/integrations/<kind>/remove", OWNER, ("POST",))
def remove(kind: str) -> Any:
    """Remove an integration with its credentials."""
    chosen, account = integrations.find_kind(kind), current_account()
    integrations.remove_integration(app_context(), account.id, chosen)
    flash(f"{chosen.name} is removed.")
    return redirect(url_for("integrations.show", account=account.slug))
