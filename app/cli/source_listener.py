"""`signalbox source import-listener`: prints a CxEngage listener as a source document."""

from __future__ import annotations

import click

from app.cli.base import account_option, command, context, get_account
from app.cli.documents import error_line
from app.db.cxengage_resources import LISTENERS
from app.services.cxengage import crud
from app.workflows.sources.document import check_source
from app.workflows.sources.listener_document import listener_document
from app.workflows.yaml_loader import read_document, write_document


@click.command("import-listener")
@click.argument("listener")
@account_option
@command
def import_listener(listener: str, account: str | None) -> None:
    """Print the CxEngage listener LISTENER, such as LI1, as a source document. Changes nothing.

    The document makes the same events of the same posts. When it is applied, what is posted to the listener comes to the source.
    What it cannot express is an error on standard error; the exit code is
    1 then.
    """
    found = get_account(account)
    row = crud.find_resource(context(), found.id, LISTENERS, listener)
    document = listener_document(
        f"LI{row.number}",
        row.name,
        row.mapping,
        key_attribute=found.key_attribute,
        event_attribute=found.event_attribute,
    )
    text = write_document(document)
    click.echo(text.rstrip())
    if mistakes := check_source(read_document(text)):
        for mistake in mistakes:
            click.echo(error_line(listener, mistake), err=True)
        raise click.exceptions.Exit(1)
