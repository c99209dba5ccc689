"""Signalbox: takes in events that other systems post, keeps every one in Postgres, and starts the workflows that wait.

`create_app` is the table of contents; `journey.py` is where to read on.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flask import Flask

    from app.core.config import Settings


def create_app(chosen: Settings | None = None) -> Flask:
    """The WSGI application; opens no connection before the first request. Raises SettingsError."""
    # Loaded before the first request of an account compiles its filters.
    import cel  # noqa: F401

    # Imported here, so that who needs one room only (a migration, the supervisor) does not load the whole house.
    from app.api import errors, health
    from app.api.cxengage import account, augments, auth, integrations, listeners, oauth, patterns, stream, templates
    from app.api.cxengage import events as cxengage_events
    from app.api.flask_app import Application
    from app.api.limechat import batch
    from app.api.limechat import events as limechat_events
    from app.api.rate_limit import PerMinute, RateLimiter
    from app.core import config, log_config
    from app.ingest.accept import EventAcceptor
    from app.ingest.account_cache import AccountCache
    from app.ingest.enrichment import Enricher
    from app.services.context import AppContext

    app = Application(__name__, static_folder=None)
    knobs = chosen or config.from_environment()
    log_config.configure(knobs)
    context = AppContext(knobs)
    accounts = AccountCache(context)
    app.extensions["context"] = context
    app.extensions["accounts"] = accounts
    app.extensions["acceptor"] = EventAcceptor(context, accounts)
    app.extensions["enricher"] = Enricher(context)
    app.extensions["rate_limiter"] = RateLimiter(knobs)
    errors.register(app, [auth.SHAPE])
    app.register_blueprint(limechat_events.blueprint)
    app.register_blueprint(batch.blueprint)
    cxengage_events.register(app)
    oauth.register(app, knobs)
    app.extensions["management_limiter"] = PerMinute(knobs)
    resources = (patterns, templates, listeners, integrations, augments)
    auth.register(app, [module.blueprint for module in (account, stream, *resources)])
    app.register_blueprint(health.blueprint)
    if not os.environ.get("SERVER_SOFTWARE"):
        # Commands, and the libraries behind them, are not for gunicorn's processes (it sets this variable).
        from app.cli import commands

        commands.register(app)
    return app
