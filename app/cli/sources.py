"""`signalbox source …`: save, list, show, rotate, enable, disable and delete sources."""

from __future__ import annotations

import json
import sys
from datetime import timedelta
from pathlib import Path

import click

from app.cli.base import account_option, command, confirm, context, get_account, parse_option, yes_option
from app.cli.documents import files_argument, print_check, print_errors, read_source
from app.cli.lazy_group import LazyGroup
from app.cli.lists import Page, json_line, list_options, print_list
from app.cli.program import paste
from app.cli.terminal_text import visible
from app.core.durations import read_duration
from app.core.ids import utc_text
from app.db.sources import SourceRow
from app.services import sources
from app.services.sources import AppliedSource
from app.workflows.sources.document import check_source
from app.workflows.sources.json_schema import source_schema
from app.workflows.yaml_loader import InvalidDocument, read_bytes

group = LazyGroup(
    "source",
    help="Sources: URLs to which third parties post in their own formats.",
    lazy_commands={
        "import-listener": ("app.cli.source_listener:import_listener", "Print a CxEngage listener as a source."),
        "replay": ("app.cli.source_replay:replay", "Map stored deliveries again."),
        "try": ("app.cli.source_trial:try_", "Show what a source makes of a request; store nothing."),
    },
)
# Where `make run` serves.
_LOCAL_URL = "http://127.0.0.1:8000"
_JSON_FIELDS = ("id", "account_id", "name", "enabled", "latest_version", "created_at", "updated_at")
_base_url = click.option(
    "--base-url",
    metavar="URL",
    default=_LOCAL_URL,
    show_default=True,
    help="The public address of this installation, for the URL that is printed.",
)


@group.command("check")
@files_argument
@click.option("--json", "as_json", is_flag=True, help="A list of {file, path, message, line, column}.")
def check(files: tuple[Path, ...], as_json: bool) -> None:
    """Print all errors in FILES. Needs no database and no settings. The exit code is 1 if there are errors."""
    found = [(file, mistake) for file in files for mistake in check_source(read_bytes(file.read_bytes()))]
    print_check(files, found, as_json=as_json, is_named=True, valid=lambda file: "no errors")


@group.command("schema")
def schema() -> None:
    """Print the JSON Schema of source documents, for editors. It is also in docs/source.schema.json."""
    click.echo(json.dumps(source_schema(), indent=2, ensure_ascii=False))


@group.command("apply")
@files_argument
@_base_url
@account_option
@command
def apply(files: tuple[Path, ...], base_url: str, account: str | None) -> None:
    """Save sources, or new versions of them.

    A new version is used from the next delivery on.

    Prints the URL of a new source (url=…), to which the provider has to post. It is not shown again: `source rotate` makes a new
    one.
    """
    found = get_account(account)
    failed = False
    for file in files:
        try:
            applied = sources.apply_source(context(), found.id, read_source(file))
        except InvalidDocument as exc:
            failed = True
            print_errors((file, mistake) for mistake in exc.mistakes)
        else:
            click.echo(_applied_line(applied))
            if applied.token is not None:
                _print_url(base_url, applied.token)
            elif base_url != _LOCAL_URL:
                click.echo(
                    f"Its URL was printed when it was created; {paste('source', 'rotate', applied.name)} makes a new one",
                    err=True,
                )
    if failed:
        sys.exit(1)


def _applied_line(applied: AppliedSource) -> str:
    state = "enabled" if applied.enabled else f"disabled; {paste('source', 'enable', applied.name)} enables it"
    if applied.change == "unchanged":
        return f"{applied.name}: unchanged at version {applied.version}, {state}"
    if applied.change == "created":
        return f"{applied.name}: created as version {applied.version}, {state}"
    return f"{applied.name}: changed to version {applied.version} ({visible(', '.join(applied.differences))}), {state}"


def _print_url(base_url: str, token: str) -> None:
    click.echo(f"url={base_url.rstrip('/')}/hooks/{token}")
    if base_url == _LOCAL_URL:
        click.echo(f"Providers need the public address in place of {_LOCAL_URL}; --base-url sets it", err=True)


@group.command("list")
@list_options
@account_option
@command
def list_(account: str | None, page: Page) -> None:
    """List the sources of an account by name. Columns: name, latest version, state, provider, changed."""
    account_id = get_account(account).id
    print_list(
        page,
        lambda after, limit: sources.list_sources(context(), account_id, after=after or "", limit=limit),
        cursor=lambda source: source.name,
        cells=_cells,
        widths=(28, 11, 8, 18),
        as_json=lambda source: json_line(
            {name: getattr(source, name) for name in _JSON_FIELDS} | {"provider": source.document.get("provider")}
        ),
    )


def _cells(source: SourceRow) -> tuple[object, ...]:
    provider = source.document.get("provider", "-")
    return source.name, f"version {source.latest_version}", _state(source), provider, utc_text(source.updated_at)


def _state(source: SourceRow) -> str:
    return "enabled" if source.enabled else "disabled"


@group.command("show")
@click.argument("name")
@click.option("--version", type=click.IntRange(1), help="Default: the latest.")
@account_option
@command
def show(name: str, version: int | None, account: str | None) -> None:
    """Print the document of source NAME. It is printed as it was saved; its version is on standard error."""
    account_id = get_account(account).id
    source = sources.find_source(context(), account_id, name)
    shown = version or source.latest_version
    text = sources.find_version(context(), account_id, name, shown)
    click.echo(f"{name}, version {shown} of {source.latest_version}, {_state(source)}", err=True)
    click.echo(text.rstrip())


@group.command("rotate")
@click.argument("name")
@click.option(
    "--overlap", metavar="DURATION", default="24h", show_default=True, help="How long the old URL works; or 0."
)
@_base_url
@account_option
@command
def rotate(name: str, overlap: str, base_url: str, account: str | None) -> None:
    """Make a new URL for source NAME, and print it (url=…). The old one works until the overlap has ended."""
    duration = timedelta() if overlap == "0" else parse_option("--overlap", read_duration, overlap)
    assert duration is not None
    rotated = sources.rotate_token(context(), get_account(account).id, name, duration)
    until = "no longer works" if rotated.old_until is None else f"works until {utc_text(rotated.old_until)}"
    click.echo(f"{name}: has a new URL; the old one {until}")
    _print_url(base_url, rotated.token)


@group.command("enable")
@click.argument("name")
@account_option
@command
def enable(name: str, account: str | None) -> None:
    """Enable source NAME: its deliveries become events. `source replay` maps those that arrived before."""
    sources.set_enabled(context(), get_account(account).id, name, enabled=True)
    click.echo(f"{name}: enabled; {paste('source', 'replay', name)} maps what arrived before")


@group.command("disable")
@click.argument("name")
@account_option
@command
def disable(name: str, account: str | None) -> None:
    """Disable source NAME.

    Its deliveries are verified, answered 200 and kept, and make no events.
    """
    sources.set_enabled(context(), get_account(account).id, name, enabled=False)
    click.echo(f"{name}: disabled; deliveries are kept and not mapped")


@group.command("delete")
@click.argument("name")
@account_option
@yes_option
@command
def delete(name: str, account: str | None, yes: bool) -> None:
    """Delete source NAME with its versions and URLs.

    Senders get a 404 from now on.

    Its events stay, and its deliveries until they expire. Deliveries that are not mapped can no longer be mapped.
    """
    found = get_account(account)
    sources.find_source(context(), found.id, name)
    if not yes:
        confirm(f"Delete source {visible(name)} of {found.slug}? Its URL stops working permanently.")
    sources.delete_source(context(), found.id, name)
    click.echo(f"{name}: deleted")
