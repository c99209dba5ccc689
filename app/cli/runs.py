"""The group `signalbox run`. Importing this module has to be cheap: Flask imports it as a plugin for each of its commands."""

from __future__ import annotations

from app.cli.lazy_group import LazyGroup

group = LazyGroup(
    "run",
    help="Runs: list and explain them, retry failed ones, cancel running ones.",
    lazy_commands={
        "cancel": ("app.cli.run_commands:cancel", "Cancel running runs with all their blocks."),
        "failures": ("app.cli.failures:failures", "List what failed, grouped by target and error."),
        "list": ("app.cli.run_commands:list_", "List runs, newest first."),
        "retry": ("app.cli.run_commands:retry", "Retry failed runs from the step that failed."),
        "show": ("app.cli.run_commands:show", "Explain a run: its steps, attempts and state."),
        "upcoming": ("app.cli.upcoming:upcoming", "List runs that will continue and workflows that will start."),
    },
)
