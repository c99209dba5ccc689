"""CxEngage's REST receiver: `GET /version`, `POST …/event` and `GET …/event/history`."""

from __future__ import annotations

from flask import Blueprint, Response

from app.receive import cxengage

blueprint = Blueprint("cxengage_events", __name__)


@blueprint.get("/tenants/<tenant>/", strict_slashes=False)
def show_tenant(tenant: str) -> Response:
    """Which tenant this is."""
    account = cxengage.authenticate(tenant).account
    return cxengage.answer({"id": account.copy.slug, "name": account.copy.slug})
