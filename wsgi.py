"""The WSGI entry point: `gunicorn -c deploy/gunicorn.conf.py wsgi:app`. A wrong setting is one line on standard error."""

import os
import sys

import click
from flask import Flask
from flask.cli import FlaskGroup

from app.core.config import SettingsError


def _create() -> Flask:
    # Signalbox's own commands need no routes; Flask's commands (`routes`, `shell`) and those of extensions do.
    context = click.get_current_context(silent=True)
    root = context and context.find_root()
    # Servers such as Granian are click commands, too.
    if root and isinstance(root.command, FlaskGroup) and root.invoked_subcommand in (None, "run"):
        from app.cli.commands import create_app
    else:
        from app import create_app
    return create_app()


try:
    app = _create()
except SettingsError as exc:
    print(f"Error: {exc}", file=sys.stderr)
    # gunicorn (it sets this variable) does not start another process after exit code 3.
    sys.exit(3 if os.environ.get("SERVER_SOFTWARE") else 1)
