"""The command line: `flask account|key|client|workflow|run|event …`, `flask worker`, `flask migrate`."""

from __future__ import annotations

from flask import Flask

from app.cli.lazy_group import LazyGroup
from app.core import config, log_config
from app.services.context import AppContext

_COMMANDS = {
    "account": "app.cli.accounts:group",
    "client": "app.cli.api_keys:client_group",
    "event": "app.cli.events:group",
    "integration": "app.cli.integrations:group",
    "key": "app.cli.api_keys:group",
    "make-encryption-key": "app.cli.processes:make_encryption_key",
    "migrate": "app.cli.processes:migrate",
    "run": "app.cli.runs:group",
    "subject": "app.cli.data_subjects:group",
    "target": "app.cli.integrations:target_group",
    "worker": "app.cli.processes:worker",
    "workflow": "app.cli.workflows:group",
}


def create_app() -> Flask:
    """An application that has commands and no routes: it starts in a fraction of the time. Raises SettingsError."""
    app = Flask("app", static_folder=None)
    settings = config.from_environment()
    log_config.configure(settings)
    app.extensions["context"] = AppContext(settings)
    register(app)
    return app


def register(app: Flask) -> None:
    """Add all commands to `flask`."""
    app.cli = LazyGroup("app", lazy_commands=_COMMANDS)
