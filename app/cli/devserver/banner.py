"""What `make run` says when all is up: where it is, and two commands ready to paste."""

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


def banner(*, url: str, account_id: int, token: str, database_url: str, embedded: bool, notes: list[str]) -> list[str]:
    """The lines; those with `=` are for machines as well."""
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
        "Ctrl-C stops everything; the data stay in .data." if embedded else "Ctrl-C stops everything but the database.",
        "",
    ]


def curl(url: str, account_id: int, token: str) -> str:
    """One command for a shell that posts the example event."""
    return (
        f"curl -i '{url}/api/v1/cvf-events' -H 'Content-Type: application/json' -H 'x-limechat-uat: {token}' "
        f"-H 'x-fb-account-id: {account_id}' -d '{EXAMPLE_EVENT}'"
    )


def psql_command(database_url: str, *, embedded: bool) -> str:
    """One command for a shell that shows the last events; with the wheel's psql where the machine has none."""
    if not embedded:
        return f'psql "$DATABASE_URL" -c {shlex.quote(LAST_EVENTS)}'
    program = "psql" if shutil.which("psql") else _short(psql())
    return f"{shlex.quote(program)} {shlex.quote(database_url)} -c {shlex.quote(LAST_EVENTS)}"


def _short(program: Path) -> str:
    """Relative to the current folder when it lies below."""
    return os.path.relpath(program) if program.is_relative_to(Path.cwd()) else str(program)
