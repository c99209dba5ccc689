"""`signalbox delivery …`: list what third parties posted to sources, and show it."""

from __future__ import annotations

from dataclasses import asdict
from uuid import UUID

import click

from app.cli.base import (
    account_option,
    command,
    context,
    get_account,
    get_owner_id,
    owner_option,
    read_time_option,
)
from app.cli.delivery_report import delivery_lines, summary
from app.cli.lists import Page, filtered, json_line, list_options, print_list
from app.core.ids import utc_text
from app.db.deliveries import ACCEPTED, DUPLICATE, PARTLY, UNMAPPED, UNVERIFIED, DeliveryFilter, DeliveryRow
from app.services import deliveries, inspection, sources

RESULTS = (ACCEPTED, DUPLICATE, PARTLY, UNMAPPED, UNVERIFIED)
_WIDTHS = (27, 36, 16, 10)

group = click.Group("delivery", help="Deliveries: what third parties posted to sources.")


@group.command("list")
@list_options
@click.option("--source", metavar="NAME", help="Only deliveries to this source.")
@click.option(
    "--result", "results", multiple=True, type=click.Choice(RESULTS), help="Only this result; may be repeated."
)
@click.option("--request-id", metavar="ID", help="Only the delivery whose response had this X-Request-Id.")
@click.option("--since", metavar="WHEN", help="Such as 1h, 2d or 2026-11-22T10:00Z.")
@click.option("--until", metavar="WHEN", help="The same; deliveries of this time and later are left out.")
@account_option
@command
def list_(
    account: str | None,
    page: Page,
    source: str | None,
    results: tuple[str, ...],
    request_id: str | None,
    since: str | None,
    until: str | None,
) -> None:
    """List deliveries, newest first. Columns: time, id, source, result, events or what could not be mapped."""
    account_id = get_account(account).id
    wanted = DeliveryFilter(
        source_id=None if source is None else sources.find_source(context(), account_id, source).id,
        results=results or None,
        request_id=request_id,
        since=read_time_option("--since", since),
        until=read_time_option("--until", until),
    )
    print_list(
        page,
        filtered(deliveries.find_latest_deliveries, account_id, wanted),
        cursor=lambda delivery: delivery.id,
        cells=_cells,
        widths=_WIDTHS,
        as_json=lambda delivery: json_line(asdict(delivery)),
        empty="no delivery passes these filters"
        if wanted != DeliveryFilter()
        else "nothing was posted to a source yet",
    )


def _cells(delivery: DeliveryRow) -> tuple[object, ...]:
    source = delivery.source or "(deleted)"
    return utc_text(delivery.received_at), delivery.id, source, delivery.result, summary(delivery)


@group.command("show")
@click.argument("id", type=click.UUID)
@click.option("--original", is_flag=True, help="Only write the body, byte for byte as it arrived, to standard output.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object, with the body as text.")
@owner_option
@command
def show(id: UUID, original: bool, as_json: bool, account: str | None) -> None:
    """Explain delivery ID, and show its headers and body.

    Shows what was posted, whether it was verified, which events it made, and what could not be mapped.
    """
    if original and as_json:
        raise click.UsageError("expected either --original or --json")
    owner = get_owner_id(account, "delivery", id, deliveries.find_owners_of_delivery)
    delivery = deliveries.find_delivery(context(), owner, id)
    body = deliveries.find_body(context(), delivery)
    if original:
        click.echo(body, nl=False)
        return
    readable = inspection.readable_body(context(), body, delivery.content_encoding)
    if as_json:
        click.echo(json_line(asdict(delivery) | {"body": readable.decode(errors="backslashreplace")}))
        return
    for line in delivery_lines(delivery, readable, get_account(str(owner)).slug):
        click.echo(line)
