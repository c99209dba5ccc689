"""Signalbox receives events that other systems post, stores each one in Postgres, and starts workflows.

`create_app` is the table of contents; read `app/ingest/accept.py` next.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flask import Flask

    from app.core.config import Settings

__version__ = "0.4.0"


def create_app(settings: Settings | None = None) -> Flask:
    """The WSGI application; opens no connection before the first request. Raises SettingsError."""
    # Loaded before the first request of an account compiles its filters.
    import cel  # noqa: F401

    # Imported here: a migration or the supervisor imports `app` without the web application.
    from werkzeug.middleware.proxy_fix import ProxyFix

    from app.api import observation
    from app.api.flask_app import Application
    from app.core import config, log_config

    app = Application(__name__, static_folder=None)
    settings = settings or config.from_environment()
    log_config.configure(settings, observation.add_request_id)
    _add_extensions(app, settings)
    _register_routes(app)
    _mount_applications(app)
    if settings.trusted_proxies:
        app.wsgi_app = ProxyFix(  # type: ignore[method-assign]
            app.wsgi_app, x_for=settings.trusted_proxies, x_proto=0, x_host=0
        )
    if not os.environ.get("SERVER_SOFTWARE"):
        # gunicorn sets this variable: its processes need no commands.
        from app.api.route_limits import start_limiter
        from app.cli import commands

        commands.register(app)
        with app.app_context():
            start_limiter()
    return app


def _add_extensions(app: Flask, settings: Settings) -> None:
    """What the requests of a process share."""
    from app.api.rate_limit import RateLimiter
    from app.api.refusals import RefusalLimits
    from app.ingest.accept import EventAcceptor
    from app.ingest.account_cache import AccountCache
    from app.ingest.enrichment import Enricher
    from app.ingest.refusals import RefusalKeeper
    from app.ingest.sources.accept_delivery import SourceAcceptor
    from app.ingest.sources.unverified import UnverifiedKeeper
    from app.services.context import AppContext

    context = AppContext(settings)
    accounts = AccountCache(context, context.limits.shares.spend)
    app.extensions["context"] = context
    app.extensions["accounts"] = accounts
    app.extensions["acceptor"] = acceptor = EventAcceptor(context, accounts)
    app.extensions["source_acceptor"] = SourceAcceptor(context, accounts, acceptor)
    app.extensions["unverified"] = UnverifiedKeeper(context)
    app.extensions["enricher"] = Enricher(context)
    app.extensions["rate_limiter"] = limiter = RateLimiter(settings)
    app.extensions["refusals"] = RefusalKeeper(context)
    app.extensions["refusal_limits"] = RefusalLimits(limiter)


def _register_routes(app: Flask) -> None:
    from app.api import errors, health, hooks, observation
    from app.api.cxengage import (
        account,
        augments,
        auth,
        integrations,
        listeners,
        message_templates,
        oauth,
        patterns,
        stream,
    )
    from app.api.cxengage import events as cxengage_events
    from app.api.limechat import batch
    from app.api.limechat import events as limechat_events

    observation.register(app)
    errors.register(app, [auth.ERROR_FORMAT])
    app.register_blueprint(limechat_events.blueprint)
    app.register_blueprint(batch.blueprint)
    app.register_blueprint(hooks.blueprint)
    cxengage_events.register(app)
    resources = (patterns, message_templates, listeners, integrations, augments)
    auth.register(app, [module.blueprint for module in (oauth, account, stream, *resources)])
    health.register(app)


def _mount_applications(app: Flask) -> None:
    """Serve the management API and the console, which are separate applications."""
    from functools import partial

    from werkzeug.middleware.dispatcher import DispatcherMiddleware

    from app.api.management.application import DOCUMENT_PATH, at_whole_paths, create_management
    from app.api.management.routes import PREFIX
    from app.console import application as console

    managed = partial(at_whole_paths, create_management(app))
    app.wsgi_app = DispatcherMiddleware(  # type: ignore[method-assign]
        app.wsgi_app,
        {PREFIX: managed, DOCUMENT_PATH: managed, console.PREFIX: console.create_console(app)},
    )
