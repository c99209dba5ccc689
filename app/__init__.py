"""Signalbox: takes in events that other systems post, keeps every one in Postgres, and starts the workflows that wait.

`create_app` is the table of contents; `journey.py` is where to read on.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flask import Flask

    from app.settings import Settings


def create_app(chosen: Settings | None = None) -> Flask:
    """The WSGI application; opens no connection before the first request. Raises SettingsError."""
    # Imported here, so that who needs one room only (a migration, the supervisor) does not load the whole house.
    from app import logs, settings
    from app.journey import Journey
    from app.operate import health
    from app.receive import (
        cvf_batches,
        cvf_events,
        cxengage,
        cxengage_account,
        cxengage_events,
        cxengage_listeners,
        cxengage_resources,
        cxengage_stream,
        cxengage_tokens,
        problems,
    )
    from app.receive.application import Application
    from app.receive.limits import RateLimiter
    from app.resources.augmenting import Augmenter

    app = Application(__name__, static_folder=None)
    knobs = chosen or settings.from_environment()
    logs.configure(knobs)
    app.extensions["journey"] = Journey(knobs)
    app.extensions["augmenter"] = Augmenter(app.extensions["journey"])
    app.extensions["rate_limiter"] = RateLimiter(knobs)
    problems.register(app, [cxengage.SHAPE])
    app.register_blueprint(cvf_events.blueprint)
    app.register_blueprint(cvf_batches.blueprint)
    cxengage_events.register(app)
    cxengage_tokens.register(app, knobs)
    cxengage_resources.register(app, knobs)
    cxengage.register(app, [cxengage_account.blueprint, cxengage_listeners.blueprint, cxengage_stream.blueprint])
    app.register_blueprint(health.blueprint)
    if not os.environ.get("SERVER_SOFTWARE"):
        # Commands, and the libraries behind them, are not for gunicorn's processes (it sets this variable).
        from app.operate import commands

        commands.register(app)
    return app
