"""`flask workflow …`: save documents, list them, show them, enable and disable them."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from app import manage
from app.manage import Applied, WrongDocument
from app.operate.terminal import command, house, the_account

group = click.Group("workflow", help="Workflows: what starts them and what they do.")
_account = click.option("--account", help="Slug or id; may be left out while there is only one account.")


@group.command("apply")
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@_account
@command
def apply(files: tuple[Path, ...], account: str | None) -> None:
    """Save each of FILES as a new workflow, enabled at once, or as a new version of the one that has its name."""
    found = the_account(account)
    wrong = False
    for file in files:
        try:
            click.echo(_tell(manage.apply_workflow(house(), found.id, read_source(file))))
        except WrongDocument as document:
            wrong = True
            for mistake in document.mistakes:
                click.echo(f"{file}: {mistake}", err=True)
    if wrong:
        sys.exit(1)


def read_source(file: Path) -> str:
    """The text of a document; a mistake in its encoding is one line."""
    try:
        return file.read_text("utf-8")
    except UnicodeDecodeError as wrong:
        raise click.ClickException(f"{file} is not UTF-8: byte {wrong.start + 1} is wrong") from None


def _tell(applied: Applied) -> str:
    state = "enabled" if applied.enabled else f"disabled; `flask workflow enable {applied.name}` switches it on"
    if applied.change == "changed":
        places = ", ".join(applied.differences) or "nothing but its text"
        return f"{applied.name}: changed to version {applied.version} ({places}), {state}"
    if applied.change == "created":
        return f"{applied.name}: created as version {applied.version}, {state}"
    return f"{applied.name}: unchanged at version {applied.version}, {state}"


@group.command("list")
@_account
@command
def list_(account: str | None) -> None:
    """All workflows of an account."""
    for workflow in manage.list_workflows(house(), the_account(account).id):
        state = f"enabled at version {workflow.enabled_version}" if workflow.enabled_version else "disabled"
        click.echo(
            f"{workflow.name}\tversion {workflow.latest_version}\t{state}\t{workflow.updated_at:%Y-%m-%d %H:%M}Z"
        )


@group.command("show")
@click.argument("name")
@click.option("--version", type=click.IntRange(1), help="Default: the latest.")
@_account
@command
def show(name: str, version: int | None, account: str | None) -> None:
    """Print the document of workflow NAME as it was saved."""
    found = the_account(account)
    workflow = manage.find_workflow(house(), found.id, name)
    state = f"enabled at version {workflow.enabled_version}" if workflow.enabled_version else "disabled"
    shown = version or workflow.latest_version
    click.echo(f"# {name}, version {shown} of {workflow.latest_version}, {state}")
    click.echo(manage.find_version(house(), found.id, name, shown).rstrip())


@group.command("enable")
@click.argument("name")
@click.option("--version", type=click.IntRange(1), help="Default: the latest.")
@_account
@command
def enable(name: str, version: int | None, account: str | None) -> None:
    """Let workflow NAME look at events from now on."""
    try:
        enabled = manage.enable_workflow(house(), the_account(account).id, name, version)
    except WrongDocument as document:
        for mistake in document.mistakes:
            click.echo(f"{name}: {mistake}", err=True)
        raise click.ClickException(f"{name} has mistakes and stays as it is") from None
    click.echo(f"{name}: enabled at version {enabled}")


@group.command("disable")
@click.argument("name")
@_account
@command
def disable(name: str, account: str | None) -> None:
    """Let workflow NAME look at no further event; its runs go on."""
    manage.disable_workflow(house(), the_account(account).id, name)
    click.echo(f"{name}: disabled")
