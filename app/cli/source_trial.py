"""`signalbox source try`: what a source makes of a request."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import click
import msgspec

from app.cli.base import account_option, command, context, get_account, read_time_option
from app.cli.documents import error_line, existing_file, print_errors, read_source
from app.cli.json_report import to_json
from app.cli.program import paste
from app.cli.terminal_text import visible
from app.core.ids import utc_text
from app.ingest.sources.received import request_of
from app.ingest.sources.trial import (
    Trial,
    UnreadableRequest,
    event_members,
    read_request,
    try_delivery,
    try_request,
)
from app.services import deliveries, secrets, sources
from app.services.sources import checked_source
from app.workflows.sources.document import CompiledSource, compile_source
from app.workflows.sources.mapping import MappedEvent
from app.workflows.yaml_loader import Document, InvalidDocument

# Characters of the data of an event that are shown.
_MAX_DATA = 20_000
_JSON_TEXTS = ("data", "extra")


@click.command("try")
@click.argument("source", metavar="FILE|NAME")
@click.argument("request", required=False, type=existing_file)
@click.option("--delivery", "delivery_id", type=click.UUID, metavar="ID", help="Try a stored delivery instead.")
@click.option(
    "--secret",
    "given",
    multiple=True,
    metavar="NAME=VALUE",
    help="The value of a secret, or @FILE. Others are those of the account.",
)
@click.option("--at", metavar="WHEN", help="When the request arrives, for signatures with a timestamp. Default: now.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@account_option
@command
def try_(
    source: str,
    request: Path | None,
    delivery_id: UUID | None,
    given: tuple[str, ...],
    at: str | None,
    as_json: bool,
    account: str | None,
) -> None:
    """Show whether a source verifies a request, which events it makes, and what cannot be mapped.

    Stores nothing. The source is a document in FILE, or the saved source NAME. REQUEST is a file with an HTTP request: a line
    such as POST /hooks/x HTTP/1.1, headers, an empty line, and the body. A FILE needs no database if --secret gives its secrets.
    The exit code is 1 if the request would be refused, or something cannot be mapped.
    """
    if (request is None) == (delivery_id is None):
        raise click.UsageError("expected either a file with a request, or --delivery")
    document, file = _read_document(source, account)
    compiled = compile_source(document.value)
    values = _find_secrets(compiled, given, account)
    limit = context().settings.max_batch_unpacked_bytes
    if request is not None:
        now = read_time_option("--at", at) or context().clock()
        try:
            trial = try_request(compiled, values, read_request(request.read_bytes(), limit), now)
        except UnreadableRequest as exc:
            raise click.ClickException(f"{visible(request)}: {exc}") from None
    else:
        assert delivery_id is not None
        row = deliveries.find_delivery(context(), get_account(account).id, delivery_id)
        trial = try_delivery(compiled, values, row, request_of(row, deliveries.find_body(context(), row), limit))
    if as_json:
        click.echo(to_json(_members(trial)))
    else:
        for line in _lines(trial, document, file):
            click.echo(line)
    is_refused = trial.verdict is not None and not trial.verdict.verified and compiled.unverified == "refuse"
    is_refused = is_refused or (trial.handshake is not None and trial.handshake.status != 200)
    sys.exit(1 if is_refused or trial.problems else 0)


def _read_document(source: str, account: str | None) -> tuple[Document, str]:
    """The document in a file, or that of a saved source, with the name for messages."""
    try:
        if Path(source).is_file():
            return checked_source(read_source(Path(source))), source
        row = sources.find_source(context(), get_account(account).id, source)
        return checked_source(row.source), row.name
    except InvalidDocument as exc:
        print_errors((source, mistake) for mistake in exc.mistakes)
        raise click.exceptions.Exit(1) from None


def _find_secrets(compiled: CompiledSource, given: tuple[str, ...], account: str | None) -> Mapping[str, str]:
    """The values of a source's secrets by name: those given, and for the others those of the account."""
    values = dict(_read_secret(one) for one in given)
    if unknown := values.keys() - compiled.secret_names:
        raise click.BadParameter(f"the source reads no secret {', '.join(sorted(unknown))}", param_hint="--secret")
    if others := compiled.secret_names - values.keys():
        values |= secrets.find_values(context(), get_account(account).id, sorted(others))
    return values


def _read_secret(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise click.BadParameter("expected NAME=VALUE or NAME=@FILE", param_hint="--secret")
    if not value.startswith("@"):
        return name, value
    try:
        return name, Path(value[1:]).read_text("utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as exc:
        raise click.BadParameter(f"{value[1:]} cannot be read: {exc}", param_hint="--secret") from None


def _lines(trial: Trial, document: Document, file: str) -> Iterator[str]:
    for name in trial.missing:
        yield f"secret {name} is missing; {paste('secret', 'set', name)} sets it"
    yield visible(f"verified: {_verified(trial)}")
    if trial.handshake is not None:
        yield visible(f"handshake: {trial.handshake.status} {trial.handshake.body}".rstrip())
        if trial.handshake.reason:
            yield visible(f"  {trial.handshake.reason}")
        yield from (visible(f"  {name}: {value}") for name, value in trial.handshake.headers.items())
        return
    for number, event in enumerate(trial.events, start=1):
        yield f"event {number} of {len(trial.events)}"
        for name, value in event_members(event):
            yield from _member_lines(name, value)
        yield from (visible(f"  warning: {warning}") for warning in event.warnings)
    for problem in trial.problems:
        item = "" if problem.item is None else f"item {problem.item}: "
        yield f"not mapped: {item}{error_line(file, document.mistake(problem.path, problem.message))}"
    if not trial.events and not trial.problems:
        yield "no events: there is nothing to do"


def _verified(trial: Trial) -> str:
    if trial.verdict is None:
        return trial.unknown
    if not trial.verdict.verified:
        return f"no, {trial.verdict.reason}"
    if trial.verdict.secret_index is None:
        return "yes, the URL is the proof"
    return f"yes, by secrets[{trial.verdict.secret_index}]"


def _member_lines(name: str, value: object) -> Iterator[str]:
    if name not in _JSON_TEXTS:
        yield visible(f"  {name}: {_text(value)}")
        return
    shown = msgspec.json.format(str(value), indent=2)
    yield f"  {name}:"
    yield from (visible(f"    {line}") for line in shown[:_MAX_DATA].split("\n"))
    if len(shown) > _MAX_DATA:
        yield "    … (--json has all of it)"


def _text(value: object) -> str:
    return utc_text(value) if isinstance(value, datetime) else str(value)


def _members(trial: Trial) -> dict[str, Any]:
    verdict = trial.verdict
    return {
        "verified": None if verdict is None else verdict.verified,
        "reason": trial.unknown if verdict is None else verdict.reason,
        "missing_secrets": list(trial.missing),
        "handshake": None if trial.handshake is None else asdict(trial.handshake),
        "events": [dict(_json_members(event)) for event in trial.events],
        "problems": [asdict(problem) for problem in trial.problems],
    }


def _json_members(event: MappedEvent) -> Iterator[tuple[str, Any]]:
    for name, value in event_members(event):
        yield name, msgspec.Raw(str(value).encode()) if name in _JSON_TEXTS else value
    yield "warnings", event.warnings
