"""The group `flask run`. Importing this module has to be cheap: every command of Flask imports it.

Flask's own `run` takes precedence over a command of the application with that name, and a plugin (see `flask.commands` in
setup.cfg) takes precedence over both. Flask imports all plugins for each command.
"""

from __future__ import annotations

from app.cli.lazy_group import LazyGroup

group = LazyGroup(
    "run",
    help="Runs: list and explain them, retry failed ones, cancel running ones.",
    lazy_commands={
        "cancel": "app.cli.run_commands:cancel",
        "list": "app.cli.run_commands:list_",
        "retry": "app.cli.run_commands:retry",
        "show": "app.cli.run_commands:show",
    },
)
