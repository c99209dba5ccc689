"""`flask workflow …`: check documents, save them, list them, show them, enable and disable them."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

import click

from app.cli.base import command, context, the_account
from app.cli.formatting import visible
from app.cli.lazy_group import LazyGroup
from app.services import simulation, workflows
from app.services.workflows import Applied, WrongDocument
from app.workflows.json_schema import workflow_schema
from app.workflows.yaml_loader import Mistake

group = LazyGroup(
    "workflow",
    help="Workflows: what starts them and what they do.",
    lazy_commands={
        "backtest": "app.cli.simulate:backtest",
        "delete": "app.cli.data_subjects:delete_workflow",
        "import-cxengage": "app.cli.import_cxengage:import_cxengage",
        "simulate": "app.cli.simulate:simulate_",
    },
)
_account = click.option("--account", help="Slug or id; may be left out while there is only one account.")
_files = click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))


@group.command("check")
@_files
@click.option("--json", "as_json", is_flag=True, help="A list of {path, message, line, column}; of several, also file.")
def check(files: tuple[Path, ...], as_json: bool) -> None:
    """Tell all mistakes in FILES. Needs no database and no settings; exit code 1 if there are any."""
    found = [(file, mistake) for file in files for mistake in workflows.mistakes_in(file.read_bytes())]
    if as_json:
        named = [({"file": str(file)} if len(files) > 1 else {}) | asdict(mistake) for file, mistake in found]
        click.echo(json.dumps(named, indent=2))
    else:
        tell_mistakes(found, err=False)
        wrong = {file for file, _ in found}
        for file in files:
            if file not in wrong:
                click.echo(f"{visible(file)}: no mistakes; {_told_bound(file)}")
    sys.exit(1 if found else 0)


def _told_bound(file: Path) -> str:
    """What the pattern of a document without mistakes may have to remember."""
    pattern = simulation.compile_source(file.read_text("utf-8")).pattern
    if pattern.bound.references == 0:
        return "its pattern has nothing to remember"
    most = pattern.bound.max_bytes(id_length=36)
    return f"its progress holds at most {pattern.bound.references} events ({most} bytes) a subject"


def tell_mistakes(found: Iterable[tuple[Path | str, Mistake]], *, err: bool = True) -> None:
    """Each mistake in a line of its own, as `mistake_line` writes it."""
    for file, mistake in found:
        click.echo(mistake_line(str(file), mistake), err=err)


def mistake_line(file: str, mistake: Mistake) -> str:
    """`cart.yaml:5:10: on.where: what is wrong`, as compilers write it, so that editors find the place."""
    place = f":{mistake.line}:{mistake.column}" if mistake.line else ""
    path = f"{mistake.path}: " if mistake.path else ""
    return visible(f"{file}{place}: {path}{mistake.message}")


@group.command("schema")
def schema() -> None:
    """Print the JSON Schema of workflow documents, for editors; docs/workflow.schema.json holds it."""
    click.echo(json.dumps(workflow_schema(), indent=2, ensure_ascii=False))


@group.command("apply")
@_files
@click.option("--draft", is_flag=True, help="Only save: mistakes are allowed, and nothing is enabled.")
@_account
@command
def apply(files: tuple[Path, ...], draft: bool, account: str | None) -> None:
    """Save each of FILES as a new workflow, enabled at once, or as a new version of the one that has its name."""
    found = the_account(account)
    save = workflows.save_draft if draft else workflows.apply_workflow
    wrong = False
    for file in files:
        try:
            applied = save(context(), found.id, read_source(file))
        except WrongDocument as document:
            wrong = True
            tell_mistakes((file, mistake) for mistake in document.mistakes)
            if draft:
                click.echo(f"{visible(file)}: not saved; a draft has to be readable and to have a name", err=True)
        else:
            tell_mistakes((file, mistake) for mistake in applied.mistakes)
            click.echo(_tell_draft(applied) if draft else _tell(applied))
    if wrong:
        sys.exit(1)


def read_source(file: Path) -> str:
    """The text of a document; raises WrongDocument when it is none."""
    raw = file.read_bytes()
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        raise WrongDocument(workflows.mistakes_in(raw)) from None


def _tell(applied: Applied) -> str:
    state = "enabled" if applied.enabled_version else f"disabled; `flask workflow enable {applied.name}` switches it on"
    if applied.change == "enabled":
        return f"{applied.name}: unchanged, version {applied.version} is enabled now"
    if applied.change == "unchanged":
        return f"{applied.name}: unchanged at version {applied.version}, {state}"
    return f"{applied.name}: {_change(applied)}, {state}"


def _tell_draft(applied: Applied) -> str:
    count = len(applied.mistakes)
    mistakes = f"{count} mistake{'s' if count > 1 else ''}" if count else "no mistakes"
    rest = f"version {applied.enabled_version} stays enabled" if applied.enabled_version else "not enabled"
    change = f"unchanged at version {applied.version}" if applied.change == "unchanged" else _change(applied)
    return f"{applied.name}: draft {change}, {mistakes}, {rest}"


def _change(applied: Applied) -> str:
    if applied.change == "created":
        return f"created as version {applied.version}"
    return f"changed to version {applied.version} ({visible(', '.join(applied.differences))})"


@group.command("list")
@click.option("--after", default="", help="Only those whose names come after this one.")
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True)
@_account
@command
def list_(after: str, limit: int, account: str | None) -> None:
    """The workflows of an account by name."""
    found = workflows.list_workflows(context(), the_account(account).id, after=after, limit=limit + 1)
    for workflow in found[:limit]:
        state = f"enabled at version {workflow.enabled_version}" if workflow.enabled_version else "disabled"
        count = (
            0
            if workflow.enabled_version == workflow.latest_version
            else len(workflows.mistakes_in(workflow.source.encode()))
        )
        draft = f" (a draft with {count} mistake{'s' if count > 1 else ''})" if count else ""
        click.echo(
            f"{workflow.name}\tversion {workflow.latest_version}{draft}\t{state}\t{workflow.updated_at:%Y-%m-%d %H:%M}Z"
        )
    if len(found) > limit:
        click.echo(f"There are more: --after {found[limit - 1].name}", err=True)


@group.command("show")
@click.argument("name")
@click.option("--version", type=click.IntRange(1), help="Default: the latest.")
@_account
@command
def show(name: str, version: int | None, account: str | None) -> None:
    """Print the document of workflow NAME as it was saved; standard error says which version it is."""
    found = the_account(account)
    workflow = workflows.find_workflow(context(), found.id, name)
    state = f"enabled at version {workflow.enabled_version}" if workflow.enabled_version else "disabled"
    shown = version or workflow.latest_version
    source = workflows.find_version(context(), found.id, name, shown)
    click.echo(f"{name}, version {shown} of {workflow.latest_version}, {state}", err=True)
    click.echo(source.rstrip())


@group.command("enable")
@click.argument("name")
@click.option("--version", type=click.IntRange(1), help="Default: the latest.")
@_account
@command
def enable(name: str, version: int | None, account: str | None) -> None:
    """Let workflow NAME look at events from now on."""
    try:
        enabled = workflows.enable_workflow(context(), the_account(account).id, name, version)
    except WrongDocument as document:
        tell_mistakes((name, mistake) for mistake in document.mistakes)
        raise click.ClickException(f"{name} has mistakes and stays as it is") from None
    click.echo(f"{name}: enabled at version {enabled}")


@group.command("disable")
@click.argument("name")
@_account
@command
def disable(name: str, account: str | None) -> None:
    """Let workflow NAME look at no further event; its runs go on."""
    workflows.disable_workflow(context(), the_account(account).id, name)
    click.echo(f"{name}: disabled")
