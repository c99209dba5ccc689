"""OAuth clients of an account: a list, and a new client, whose secret is shown once with a command that gets a token."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, flash, redirect, render_template, request, url_for
from flask_wtf import FlaskForm
from wtforms import StringField, SubmitField
from wtforms.validators import Length

from app.console.access import app_context, current_account, origin, route
from app.console.api_keys import SCOPES, scopes_field
from app.core.models import ACCOUNT_MANAGE, CLIENT_SCOPES, OWNER, VIEWER
from app.services import api_keys

blueprint = Blueprint("clients", __name__)
# In the management API, ACCOUNT_MANAGE of a client allows nothing.
_SCOPES = {**SCOPES, ACCOUNT_MANAGE: "all of the CxEngage routes that change the account"}
_PAGE = 50


class ClientForm(FlaskForm):  # type: ignore[misc]
    """A new client."""

    name = StringField("Name", [Length(max=255)], description="Who will use it, such as a partner's server.")
    scopes = scopes_field(_SCOPES, CLIENT_SCOPES)
    submit = SubmitField("Create client")


@route(blueprint, "/<account>/clients", VIEWER)
def show() -> Any:
    """The clients of the account, and the form for a new one."""
    return _page(ClientForm())


def _page(form: ClientForm, status: int = 200) -> Any:
    account, after = current_account(), request.args.get("after")
    found = api_keys.list_clients(app_context(), account.id, after=after, limit=_PAGE + 1)
    more = found[_PAGE - 1].id if len(found) > _PAGE else None
    return render_template("clients.html", clients=found[:_PAGE], more=more, form=form), status


@route(blueprint, "/<account>/clients", OWNER, ("POST",))
def create() -> Any:
    """Create a client. The response is the only page that ever shows its secret."""
    form, account = ClientForm(), current_account()
    if not form.validate_on_submit():
        return _page(form, 422)
    client_id, secret = api_keys.create_client(app_context(), account.id, form.name.data or "", tuple(form.scopes.data))
    return render_template("client_created.html", client_id=client_id, secret=secret, origin=origin())


@route(blueprint, "/<account>/clients/<client_id>/revoke", OWNER, ("POST",))
def revoke(client_id: str) -> Any:
    """Revoke a client with its tokens."""
    account = current_account()
    found = api_keys.find_client(app_context(), account.id, client_id)
    api_keys.revoke_client(app_context(), found.id)
    flash(f"The client {found.id} is revoked. Its tokens stop working within five seconds.")
    return redirect(url_for("clients.show", account=account.slug))
