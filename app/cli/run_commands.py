"""`flask run …`: list runs, tell the story of one, retry failed ones, cancel running ones."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import click
from tqdm import tqdm

from app.cli.base import command, context, terminal_width, the_account, the_moment, the_owner
from app.cli.formatting import distance, moment, row
from app.db.inspection import RunFilter, RunRow
from app.services import inspection
from app.services import runs as services_runs

_BATCH = 100
_WIDTHS = (20, 36, 9, 22, 16)

_account = click.option("--account", help="Slug or id; may be left out where the id, or a single account, tells.")
_ids = click.argument("ids", nargs=-1, metavar="ID...", type=click.UUID)


@click.command("list")
@click.option("--failed", is_flag=True, help="Only those that failed; then --since speaks of when they failed.")
@click.option("--workflow", metavar="NAME", help="Only of this workflow.")
@click.option("--subject", metavar="ID", help="Only of this subject (distinct_id).")
@click.option("--since", metavar="WHEN", help="Such as 1h, 2d or 2026-11-22T10:00Z.")
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True)
@click.option("--account", help="Slug or id; may be left out while there is only one account.")
@command
def list_(
    failed: bool, workflow: str | None, subject: str | None, since: str | None, limit: int, account: str | None
) -> None:
    """Runs, newest first: started, id, status, workflow, subject, and where it stands or why it failed."""
    wanted = RunFilter(failed, workflow, subject, the_moment("--since", since))
    account_id = the_account(account).id
    _check_workflow(account_id, workflow)
    for run in inspection.find_latest_runs(context(), account_id, wanted, limit):
        click.echo(run_row(run, context().clock(), terminal_width()))


def _check_workflow(account_id: int, name: str | None) -> None:
    """Runs of a workflow that is not there would be none, without a word."""
    if name is not None:
        from app.services import workflows

        workflows.find_workflow(context(), account_id, name)


def run_row(run: RunRow, now: datetime, width: int | None) -> str:
    """A run in one line."""
    if run.status == "running":
        due = "waits for its blocks" if run.wake_at is None else "due"
        end = f"at {run.at}, {distance(run.wake_at, now) if run.wake_at and run.wake_at > now else due}"
    else:
        end = run.error or ""
    workflow = f"{run.workflow} v{run.version}"
    return row((moment(run.created_at), run.id, run.status, workflow, run.distinct_id, end), _WIDTHS, width)


@click.command("show")
@click.argument("id", type=click.UUID)
@_account
@command
def show(id: UUID, account: str | None) -> None:
    """Tell the story of run ID: what started it, its steps, what was tried, what came back, and where it stands."""
    from app.cli.run_report import run_lines

    story = inspection.find_run_details(context(), the_owner(account, "run", id, inspection.find_owners_of_run), id)
    if story is None:
        raise click.ClickException(f"there is no run {id} in this account")
    for line in run_lines(story, context().clock()):
        click.echo(line)


@click.command("retry")
@_ids
@click.option("--failed", is_flag=True, help="All that failed; needs --since.")
@click.option("--workflow", metavar="NAME", help="With --failed: only of this workflow.")
@click.option("--since", metavar="WHEN", help="With --failed: only those that failed since then, such as 1h.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@_account
@command
def retry(
    ids: tuple[UUID, ...], failed: bool, workflow: str | None, since: str | None, yes: bool, account: str | None
) -> None:
    """Let the failed runs ID... (or all that --failed --since 1h finds) go on where they failed.

    The step that failed is tried again with the same idempotency key, as often as its policy allows.
    """
    if failed == bool(ids) or (not failed and (workflow or since)):
        raise click.UsageError("give either IDs, or --failed --since WHEN")
    chosen = _failed_runs(workflow, since, account) if failed else _owned(ids, account)
    if not chosen:
        click.echo("no run has failed since then")
        return
    if not yes:
        click.confirm(f"Retry {_count(len(chosen))}?", abort=True, err=True)
    left_out = _retry(chosen)
    click.echo(f"{_count(len(chosen) - len(left_out))} on the way again")
    for run_id in left_out:
        click.echo(f"{run_id}: has not failed, is a block, or is not of this account; nothing is done", err=True)
    if left_out:
        sys.exit(1)


def _count(runs: int) -> str:
    return f"{runs:,} run{'' if runs == 1 else 's'}"


def _failed_runs(workflow: str | None, since: str | None, account: str | None) -> list[tuple[int, UUID]]:
    """What --failed means, as (account, run), in the order of their start."""
    if since is None:
        raise click.UsageError("--failed needs --since, such as --since 1h")
    account_id = the_account(account).id
    _check_workflow(account_id, workflow)
    wanted = RunFilter(failed=True, workflow=workflow, since=the_moment("--since", since))
    return [(account_id, run.id) for run in reversed(inspection.find_latest_runs(context(), account_id, wanted, None))]


def _owned(ids: Sequence[UUID], account: str | None) -> list[tuple[int, UUID]]:
    """The runs with their accounts, each once."""
    return [(the_owner(account, "run", run_id, inspection.find_owners_of_run), run_id) for run_id in dict.fromkeys(ids)]


def _retry(chosen: Sequence[tuple[int, UUID]]) -> list[UUID]:
    """Retry them in batches, with a progress bar on a terminal; those that had not failed."""
    left_out = []
    with tqdm(total=len(chosen), unit=" runs", disable=None, file=sys.stderr, leave=False) as bar:
        for account_id in dict.fromkeys(owner for owner, _ in chosen):
            of_account = [run_id for owner, run_id in chosen if owner == account_id]
            for begin in range(0, len(of_account), _BATCH):
                batch = of_account[begin : begin + _BATCH]
                retried = services_runs.retry_runs(context(), account_id, batch)
                left_out += [run_id for run_id in batch if run_id not in retried]
                bar.update(len(batch))
    return left_out


@click.command("cancel")
@_ids
@_account
@command
def cancel(ids: tuple[UUID, ...], account: str | None) -> None:
    """End the running runs ID... where they stand, with all their blocks. A call that is under way is not called back."""
    if not ids:
        raise click.UsageError("give at least one ID")
    kept = False
    for account_id, run_id in _owned(ids, account):
        if services_runs.cancel_run(context(), account_id, run_id):
            click.echo(f"{run_id}: cancelled")
        else:
            kept = True
            click.echo(f"{run_id}: is not running, or is not of this account; nothing is done", err=True)
    if kept:
        sys.exit(1)
