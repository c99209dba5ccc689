"""`flask subject …`: what is known of one person, and how to forget them; `flask workflow delete`."""

from __future__ import annotations

from collections.abc import Iterator

import click

from app.cli.base import command, context, the_account
from app.cli.formatting import exact_moment, visible
from app.services import data_subjects, workflows
from app.services.data_subjects import SubjectDetails

group = click.Group("subject", help="Subjects: the people that events are about.")
_yes = click.option("--yes", is_flag=True, help="Do not ask.")


@group.command("show")
@click.argument("account")
@click.argument("distinct_id")
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1, 1_000), help="Events and runs at most.")
@command
def show(account: str, distinct_id: str, limit: int) -> None:
    """Show the events, the progress in every workflow, and the runs of DISTINCT_ID in ACCOUNT (slug or id)."""
    story = data_subjects.find_subject_details(context(), the_account(account).id, distinct_id, limit)
    for line in subject_lines(distinct_id, story):
        click.echo(line)


def subject_lines(subject: str, story: SubjectDetails) -> Iterator[str]:
    """A person's story in lines."""
    yield f"subject {visible(subject)}"
    yield ""
    yield "progress" if story.progress else "progress: none"
    for row in story.progress:
        more = f", last started {exact_moment(row.last_started_at)}" if row.last_started_at else ""
        yield f"  {row.workflow}: {row.description}{more}"
    yield "runs, newest first" if story.runs else "runs: none"
    for run in story.runs:
        place = f" at {run.at}" if run.status == "running" else ""
        why = f": {visible(run.error)}" if run.error else ""
        yield f"  {exact_moment(run.created_at)}  {run.workflow}  {run.status}{place}{why}  {run.id}"
    yield "events, newest first" if story.events else "events: none"
    for stored in story.events:
        yield f"  {exact_moment(stored.received_at)}  {visible(stored.event)}  {stored.id}"


@group.command("erase")
@click.argument("account")
@click.argument("distinct_id")
@_yes
@command
def erase(account: str, distinct_id: str, yes: bool) -> None:
    """Delete all that is kept of DISTINCT_ID in ACCOUNT: events, progress, runs."""
    found = the_account(account)
    if not yes:
        click.confirm(f"Delete all that is kept of {visible(distinct_id)} in {found.slug}?", abort=True, err=True)
    erased = data_subjects.erase_subject(context(), found.id, distinct_id)
    click.echo(f"deleted: {erased.events} events, {erased.runs} runs, {erased.progress} rows of progress")


@click.command("delete")
@click.argument("name")
@click.option("--account", help="Slug or id; may be left out while there is only one account.")
@_yes
@command
def delete_workflow(name: str, account: str | None, yes: bool) -> None:
    """Delete workflow NAME with its versions, progress and runs (also those that still run)."""
    found = the_account(account)
    workflows.find_workflow(context(), found.id, name)
    if not yes:
        click.confirm(f"Delete workflow {visible(name)} of {found.slug} with all its runs?", abort=True, err=True)
    erased = data_subjects.delete_workflow(context(), found.id, name)
    click.echo(f"{name}: deleted, with {erased.runs} runs and {erased.progress} rows of progress")
