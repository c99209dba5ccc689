"""The command line: `signalbox account|key|client|workflow|run|event …`, `signalbox worker`, `signalbox migrate`.

Imports little: the shell calls the program for each completion.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

import app
from app.cli.lazy_group import LazyGroup
from app.cli.program import INTERRUPTED, NAME, program_name

if TYPE_CHECKING:
    from flask import Flask

_COMMANDS = {
    "account": ("app.cli.accounts:group", "Create, list and change accounts."),
    "audit": ("app.cli.audit:group", "List who changed what."),
    "client": ("app.cli.api_keys:client_group", "Create, list and revoke OAuth clients."),
    "completion": ("app.cli.completion:completion", "Print the completion script for a shell."),
    "db": ("app.cli.db:group", "Make the roles of the database, set their passwords."),
    "delivery": ("app.cli.deliveries:group", "List and show deliveries to sources."),
    "drop-partition": ("app.cli.processes:drop_partition", "Delete the events of a past month."),
    "event": ("app.cli.events:group", "List, explain, follow, send, import, replay events."),
    "integration": ("app.cli.integrations:group", "Set up WhatsApp, Twilio, SendGrid and SMTP."),
    "key": ("app.cli.api_keys:group", "Create, list and revoke API keys."),
    "make-encryption-key": ("app.cli.processes:make_encryption_key", "Print a new key for ENCRYPTION_KEY."),
    "migrate": ("app.cli.processes:migrate", "Migrate the database."),
    "refusal": ("app.cli.refusals:group", "List, explain and replay refused requests."),
    "run": ("app.cli.runs:group", "List, explain, retry and cancel runs."),
    "secret": ("app.cli.secrets:group", "Set, list and remove secrets of an account."),
    "source": ("app.cli.sources:group", "Save, list, try, rotate, disable sources; replay."),
    "subject": ("app.cli.data_subjects:group", "Show and erase the data of a person."),
    "target": ("app.cli.targets:group", "List paused and disabled targets, enable them."),
    "user": ("app.cli.users:group", "People who sign in to the console."),
    "worker": ("app.cli.processes:worker", "Execute runs until SIGTERM or Ctrl-C."),
    "workflow": ("app.cli.workflows:group", "Check, save, enable, simulate, delete workflows."),
}
# The shell sets it to ask for completions.
COMPLETE_VARIABLE = "_SIGNALBOX_COMPLETE"


class _Program(LazyGroup):
    """All commands. Ctrl-C ends a command with exit code 130, as in a shell."""

    def invoke(self, ctx: click.Context) -> Any:
        from app.core.config import SettingsError

        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise click.exceptions.Exit(INTERRUPTED) from None
        except SettingsError as exc:
            # Raised while the module of a command is imported.
            raise click.ClickException(str(exc)) from None


group = _Program(
    NAME,
    lazy_commands=_COMMANDS,
    help="Signalbox receives events, stores them in Postgres, and starts workflows.\n\n"
    "Settings are environment variables; see docs/settings.md. Exit codes: 0 done, 1 failed, 2 invalid command line, "
    "3 database or server unavailable, 130 interrupted.",
)
click.version_option(app.__version__, prog_name=NAME, message="%(prog)s %(version)s")(group)


def main() -> None:
    """Run the program `signalbox`."""
    try:
        from flask.cli import ScriptInfo
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    flask_app = ScriptInfo(create_app=create_app, set_debug_flag=False)
    group.main(prog_name=program_name(), complete_var=COMPLETE_VARIABLE, obj=flask_app)


def create_app() -> Flask:
    """An application that has commands and no routes: it starts in a fraction of the time. Raises SettingsError."""
    from flask import Flask

    from app.core import config, log_config
    from app.services.context import AppContext

    flask_app = Flask("app", static_folder=None)
    settings = config.from_environment()
    log_config.configure(settings)
    flask_app.extensions["context"] = AppContext(settings)
    register(flask_app)
    return flask_app


def register(flask_app: Flask) -> None:
    """Add all commands to `flask`, for installations that still call them so."""
    flask_app.cli = group
