"""The WSGI entry point: `gunicorn -c deploy/gunicorn.conf.py wsgi:app`. A wrong setting is one line on standard error."""

import os
import sys
from contextlib import suppress

import click
from flask import Flask
from flask.cli import FlaskGroup

from app.core.config import SettingsError
from app.core.errors import Unavailable


def _command() -> click.Command | None:
    """The command of the running program; servers such as Granian are click commands, too."""
    context = click.get_current_context(silent=True)
    return context.find_root().command if context else None


def _create() -> Flask:
    # Signalbox's own commands need no routes; Flask's commands (`routes`, `shell`) and those of extensions do.
    context = click.get_current_context(silent=True)
    if context and isinstance(_command(), FlaskGroup) and context.find_root().invoked_subcommand in (None, "run"):
        from app.cli.commands import create_app
    else:
        from app import create_app
    return create_app()


def _check(app: Flask) -> None:
    """Raises SettingsError where a setting does not fit the database or Redis, which may be unavailable now."""
    from app.services import startup_checks

    app.extensions["rate_limiter"].check()
    context = app.extensions["context"]
    with suppress(Unavailable):
        startup_checks.check_settings(context)
        # The processes that are forked from this one share them.
        app.extensions["accounts"].load_recent()
    # The processes that are forked from this one open their own connections.
    context.database.close()


try:
    app = _create()
    if "rate_limiter" in app.extensions and not isinstance(_command(), FlaskGroup):
        _check(app)
except SettingsError as exc:
    print(f"Error: {exc}", file=sys.stderr)
    # gunicorn (it sets this variable) does not start another process after exit code 3.
    sys.exit(3 if os.environ.get("SERVER_SOFTWARE") else 1)
