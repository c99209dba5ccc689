"""The list of the user's accounts."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, render_template

from app.console.access import user_route, visible_accounts

blueprint = Blueprint("accounts", __name__)


@user_route(blueprint, "/accounts")
def show() -> Any:
    """The accounts that the user has a role in."""
    return render_template("accounts.html", found=visible_accounts())
