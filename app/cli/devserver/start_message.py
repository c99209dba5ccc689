"""The message that `make run` prints once everything runs: the addresses, and two commands to paste."""

from __future__ import annotations

import os
import shlex
import shutil
from pathlib import Path

from app.cli.devserver.embedded_postgres import psql
from app.cli.devserver.preflight import without_password

EXAMPLE_EVENT = (
    '{"distinct_id": "915673412780", "phone": "+915673412780", "event": "product_view", '
    '"data": {"product_id": "65432", "product_name": "Cool Sneakers", "price": 1999}}'
)
LAST_EVENTS = "select received_at, event, distinct_id, phone, data from events order by received_at desc limit 5"


def start_message(
    *, url: str, account_id: int, token: str, database_url: str, embedded: bool, notes: list[str]
) -> list[str]:
    """The lines of the message. Lines with `=` can be parsed."""
    return [
        "",
        f"url={url}",
        f"account={account_id}",
        f"token={token}",
        f"database={without_password(database_url)}",
        "",
        "Post an event:",
        curl(url, account_id, token),
        "",
        "See it in Postgres:",
        psql_command(database_url, embedded=embedded),
        "",
        *notes,
        "Ctrl-C stops everything; .data keeps the data."
        if embedded
        else "Ctrl-C stops everything except the database.",
        "",
    ]


def curl(url: str, account_id: int, token: str) -> str:
    """A shell command that posts the example event."""
    return (
        f"curl -i '{url}/api/v1/cvf-events' -H 'Content-Type: application/json' -H 'x-limechat-uat: {token}' "
        f"-H 'x-fb-account-id: {account_id}' -d '{EXAMPLE_EVENT}'"
    )


def psql_command(database_url: str, *, embedded: bool) -> str:
    """A shell command that shows the latest events. Uses the psql of the wheel when none is installed."""
    if not embedded:
        return f'psql "$DATABASE_URL" -c {shlex.quote(LAST_EVENTS)}'
    program = "psql" if shutil.which("psql") else _short(psql())
    return f"{shlex.quote(program)} {shlex.quote(database_url)} -c {shlex.quote(LAST_EVENTS)}"


def _short(program: Path) -> str:
    """The path relative to the current folder, if it is below it."""
    return os.path.relpath(program) if program.is_relative_to(Path.cwd()) else str(program)
