"""`flask event …`: list and follow events, explain one, send some, and let old ones meet today's workflows."""

from __future__ import annotations

import os
import secrets
import sys
import time
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, BinaryIO
from uuid import UUID

import click
from tqdm import tqdm

from app.cli.base import command, context, terminal_width, the_account, the_moment, the_owner, why_not
from app.cli.event_sender import REFUSED, REPEATED, STORED, Entry, GaveUp, Sender, is_token, read_entries
from app.cli.event_tail import Follower
from app.cli.formatting import exact_moment, row, visible, visible_json
from app.cli.lazy_group import LazyGroup
from app.cli.run_report import event_lines, event_object
from app.core.errors import Unavailable
from app.core.ids import read_cxengage_id
from app.db.inspection import EventFilter, StoredEvent
from app.services import inspection

if TYPE_CHECKING:
    from app.ingest.replay import Replayed

_WIDTHS = (24, 36, 20, 16, 9)
_LOOK_EVERY = 0.5
_MOST_SKEW = 5.0

group = LazyGroup(
    "event",
    help="Events: what came, what became of it, and why.",
    lazy_commands={"import": "app.cli.import_history:import_"},
)
_account = click.option("--account", help="Slug or id; may be left out while there is only one account.")
_owner = click.option("--account", help="Slug or id; may be left out where the id tells.")
_json = click.option("--json", "as_json", is_flag=True, help="One JSON object a line, every number exact.")
_event = click.option("--event", "name", metavar="NAME", help="Only of this name.")
_subject = click.option("--subject", metavar="ID", help="Only of this subject (distinct_id).")


@group.command("list")
@_event
@_subject
@click.option("--phone", metavar="PHONE", help="Only of this number, such as +915673412780; reads all since --since.")
@click.option("--since", metavar="WHEN", help="Such as 1h, 2d or 2026-11-22T10:00Z.")
@click.option("--until", metavar="WHEN", help="Before this moment; like --since.")
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True)
@_json
@_account
@command
def list_(
    name: str | None,
    subject: str | None,
    phone: str | None,
    since: str | None,
    until: str | None,
    limit: int,
    as_json: bool,
    account: str | None,
) -> None:
    """Events, newest first: received, id, name, subject, how many runs it started, data."""
    wanted = EventFilter(name, subject, phone, the_moment("--since", since), the_moment("--until", until))
    for event in inspection.find_latest_events(context(), the_account(account).id, wanted, limit):
        _echo(event, as_json=as_json)


def _echo(event: StoredEvent, *, as_json: bool) -> None:
    click.echo(event_json(event) if as_json else event_row(event, terminal_width()))


def event_row(event: StoredEvent, width: int | None) -> str:
    """An event in one line."""
    count = sum(bool(decision.get("started")) for decision in event.decisions)
    started = f"{count} run{'' if count == 1 else 's'}" if count else "-"
    cells = (exact_moment(event.received_at), event.id, event.event, event.distinct_id, started, event.data_json)
    return row(cells, _WIDTHS, width)


def event_json(event: StoredEvent) -> str:
    """An event as one line of JSON."""
    return visible_json(event_object(event).decode())


def event_id(text: str) -> tuple[str | None, UUID]:
    """The account's id, where it is named, and the event's, of which the text is the UUID or what CxEngage's clients get
    for it, EV…-…; raises click.BadParameter."""
    known = read_cxengage_id(text)
    return (str(known[0]), known[1]) if known else (None, click.UUID.convert(text, None, None))


@group.command("show")
@click.argument("id", type=event_id)
@_owner
@command
def show(id: tuple[str | None, UUID], account: str | None) -> None:
    """Explain event ID: what it was, what each workflow concluded and why, and where the runs stand that it started."""
    named, found = id
    owner = the_owner(account or named, "event", found, inspection.find_owners_of_event)
    story = inspection.find_event_details(context(), owner, found)
    if story is None:
        raise click.ClickException(f"there is no event {found} in this account")
    for line in event_lines(story, the_account(str(owner)).slug, context().clock()):
        click.echo(line)


@group.command("tail")
@_event
@_subject
@_json
@_account
@command
def tail(name: str | None, subject: str | None, as_json: bool, account: str | None) -> None:
    """Print events as they arrive, until Ctrl-C."""
    try:
        for event in _follow(the_account(account).id, EventFilter(name, subject)):
            _echo(event, as_json=as_json)
    except KeyboardInterrupt:
        return


def _follow(account_id: int, wanted: EventFilter) -> Iterator[StoredEvent]:
    """Events as they become visible; goes on when Postgres comes back."""

    def ask(since: datetime, known: Collection[UUID], limit: int) -> list[StoredEvent]:
        return inspection.find_further_events(context(), account_id, replace(wanted, since=since), known, limit)

    # An event's statement may be sent twice, and clocks differ a little.
    look_back = timedelta(seconds=2 * context().settings.statement_timeout + _MOST_SKEW)
    follower, reached = Follower(ask, context().clock, look_back), True
    while True:
        try:
            yield from follower.look()
            reached = True
        except Unavailable as trouble:
            if reached:
                click.echo(f"{why_not(trouble)}; still trying", err=True)
            reached = False
        time.sleep(_LOOK_EVERY)


@group.command("send")
@click.argument("file", type=click.File("rb"))
@click.option("--url", required=True, help="Of the server, such as https://signals.example.com.")
@click.option("--token", required=True, envvar="SIGNALBOX_TOKEN", show_envvar=True, help="An API key.")
@click.option("--account-id", required=True, type=click.IntRange(1), help="Goes into x-fb-account-id.")
@click.option("--anew", is_flag=True, help="Send as new events what was sent before.")
def send(file: BinaryIO, url: str, token: str, account_id: int, anew: bool) -> None:
    """Post the events of FILE (- is standard input): a JSON object, a JSON array, or one JSON object a line.

    Each goes with an Idempotency-Key made of its content, its position and the path of FILE: the same file sent again
    stores nothing twice.
    Answers 429 and 5xx and lost connections are tried again. Exit code 1 if anything was refused or is left unsent.
    """
    if not is_token(token):
        raise click.BadParameter("a key is printable ASCII without spaces", param_hint="--token (or SIGNALBOX_TOKEN)")
    try:
        sender = Sender(url, token, account_id, source=secrets.token_hex(8) if anew else _source_of(file))
    except ValueError as wrong:
        raise click.BadParameter(str(wrong), param_hint="--url") from None
    try:
        total, entries = read_entries(file)
    except ValueError as wrong:
        raise click.ClickException(f"{getattr(file, 'name', '-')}: {wrong}") from None
    counts: Counter[str] = Counter()
    unsent = None
    with closing(sender):
        try:
            _send_all(sender, total, entries, counts)
        except GaveUp as trouble:
            unsent = str(trouble)
    told = [f"{counts[outcome]:,} {outcome}" for outcome in (STORED, REPEATED, REFUSED) if counts[outcome]]
    click.echo(f"{counts.total():,} sent: {', '.join(told)}" if told else "nothing sent")
    if unsent is not None:
        raise click.ClickException(f"{visible(unsent)}. Then send the same again: what is stored is not stored twice")
    if counts[REFUSED]:
        sys.exit(1)


def _source_of(file: BinaryIO) -> str:
    """Which file it is, wherever it is sent from; what comes through standard input has no name."""
    name = getattr(file, "name", None)
    return os.path.realpath(name) if isinstance(name, str) and os.path.exists(name) else ""


def _send_all(sender: Sender, total: int | None, entries: Iterator[Entry], counts: Counter[str]) -> None:
    """Send all, with a progress bar on a terminal; counts what became of them. Raises GaveUp with the line."""
    with tqdm(total=total, unit=" events", disable=None, file=sys.stderr, leave=False) as bar:
        for entry in entries:
            try:
                outcome, why = sender.send(entry)
            except GaveUp as trouble:
                raise GaveUp(f"given up at line {entry.line}: {trouble}") from None
            counts[outcome] += 1
            if outcome == REFUSED:
                tqdm.write(visible(f"line {entry.line}: {why}"), file=sys.stderr)
            bar.update()


@group.command("replay")
@click.argument("ids", nargs=-1, required=True, metavar="ID...", type=event_id)
@click.option("--dry-run", is_flag=True, help="Only tell what would happen.")
@_owner
@command
def replay(ids: tuple[tuple[str | None, UUID], ...], dry_run: bool, account: str | None) -> None:
    """Match the stored events ID... with the workflows that are enabled now, and start a run for each match.

    A match that has had its run gets no other one.
    """
    from app.ingest.replay import replay_event

    for wanted, named in sorted({wanted: named for named, wanted in ids}.items()):
        owner = the_owner(account or named, "event", wanted, inspection.find_owners_of_event)
        replayed = replay_event(context(), owner, wanted, dry_run=dry_run)
        click.echo(f"event {wanted}" + ("" if replayed else ": no enabled workflow asks for events of this name"))
        for one in replayed:
            click.echo(f"  {replayed_line(one, dry_run=dry_run)}")


def replayed_line(one: Replayed, *, dry_run: bool) -> str:
    """What one workflow concludes about an event of the past."""
    decision = one.decision
    if one.earlier is not None:
        end = f"has had its run {one.earlier} already, no other one is started"
    elif decision.started:
        end = f"would start a run: {decision.reason}" if dry_run else f"started run {decision.run_id}"
    else:
        end = f"does not start: {decision.reason}"
    return visible(f"{decision.workflow} version {decision.version} {end}")
