"""`signalbox subject …`: show and erase the data of one subject."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict

import click

from app.cli.base import command, confirm, context, get_account, parse_option, yes_option
from app.cli.json_report import subject_details, to_json
from app.cli.lists import Page, json_line, json_option, list_options, print_list, read_id
from app.cli.program import with_remedies
from app.cli.terminal_text import visible
from app.core.ids import utc_text
from app.services import data_subjects, explanations
from app.services.data_subjects import SubjectDetails

group = click.Group("subject", help="Subjects: the people whom events are about.")


@group.command("show")
@click.argument("account")
@click.argument("distinct_id")
@click.option(
    "--limit", default=20, show_default=True, type=click.IntRange(1, 1_000), help="How many events and runs to show."
)
@json_option
@command
def show(account: str, distinct_id: str, limit: int, as_json: bool) -> None:
    """Show events, runs and progress of DISTINCT_ID. ACCOUNT is a slug or an id."""
    found = get_account(account)
    details = data_subjects.find_subject_details(context(), found.id, distinct_id, limit)
    if as_json:
        click.echo(to_json(subject_details(distinct_id, details)))
        return
    for line in subject_lines(distinct_id, details):
        click.echo(with_remedies(line, found.slug))


def subject_lines(subject: str, details: SubjectDetails) -> Iterator[str]:
    """What is stored about a subject, as lines of text."""
    yield f"subject {visible(subject)}"
    yield ""
    yield "progress" if details.progress else "progress: none"
    for row in details.progress:
        last_start = f", last started {utc_text(row.last_started_at)}" if row.last_started_at else ""
        yield f"  {row.workflow}: {row.description}{last_start}"
    yield "runs, newest first" if details.runs else "runs: none"
    for run in details.runs:
        step = f" at {run.at}" if run.status == "running" else ""
        reason = f": {visible(run.error)}" if run.error else ""
        yield f"  {utc_text(run.created_at)}  {run.workflow}  {run.status}{step}{reason}  {run.id}"
    yield "events, newest first" if details.events else "events: none"
    for stored in details.events:
        yield f"  {utc_text(stored.received_at)}  {visible(stored.event)}  {stored.id}"


@group.command("why")
@click.argument("account")
@click.argument("distinct_id")
@click.argument("workflow", required=False)
@json_option
@command
def why(account: str, distinct_id: str, workflow: str | None, as_json: bool) -> None:
    """Say why workflows started for DISTINCT_ID, or not.

    One sentence for each workflow of ACCOUNT, or for WORKFLOW.
    """
    found = get_account(account)
    answers = explanations.explain_starts(context(), found.id, distinct_id, workflow)
    for one in answers:
        sentence = with_remedies(visible(f"{one.workflow}: {one.sentence}"), found.slug)
        click.echo(json_line(asdict(one)) if as_json else sentence)
    if not as_json and not answers:
        click.echo("the account has no workflow")
    if len(answers) == explanations.MAX_WORKFLOWS:
        click.echo(f"These are the first {len(answers)} workflows; name one of the others.", err=True)


@group.command("erase")
@click.argument("account")
@click.argument("distinct_id")
@yes_option
@command
def erase(account: str, distinct_id: str, yes: bool) -> None:
    """Delete all data of DISTINCT_ID in ACCOUNT.

    That is its events, progress, runs, refused requests, and deliveries to sources that name it. Its id and phone numbers are
    masked in what remains of others, except for their events. A receipt without the id is written.
    """
    found = get_account(account)
    if not yes:
        confirm(f"Delete all data of {visible(distinct_id)} in {found.slug}?")
    erased = data_subjects.erase_subject(context(), found.id, distinct_id)
    click.echo(
        f"deleted: {erased.events} events, {erased.runs} runs, {erased.progress} rows of progress, "
        f"{erased.refusals} refused requests, {erased.more.get('deliveries', 0)} deliveries"
    )


@group.command("receipts")
@click.argument("account")
@click.option("--subject", metavar="DISTINCT_ID", help="Only those of this subject.")
@list_options
@command
def receipts(account: str, subject: str | None, page: Page) -> None:
    """List the erasures in ACCOUNT, newest first. Columns: time, who called for it, the hash of the id, what was deleted."""
    account_id = get_account(account).id
    print_list(
        page,
        lambda after, limit: data_subjects.list_receipts(
            context(), account_id, subject, before=parse_option("--after", read_id, after), limit=limit
        ),
        cursor=lambda one: one.id,
        cells=lambda one: (utc_text(one.at), one.actor, one.subject_hash.hex()[:16], _counts(one.counts)),
        widths=(27, 12, 16),
        as_json=lambda one: json_line({**asdict(one), "subject_hash": one.subject_hash.hex()}),
    )


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{table} {count}" for table, count in counts.items() if count) or "nothing was stored"
