"""`signalbox worker`, `signalbox migrate`, `signalbox drop-partition` and `signalbox make-encryption-key`."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine
from dataclasses import replace

import click
import psycopg2
import sqlalchemy as sa
from cryptography.fernet import Fernet

from app.cli.base import command, confirm, context, yes_option
from app.cli.terminal_text import visible
from app.core.errors import Unavailable
from app.core.models import SIGNALBOX
from app.db.connection import error_message
from app.db.migrate import upgrade


@click.command("worker")
@click.option("--concurrency", type=click.IntRange(2, 1000), help="Runs at a time. Default: WORKER_CONCURRENCY, or 50.")
@click.option(
    "--metrics-port",
    type=click.IntRange(1, 65_535),
    help="Port of /metrics, on WORKER_METRICS_HOST. Default: WORKER_METRICS_PORT, or none.",
)
@command
def worker(concurrency: int | None, metrics_port: int | None) -> None:
    """Execute runs until SIGTERM or Ctrl-C. Any number of workers may run, on any host."""
    # Imported here: only workers need the libraries for actions.
    from app.worker.main import work

    # Changes by the process itself are not those of the person who started it.
    app_context = context().acting_as(SIGNALBOX)
    if metrics_port is not None:
        app_context.settings = replace(app_context.settings, worker_metrics_port=metrics_port)
    concurrency = concurrency or app_context.settings.worker_concurrency
    asyncio.run(_until_stopped(lambda stop: work(app_context, concurrency, stop)))


async def _until_stopped(work: Callable[[asyncio.Event], Coroutine[None, None, None]]) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await work(stop)


@click.command("migrate")
@command
def migrate() -> None:
    """Migrate the database. May run any number of times, and while the previous release serves."""
    try:
        upgrade(context().settings.database_url)
    except (sa.exc.DBAPIError, psycopg2.Error) as exc:
        message = error_message(exc)
        if "connection to server" in message:
            raise Unavailable(message) from None
        raise click.ClickException(f"the database cannot be migrated: {message}") from None
    click.echo("the database is up to date")


@click.command("drop-partition")
@click.argument("name")
@yes_option
@command
def drop_partition(name: str, yes: bool) -> None:
    """Delete all events of partition NAME, such as events_2026_01, unless a run needs one of them."""
    from app.services import partitions

    if not yes:
        partitions.check_droppable(context(), name)
        confirm(f"Delete all events of {visible(name)}?")
    partitions.drop_partition(context(), name)
    click.echo(f"{name}: dropped")


@click.command("make-encryption-key")
def make_encryption_key() -> None:
    """Print a new key for ENCRYPTION_KEY."""
    click.echo(Fernet.generate_key().decode())
