"""`signalbox account export`: all rows of an account."""

from __future__ import annotations

import gzip
import sys
from typing import BinaryIO

import click

from app.cli.base import command, context, get_account
from app.cli.terminal_text import visible_json
from app.services.export import export_account


@click.command("export")
@click.argument("account")
@click.option("--gzip", "is_packed", is_flag=True, help="Compress the output.")
@command
def export(account: str, is_packed: bool) -> None:
    """Print all rows of ACCOUNT (slug or id) as JSON.

    A line is {"kind": …, "row": {…}}. All lines are of the same point in time. Secrets are left out. The last line has the kind
    "end" and the number of rows of each kind: without it, the export is not complete.
    """
    found = get_account(account)
    output = sys.stdout.buffer
    if not is_packed:
        _write(output, found.id)
        return
    if sys.stdout.isatty():
        raise click.ClickException("the output is compressed: send it to a file, such as > acme.ndjson.gz")
    with gzip.GzipFile(fileobj=output, mode="wb", filename="", compresslevel=6) as packed:
        _write(packed, found.id)


def _write(output: BinaryIO | gzip.GzipFile, account_id: int) -> None:
    for line in export_account(context(), account_id):
        output.write(visible_json(line).encode() + b"\n")
