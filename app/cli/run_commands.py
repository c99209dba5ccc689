"""`signalbox run …`: list and explain runs, retry failed ones, cancel running ones."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any
from uuid import UUID

import click
from tqdm import tqdm

from app.cli.base import (
    account_option,
    command,
    confirm,
    context,
    get_account,
    get_owner_id,
    owner_option,
    read_time_option,
    yes_option,
)
from app.cli.json_report import run_details, run_fields, to_json
from app.cli.lists import Page, filtered, json_line, json_option, list_options, print_list
from app.cli.program import with_remedies
from app.cli.terminal_text import counted, format_relative
from app.core.ids import utc_text
from app.db.inspection import RUN_STATUSES, RunFilter, RunRow
from app.services import inspection
from app.services import runs as services_runs

_BATCH = 100
_WIDTHS = (27, 36, 9, 22, 16)
_ids = click.argument("ids", nargs=-1, metavar="ID...", type=click.UUID)


def _group_options(function: Callable[..., None]) -> Callable[..., None]:
    """The options that choose a group of `run failures`."""
    class_option = click.option(
        "--error-class", metavar="CLASS", help="Only runs that failed with this class of error."
    )
    target_option = click.option("--target", metavar="TARGET", help="Only runs that failed at this target, or at none.")
    return target_option(class_option(function))


@click.command("list")
@click.option("--failed", is_flag=True, help="Only failed runs; --since then applies to the time of the failure.")
@click.option("--workflow", metavar="NAME", help="Only runs of this workflow.")
@click.option("--subject", metavar="ID", help="Only runs of this subject (distinct_id).")
@click.option("--status", type=click.Choice(RUN_STATUSES), help="Only runs in this state.")
@click.option("--since", metavar="WHEN", help="Such as 1h, 2d or 2026-11-22T10:00Z.")
@_group_options
@list_options
@account_option
@command
def list_(
    failed: bool,
    workflow: str | None,
    subject: str | None,
    status: str | None,
    since: str | None,
    account: str | None,
    page: Page,
    **group: str | None,
) -> None:
    """List runs, newest first. Columns: started, id, status, workflow, subject, and the current step or the error."""
    wanted = RunFilter(
        failed,
        workflow,
        subject,
        read_time_option("--since", since),
        status=status,
        target=group["target"],
        error_class=group["error_class"],
    )
    account_id = get_account(account).id
    _check_workflow(account_id, workflow)
    print_list(
        page,
        filtered(inspection.find_latest_runs, account_id, wanted),
        cursor=lambda run: run.id,
        cells=lambda run: run_cells(run, context().clock()),
        widths=_WIDTHS,
        as_json=lambda run: json_line(run_fields(run)),
    )


def _check_workflow(account_id: int, name: str | None) -> None:
    """Exit with an error when there is no such workflow, instead of listing no runs."""
    if name is not None:
        from app.services import workflows

        workflows.find_workflow(context(), account_id, name)


def run_cells(run: RunRow, now: datetime) -> tuple[object, ...]:
    """A run as the cells of a line."""
    if run.status == "running":
        due = "waits for blocks" if run.wake_at is None else "due"
        end = f"at {run.at}, {format_relative(run.wake_at, now) if run.wake_at and run.wake_at > now else due}"
    else:
        end = with_remedies(run.error or "", run.account)
    workflow = f"{run.workflow} v{run.version}"
    return utc_text(run.created_at), run.id, run.status, workflow, run.distinct_id, end


@click.command("show")
@click.argument("id", type=click.UUID)
@json_option
@owner_option
@command
def show(id: UUID, as_json: bool, account: str | None) -> None:
    """Explain run ID: what started it, its steps and attempts, responses, and its state."""
    from app.cli.run_report import run_lines

    details = inspection.find_run_details(
        context(), get_owner_id(account, "run", id, inspection.find_owners_of_run), id
    )
    if details is None:
        raise click.ClickException(f"this account has no run {id}")
    if as_json:
        click.echo(to_json(run_details(details)))
        return
    for line in run_lines(details, context().clock()):
        click.echo(with_remedies(line, details.run.account))


@click.command("retry")
@_ids
@click.option("--failed", is_flag=True, help="All failed runs; requires --since.")
@click.option("--workflow", metavar="NAME", help="With --failed: only runs of this workflow.")
@click.option("--since", metavar="WHEN", help="With --failed: only runs that failed since then, such as 1h.")
@_group_options
@yes_option
@owner_option
@command
def retry(
    ids: tuple[UUID, ...],
    failed: bool,
    workflow: str | None,
    since: str | None,
    yes: bool,
    account: str | None,
    **group: str | None,
) -> None:
    """Retry the failed runs ID..., or all that --failed --since 1h finds, from the step that failed.

    The step keeps its idempotency key and gets all attempts of its retry policy again.
    """
    if failed == bool(ids) or (not failed and (workflow or since or any(group.values()))):
        raise click.UsageError("expected either IDs, or --failed --since WHEN")
    chosen = _failed_runs(workflow, since, account, group) if failed else _owned(ids, account)
    if not chosen:
        click.echo("no run has failed since then")
        return
    if not yes:
        confirm(f"Retry {counted(len(chosen), 'run')}?")
    given = {name: text for name, text in group.items() if text}
    chosen_by = {"workflow": workflow, "since": read_time_option("--since", since), **given} if failed else None
    skipped = _retry(chosen, chosen_by)
    click.echo(f"{counted(len(chosen) - len(skipped), 'run')} scheduled again")
    for account_id, run_id in skipped:
        click.echo(f"{run_id}: skipped; {_explain_skipped(account_id, run_id)}", err=True)
    if skipped:
        sys.exit(1)


def _failed_runs(
    workflow: str | None, since: str | None, account: str | None, group: Mapping[str, str | None]
) -> list[tuple[int, UUID]]:
    """The failed runs as (account id, run id), in the order in which they started."""
    if since is None:
        raise click.UsageError("--failed requires --since, such as --since 1h")
    account_id = get_account(account).id
    _check_workflow(account_id, workflow)
    wanted = RunFilter(
        failed=True,
        workflow=workflow,
        since=read_time_option("--since", since),
        target=group["target"],
        error_class=group["error_class"],
    )
    found: list[UUID] = []
    while batch := inspection.find_latest_runs(context(), account_id, wanted, _BATCH):
        found += [run.id for run in batch]
        wanted = replace(wanted, before=found[-1])
    return [(account_id, run_id) for run_id in reversed(found)]


def _owned(ids: Sequence[UUID], account: str | None) -> list[tuple[int, UUID]]:
    """The runs as (account id, run id), without duplicates."""
    return [
        (get_owner_id(account, "run", run_id, inspection.find_owners_of_run), run_id) for run_id in dict.fromkeys(ids)
    ]


def _explain_skipped(account_id: int, run_id: UUID) -> str:
    """Why a run could not be retried or cancelled."""
    run = inspection.find_run(context(), account_id, run_id)
    if run is None:
        return "the account has no such run"
    if run.root_id is not None:
        return f"it is {run.status}, and a block of run {run.root_id}, which can be retried"
    return f"it is {run.status}"


def _retry(chosen: Sequence[tuple[int, UUID]], chosen_by: Mapping[str, Any] | None) -> list[tuple[int, UUID]]:
    """Retry the runs of each account in one transaction, with a progress bar on a terminal. Returns the runs that cannot be
    retried."""
    skipped = []
    with tqdm(total=len(chosen), unit=" runs", disable=None, file=sys.stderr, leave=False) as bar:
        for account_id, of_account in _by_account(chosen).items():
            retried = services_runs.retry_runs(
                context(), account_id, of_account, chosen_by=chosen_by, on_batch=bar.update
            )
            skipped += [(account_id, run_id) for run_id in of_account if run_id not in retried]
    return skipped


def _by_account(chosen: Sequence[tuple[int, UUID]]) -> dict[int, list[UUID]]:
    found: dict[int, list[UUID]] = {}
    for account_id, run_id in chosen:
        found.setdefault(account_id, []).append(run_id)
    return found


@click.command("cancel")
@_ids
@owner_option
@command
def cancel(ids: tuple[UUID, ...], account: str | None) -> None:
    """Cancel the running runs ID... with all their blocks. A call in progress is not interrupted."""
    if not ids:
        raise click.UsageError("expected at least one ID")
    has_skipped = False
    chosen = _owned(ids, account)
    cancelled = {
        account_id: services_runs.cancel_runs(context(), account_id, of_account)
        for account_id, of_account in _by_account(chosen).items()
    }
    for account_id, run_id in chosen:
        if run_id in cancelled[account_id]:
            click.echo(f"{run_id}: cancelled")
        else:
            has_skipped = True
            click.echo(f"{run_id}: skipped; {_explain_skipped(account_id, run_id)}", err=True)
    if has_skipped:
        sys.exit(1)
