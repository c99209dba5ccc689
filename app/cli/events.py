"""`signalbox event …`: list, explain, follow, send and replay events."""

from __future__ import annotations

import os
import secrets
import sys
import time
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, BinaryIO
from uuid import UUID

import click
from tqdm import tqdm

from app.cli.base import (
    UnavailableError,
    account_option,
    command,
    context,
    explain_unavailable,
    get_account,
    get_owner_id,
    owner_option,
    parse_option,
    read_time_option,
    terminal_width,
)
from app.cli.event_sender import (
    REFUSED,
    REPEATED,
    STORED,
    Entry,
    GaveUp,
    Sender,
    ServerUnavailable,
    is_token,
    read_entries,
)
from app.cli.event_tail import EventTail
from app.cli.json_report import event_details, event_fields, to_json
from app.cli.lazy_group import LazyGroup
from app.cli.lists import Page, filtered, json_option, list_options, print_list
from app.cli.program import with_remedies
from app.cli.run_report import event_lines
from app.cli.terminal_text import counted, row, visible
from app.core.errors import Unavailable
from app.core.ids import read_cxengage_id, utc_text
from app.db.inspection import EventFilter, StoredEvent
from app.services import inspection

if TYPE_CHECKING:
    from app.ingest.event_replay import Replayed

_WIDTHS = (27, 36, 20, 16, 9)
_POLL_SECONDS = 0.5

group = LazyGroup(
    "event",
    help="Events: list, explain, follow, send, import and replay them.",
    lazy_commands={"import": ("app.cli.import_history:import_", "Store historical events from a file.")},
)
_event = click.option("--event", "name", metavar="NAME", help="Only events of this name.")
_subject = click.option("--subject", metavar="ID", help="Only events of this subject (distinct_id).")


def _stored_phone(text: str) -> str:
    """A phone number as the table has it. Raises ValueError."""
    # The import is slow and hardly ever needed.
    from app.core.phone_numbers import UnusablePhone, read_phone

    try:
        return read_phone(text)
    except UnusablePhone as exc:
        raise ValueError(f"{text!r} {exc}") from None


@group.command("list")
@_event
@_subject
@click.option(
    "--phone", metavar="PHONE", help="Only this number, such as +915673412780. Reads all events since --since."
)
@click.option("--since", metavar="WHEN", help="Such as 1h, 2d or 2026-11-22T10:00Z.")
@click.option("--until", metavar="WHEN", help="Only events before this time. Same format as --since.")
@list_options
@account_option
@command
def list_(
    name: str | None,
    subject: str | None,
    phone: str | None,
    since: str | None,
    until: str | None,
    account: str | None,
    page: Page,
) -> None:
    """List events, newest first. Columns: received, id, name, subject, number of started runs, data."""
    number = parse_option("--phone", _stored_phone, phone)
    wanted = EventFilter(name, subject, number, read_time_option("--since", since), read_time_option("--until", until))
    account_id = get_account(account).id
    print_list(
        page,
        filtered(inspection.find_latest_events, account_id, wanted),
        cursor=lambda event: event.id,
        cells=event_cells,
        widths=_WIDTHS,
        as_json=event_json,
    )


def event_cells(event: StoredEvent) -> tuple[object, ...]:
    """An event as the cells of a line."""
    count = sum(bool(decision.get("started")) for decision in event.decisions)
    started = counted(count, "run") if count else "-"
    return utc_text(event.received_at), event.id, event.event, event.distinct_id, started, event.data_json


def event_json(event: StoredEvent) -> str:
    """An event as one line of JSON."""
    return to_json(event_fields(event))


def event_id(text: str) -> tuple[str | None, UUID]:
    """The account id (None for a UUID) and the event id of a UUID or of a CxEngage event id, EV…-…. Raises BadParameter."""
    known = read_cxengage_id(text)
    return (str(known[0]), known[1]) if known else (None, click.UUID.convert(text, None, None))


@group.command("show")
@click.argument("id", type=event_id)
@json_option
@owner_option
@command
def show(id: tuple[str | None, UUID], as_json: bool, account: str | None) -> None:
    """Explain event ID. Shows its content, the decision of each workflow, and the state of the runs that it started."""
    named, event = id
    owner = get_owner_id(account or named, "event", event, inspection.find_owners_of_event)
    details = inspection.find_event_details(context(), owner, event)
    if details is None:
        raise click.ClickException(f"this account has no event {event}")
    if as_json:
        click.echo(to_json(event_details(details)))
        return
    slug = get_account(str(owner)).slug
    for line in event_lines(details, slug, context().clock()):
        click.echo(with_remedies(line, slug))


@group.command("tail")
@_event
@_subject
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
@account_option
@command
def tail(name: str | None, subject: str | None, as_json: bool, account: str | None) -> None:
    """Print events as they arrive, until Ctrl-C."""
    try:
        for event in _follow(get_account(account).id, EventFilter(name, subject)):
            click.echo(event_json(event) if as_json else row(event_cells(event), _WIDTHS, terminal_width()))
    except KeyboardInterrupt:
        return


def _follow(account_id: int, wanted: EventFilter) -> Iterator[StoredEvent]:
    """Events as they become visible. Continues when Postgres is available again."""

    def find(since: datetime, known: Collection[UUID], limit: int) -> list[StoredEvent]:
        return inspection.find_further_events(context(), account_id, replace(wanted, since=since), known, limit)

    look_back = context().clock() - inspection.committed_until(context())
    event_tail, available = EventTail(find, context().clock, look_back), True
    while True:
        try:
            yield from event_tail.poll()
            available = True
        except Unavailable as exc:
            if available:
                click.echo(f"{explain_unavailable(exc)}; retrying", err=True)
            available = False
        time.sleep(_POLL_SECONDS)


@group.command("send")
@click.argument("file", type=click.File("rb"))
@click.option("--url", required=True, help="The server, such as https://signals.example.com.")
@click.option("--token", required=True, envvar="SIGNALBOX_TOKEN", show_envvar=True, help="An API key.")
@click.option("--account-id", required=True, type=click.IntRange(1), help="Sent as x-fb-account-id.")
@click.option("--anew", is_flag=True, help="Use new Idempotency-Keys, so that the events are stored again.")
def send(file: BinaryIO, url: str, token: str, account_id: int, anew: bool) -> None:
    """Post the events of FILE to a server.

    FILE (- is standard input) is a JSON object, a JSON array, or one JSON object per line. The Idempotency-Key of an event is
    derived from its content, its position and the path of FILE, so sending the same file again stores nothing twice. Responses
    429 and 5xx and lost connections are retried. The exit code is 1 if an event was refused, and 3 if the server is unavailable.
    """
    if not is_token(token):
        raise click.BadParameter(
            "an API key is printable ASCII without spaces", param_hint="--token (or SIGNALBOX_TOKEN)"
        )
    try:
        source = secrets.token_hex(8) if anew else _source_of(file)
        sender = Sender(url, token, account_id, source=source, notify=_say_retrying)
    except ValueError as exc:
        raise click.BadParameter(str(exc), param_hint="--url") from None
    try:
        total, entries = read_entries(file)
    except ValueError as exc:
        raise click.ClickException(f"{getattr(file, 'name', '-')}: {exc}") from None
    counts: Counter[str] = Counter()
    unsent: GaveUp | None = None
    with closing(sender):
        try:
            _send_all(sender, total, entries, counts)
        except GaveUp as exc:
            unsent = exc
    results = [f"{counts[result]:,} {result}" for result in (STORED, REPEATED, REFUSED) if counts[result]]
    click.echo(f"{counts.total():,} sent: {', '.join(results)}" if results else "nothing sent")
    if unsent is not None:
        error = UnavailableError if isinstance(unsent, ServerUnavailable) else click.ClickException
        raise error(f"{visible(unsent)}. Send the same file again later: stored events are not stored twice")
    if counts[REFUSED]:
        sys.exit(1)


def _say_retrying(reason: str) -> None:
    tqdm.write(f"{visible(reason)}; retrying", file=sys.stderr)


def _source_of(file: BinaryIO) -> str:
    """The absolute path of the file; empty for standard input."""
    name = getattr(file, "name", None)
    return os.path.realpath(name) if isinstance(name, str) and os.path.exists(name) else ""


def _send_all(sender: Sender, total: int | None, entries: Iterator[Entry], counts: Counter[str]) -> None:
    """Send all events with a progress bar on a terminal, and count the results. Raises GaveUp with the line number."""
    with tqdm(total=total, unit=" events", disable=None, file=sys.stderr, leave=False) as bar:
        for entry in entries:
            try:
                result, reason = sender.send(entry)
            except GaveUp as exc:
                raise type(exc)(f"gave up at line {entry.line}: {exc}") from None
            counts[result] += 1
            if result == REFUSED:
                tqdm.write(visible(f"line {entry.line}: {reason}"), file=sys.stderr)
            bar.update()


@group.command("replay")
@click.argument("ids", nargs=-1, required=True, metavar="ID...", type=event_id)
@click.option("--workflow", metavar="NAME", help="Only with this workflow.")
@click.option("--dry-run", is_flag=True, help="Only print what would happen.")
@owner_option
@command
def replay(ids: tuple[tuple[str | None, UUID], ...], workflow: str | None, dry_run: bool, account: str | None) -> None:
    """Match stored events with the workflows that are enabled now.

    Starts a run for each match. A match that already has a run does not get a second one.
    """
    from app.ingest.event_replay import replay_event

    for wanted, named in sorted({wanted: named for named, wanted in ids}.items()):
        owner = get_owner_id(account or named, "event", wanted, inspection.find_owners_of_event)
        replayed = replay_event(context(), owner, wanted, workflow=workflow, dry_run=dry_run)
        looks = "the workflow is not enabled, or does not look" if workflow else "no enabled workflow looks"
        click.echo(f"event {wanted}" + ("" if replayed else f": {looks} at events of this name"))
        for one in replayed:
            click.echo(f"  {replayed_line(one, dry_run=dry_run)}")


def replayed_line(one: Replayed, *, dry_run: bool) -> str:
    """The decision of one workflow about a replayed event."""
    decision = one.decision
    if one.earlier is not None:
        end = f"has had run {one.earlier}, starts no other"
    elif decision.started:
        end = f"would start a run: {decision.reason}" if dry_run else f"started run {decision.run_id}"
    else:
        end = f"does not start: {decision.reason}"
    return visible(f"{decision.workflow} version {decision.version} {end}")
