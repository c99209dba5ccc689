"""`signalbox workflow try`: what a workflow would do, step by step, without sending anything."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any
from uuid import UUID

import click

from app.cli.base import account_option, command, context, get_account
from app.cli.documents import existing_file, print_errors, read_source
from app.cli.json_report import to_json
from app.cli.terminal_text import visible
from app.core.ids import utc_text
from app.core.models import Event
from app.services import workflow_trial
from app.services.run_trial import TriedRun, TriedStep, request_parts
from app.services.workflow_trial import Trial, TriedEvent
from app.workflows.yaml_loader import InvalidDocument


@click.command("try")
@click.argument("file", type=existing_file)
@click.argument("events", required=False, type=existing_file)
@click.option("--event", "event_id", type=click.UUID, metavar="ID", help="Try it on a stored event instead.")
@click.option("--latest", metavar="NAME", help="Try it on the latest stored event of this name instead.")
@click.option("--answers", type=existing_file, help="The answers that steps get: a JSON object by their ids or paths.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@account_option
@command
def try_(
    file: Path,
    events: Path | None,
    event_id: UUID | None,
    latest: str | None,
    answers: Path | None,
    as_json: bool,
    account: str | None,
) -> None:
    """Show what the document FILE would do on EVENTS, a file with one event per line.

    Shows each decision and, for each run, its steps with rendered requests. Waits are skipped. Sends and changes nothing.
    With EVENTS no database is needed; integrations and secrets are placeholders. A stored event is tried together with the events
    before and after it of the same subject, and with the account's integrations, without their credentials.
    """
    if [events, event_id, latest].count(None) != 2:
        raise click.UsageError("expected a file of events, --event or --latest")
    given = {} if answers is None else _read_answers(answers)
    try:
        trial = _try(read_source(file), events, event_id, latest, given, account)
    except InvalidDocument as exc:
        print_errors((file, mistake) for mistake in exc.mistakes)
        sys.exit(1)
    if as_json:
        click.echo(to_json(_members(trial)))
        return
    for line in _lines(trial):
        click.echo(visible(line))


def _try(
    source: str,
    events: Path | None,
    event_id: UUID | None,
    latest: str | None,
    answers: Mapping[str, Any],
    account: str | None,
) -> Trial:
    if events is not None:
        return workflow_trial.try_file(context(), source, _read_events(events), answers)
    account_id = get_account(account).id
    if event_id is None:
        event_id = workflow_trial.find_latest_event(context(), account_id, str(latest))
    return workflow_trial.try_stored(context(), account_id, source, event_id, answers)


def _read_events(file: Path) -> list[Event]:
    try:
        return workflow_trial.read_events(file.read_text("utf-8-sig"), context().clock())
    except ValueError as exc:
        raise click.ClickException(visible(f"{file}: {exc}")) from None


def _read_answers(file: Path) -> Mapping[str, Any]:
    try:
        return workflow_trial.read_answers(file.read_text("utf-8-sig"))
    except ValueError as exc:
        raise click.BadParameter(visible(f"{file}: {exc}"), param_hint="--answers") from None


def _lines(trial: Trial) -> Iterator[str]:
    for name in trial.missing:
        yield f"{name} is missing; a placeholder is used"
    for tried in trial.events:
        yield f"{utc_text(tried.at)}  {_name(tried)}: {_effect(tried)}"
        if tried.run is not None:
            yield from _run_lines(tried.run)


def _name(tried: TriedEvent) -> str:
    return "deadline" if tried.event is None else f"{tried.event.event} of {tried.event.distinct_id}"


def _effect(tried: TriedEvent) -> str:
    does = "starts a run" if tried.started else "contributes" if tried.contributing else "starts nothing"
    return f"{does} ({tried.reason})"


def _run_lines(run: TriedRun) -> Iterator[str]:
    for step in run.steps:
        yield f"  {utc_text(step.at)}  {step.path} {step.verb}{f' {step.name}' if step.name else ''}: {_result(step)}"
        for name, text in request_parts(step.request or {}):
            first, *others = text.split("\n")
            yield f"      {name}: {first}"
            yield from (f"        {line}" for line in others)
    error = f": {run.error}" if run.error else ""
    ends = "has more steps than are shown" if run.status == "cut" else f"is {run.status}"
    yield f"  {utc_text(run.ended_at)}  the run {ends}{error}"


def _result(step: TriedStep) -> str:
    until = f", waits until {utc_text(step.until)}" if step.until else ""
    output = step.output or {}
    taken = output.get("taken") or output.get("ended")
    came = ("the event came" if output["arrived"] else "no event came") if "arrived" in output else None
    values = ", ".join(f"{name} = {value}" for name, value in step.values.items())
    more = [text for text in (taken, came, values, step.error) if text]
    return step.status + until + (f" ({'; '.join(map(str, more))})" if more else "")


def _members(trial: Trial) -> dict[str, Any]:
    return {
        "workflow": trial.workflow,
        "missing": list(trial.missing),
        "earlier": trial.earlier,
        "events": [_event_members(tried) for tried in trial.events],
    }


def _event_members(tried: TriedEvent) -> dict[str, Any]:
    event = tried.event
    found = {} if event is None else {"event": event.event, "distinct_id": event.distinct_id, "id": str(event.id)}
    return {
        "at": tried.at,
        "deadline": event is None,
        **found,
        "started": tried.started,
        "contributing": tried.contributing,
        "reason": tried.reason,
        "run": None if tried.run is None else asdict(tried.run),
    }
