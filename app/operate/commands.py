"""The command line: `flask account|key|client|workflow|run|event …`, `flask worker`, `flask migrate`.

Comes in: words on a command line. Goes out: lines for people; a mistake is one line on standard error and exit code 1.
"""

from __future__ import annotations

from flask import Flask

from app.operate import (
    accounts_cli,
    backtest_cli,
    clients_cli,
    cxengage_cli,
    events_cli,
    imports_cli,
    integrations_cli,
    keys_cli,
    runs_cli,
    subjects_cli,
    targets_cli,
    workers_cli,
    workflows_cli,
)


def register(app: Flask) -> None:
    """Add all commands to `flask`."""
    for command in (
        backtest_cli.simulate_,
        backtest_cli.backtest,
        cxengage_cli.import_cxengage,
        subjects_cli.delete_workflow,
    ):
        workflows_cli.group.add_command(command)
    events_cli.group.add_command(imports_cli.import_)
    for group in (
        accounts_cli.group,
        keys_cli.group,
        clients_cli.group,
        workflows_cli.group,
        runs_cli.group,
        events_cli.group,
        integrations_cli.group,
        targets_cli.group,
        subjects_cli.group,
    ):
        app.cli.add_command(group)
    for command in (workers_cli.worker, workers_cli.migrate, workers_cli.make_encryption_key):
        app.cli.add_command(command)
