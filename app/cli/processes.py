"""`flask worker`, `flask migrate`, `flask make-encryption-key`: what deployers run."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine

import click
import psycopg2
import sqlalchemy as sa
from cryptography.fernet import Fernet

from app.cli.base import command, context
from app.core.errors import Unavailable
from app.db.connection import error_message
from app.db.migrate import upgrade


@click.command("worker")
@click.option("--concurrency", type=click.IntRange(2, 1000), help="Runs at a time; default: WORKER_CONCURRENCY or 50.")
@command
def worker(concurrency: int | None) -> None:
    """Carry out the steps of runs until SIGTERM or Ctrl-C. Start as many workers as you like, on any host."""
    # Only workers need the way out and its libraries; web processes and other commands do without.
    from app.worker.main import work

    asyncio.run(
        _until_stopped(lambda stop: work(context(), concurrency or context().settings.worker_concurrency, stop))
    )


async def _until_stopped(work: Callable[[asyncio.Event], Coroutine[None, None, None]]) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await work(stop)


@click.command("migrate")
@command
def migrate() -> None:
    """Bring the database up to date; may run any number of times, and while the previous release is serving."""
    try:
        upgrade(context().settings.database_url)
    except (sa.exc.DBAPIError, psycopg2.Error) as trouble:
        said = error_message(trouble)
        if "connection to server" in said:
            raise Unavailable(said) from None
        raise click.ClickException(f"the database cannot be migrated: {said}") from None
    click.echo("the database is up to date")


@click.command("make-encryption-key")
def make_encryption_key() -> None:
    """Print a new key for ENCRYPTION_KEY."""
    click.echo(Fernet.generate_key().decode())
