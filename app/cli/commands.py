"""The command line: `flask account|key|client|workflow|run|event …`, `flask worker`, `flask migrate`.

Comes in: words on a command line. Goes out: lines for people; a mistake is one line on standard error and exit code 1.
"""

from __future__ import annotations

from flask import Flask

from app.cli import (
    accounts,
    api_keys,
    data_subjects,
    events,
    import_cxengage,
    import_history,
    integrations,
    oauth_clients,
    processes,
    runs,
    simulate,
    targets,
    workflows,
)


def register(app: Flask) -> None:
    """Add all commands to `flask`."""
    for command in (
        simulate.simulate_,
        simulate.backtest,
        import_cxengage.import_cxengage,
        data_subjects.delete_workflow,
    ):
        workflows.group.add_command(command)
    events.group.add_command(import_history.import_)
    for group in (
        accounts.group,
        api_keys.group,
        oauth_clients.group,
        workflows.group,
        runs.group,
        events.group,
        integrations.group,
        targets.group,
        data_subjects.group,
    ):
        app.cli.add_command(group)
    for command in (processes.worker, processes.migrate, processes.make_encryption_key):
        app.cli.add_command(command)
