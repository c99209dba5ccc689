"""`signalbox workflow …`: save, list, show, enable, disable and delete workflows."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from app.cli.base import account_option, command, confirm, context, get_account, yes_option
from app.cli.documents import files_argument, print_errors, read_source
from app.cli.lists import Page, json_line, list_options, print_list
from app.cli.program import paste
from app.cli.terminal_text import counted, visible
from app.core.ids import utc_text
from app.db.workflows import WorkflowRow
from app.services import workflows
from app.services.workflows import Applied
from app.workflows.validate import find_mistakes
from app.workflows.yaml_loader import InvalidDocument

_JSON_FIELDS = ("id", "account_id", "name", "latest_version", "enabled_version", "created_at", "updated_at")


@click.command("apply")
@files_argument
@click.option("--draft", is_flag=True, help="Only save, also with errors; enable nothing.")
@account_option
@command
def apply(files: tuple[Path, ...], draft: bool, account: str | None) -> None:
    """Save workflows or new versions of them. A new workflow is enabled; a new version keeps its workflow's state."""
    found = get_account(account)
    save = workflows.save_draft if draft else workflows.apply_workflow
    failed = False
    for file in files:
        try:
            applied = save(context(), found.id, read_source(file))
        except InvalidDocument as exc:
            failed = True
            print_errors((file, mistake) for mistake in exc.mistakes)
            if draft:
                click.echo(f"{visible(file)}: not saved; a draft must be valid YAML and have a name", err=True)
        else:
            print_errors((file, mistake) for mistake in applied.mistakes)
            click.echo(_draft_line(applied) if draft else _applied_line(applied))
    if failed:
        sys.exit(1)


def _applied_line(applied: Applied) -> str:
    state = (
        "enabled" if applied.enabled_version else f"disabled; {paste('workflow', 'enable', applied.name)} enables it"
    )
    if applied.change == "enabled":
        return f"{applied.name}: unchanged, version {applied.version} is enabled"
    if applied.change == "unchanged":
        return f"{applied.name}: unchanged at version {applied.version}, {state}"
    return f"{applied.name}: {_change(applied)}, {state}"


def _draft_line(applied: Applied) -> str:
    count = len(applied.mistakes)
    errors = counted(count, "error") if count else "no errors"
    rest = f"version {applied.enabled_version} stays enabled" if applied.enabled_version else "not enabled"
    change = f"unchanged at version {applied.version}" if applied.change == "unchanged" else _change(applied)
    return f"{applied.name}: draft {change}, {errors}, {rest}"


def _change(applied: Applied) -> str:
    if applied.change == "created":
        return f"created as version {applied.version}"
    return f"changed to version {applied.version} ({visible(', '.join(applied.differences))})"


@click.command("list")
@list_options
@account_option
@command
def list_(account: str | None, page: Page) -> None:
    """List the workflows of an account by name. Columns: name, latest version, state, changed."""
    account_id = get_account(account).id
    print_list(
        page,
        lambda after, limit: workflows.list_workflows(context(), account_id, after=after or "", limit=limit),
        cursor=lambda workflow: workflow.name,
        cells=workflow_cells,
        widths=(28, 34, 22),
        as_json=lambda workflow: json_line(
            {name: getattr(workflow, name) for name in _JSON_FIELDS} | {"errors": count_errors(workflow)}
        ),
    )


def count_errors(workflow: WorkflowRow) -> int:
    """The number of errors in the latest version. An enabled version has none."""
    if workflow.enabled_version == workflow.latest_version:
        return 0
    return len(find_mistakes(workflow.source.encode()))


def workflow_cells(workflow: WorkflowRow) -> tuple[object, ...]:
    """A workflow as the cells of a line."""
    count = count_errors(workflow)
    draft = f" (a draft with {counted(count, 'error')})" if count else ""
    state = f"enabled at version {workflow.enabled_version}" if workflow.enabled_version else "disabled"
    return workflow.name, f"version {workflow.latest_version}{draft}", state, utc_text(workflow.updated_at)


@click.command("show")
@click.argument("name")
@click.option("--version", type=click.IntRange(1), help="Default: the latest.")
@account_option
@command
def show(name: str, version: int | None, account: str | None) -> None:
    """Print the document of workflow NAME. It is printed as it was saved; its version is on standard error."""
    found = get_account(account)
    workflow = workflows.find_workflow(context(), found.id, name)
    state = f"enabled at version {workflow.enabled_version}" if workflow.enabled_version else "disabled"
    shown = version or workflow.latest_version
    source = workflows.find_version(context(), found.id, name, shown)
    click.echo(f"{name}, version {shown} of {workflow.latest_version}, {state}", err=True)
    click.echo(source.rstrip())


@click.command("enable")
@click.argument("name")
@click.option("--version", type=click.IntRange(1), help="Default: the latest.")
@account_option
@command
def enable(name: str, version: int | None, account: str | None) -> None:
    """Enable workflow NAME: it looks at events from now on."""
    try:
        enabled = workflows.enable_workflow(context(), get_account(account).id, name, version)
    except InvalidDocument as exc:
        print_errors((name, mistake) for mistake in exc.mistakes)
        raise click.ClickException(f"{name} has errors and is unchanged") from None
    click.echo(f"{name}: enabled at version {enabled}")


@click.command("disable")
@click.argument("name")
@click.option(
    "--cancel-runs", is_flag=True, help="Also cancel its runs: a step that is being executed ends, no other begins."
)
@account_option
@command
def disable(name: str, cancel_runs: bool, account: str | None) -> None:
    """Disable workflow NAME: it looks at no further event. Its runs continue, unless --cancel-runs cancels them."""
    cancelled = workflows.disable_workflow(context(), get_account(account).id, name, cancel_runs=cancel_runs)
    more = f", {counted(cancelled, 'run')} cancelled" if cancel_runs else ""
    click.echo(f"{name}: disabled{more}")


@click.command("delete")
@click.argument("name")
@account_option
@yes_option
@command
def delete(name: str, account: str | None, yes: bool) -> None:
    """Delete workflow NAME with its versions and runs. Running ones and progress are deleted, too."""
    found = get_account(account)
    workflows.find_workflow(context(), found.id, name)
    if not yes:
        confirm(f"Delete workflow {visible(name)} of {found.slug} with all its runs?")
    erased = workflows.delete_workflow(context(), found.id, name)
    click.echo(f"{name}: deleted, with {erased.runs} runs and {erased.progress} rows of progress")
