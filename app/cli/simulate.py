"""The commands `signalbox workflow simulate` and `signalbox workflow backtest`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from app.cli.base import account_option, command, context, get_account, read_time_option, terminal_width
from app.cli.documents import existing_file, print_errors
from app.cli.lists import json_line
from app.cli.terminal_text import counted, row, visible
from app.core.ids import utc_text
from app.services import simulation
from app.workflows.matching.rule import DISTINCT_ID
from app.workflows.validate import find_mistakes

_WIDTHS = (27, 9, 20, 28)


@click.command("simulate")
@click.argument("file", type=existing_file)
@click.argument("events", type=existing_file)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line.")
def simulate_(file: Path, events: Path, as_json: bool) -> None:
    """Simulate the document FILE on EVENTS, a file with one event per line.

    A line is {"event", "distinct_id", "phone", "received_at", "data"}. Needs no database.

    Prints for each event whether it contributes and starts a run, and why; and the deadlines that expire.
    """
    rule = _compile_file(file)
    for step in simulation.simulate(rule, _read_events(events)):
        click.echo(json_line(_as_object(rule, step)) if as_json else row(_as_cells(step), _WIDTHS, terminal_width()))


def _compile_file(file: Path) -> simulation.Rule:
    raw = file.read_bytes()
    mistakes = find_mistakes(raw)
    if mistakes:
        print_errors((file, mistake) for mistake in mistakes)
        sys.exit(1)
    return simulation.compile_source(raw.decode("utf-8"))


def _read_events(file: Path) -> Iterator[simulation.EventView]:
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                try:
                    yield simulation.read_event(line, number)
                except ValueError as exc:
                    click.echo(visible(f"{file}:{number}: {exc}"), err=True)
                    sys.exit(1)


def _as_object(rule: simulation.Rule, step: simulation.SimulatedStep) -> dict[str, Any]:
    more = {"suppressed": True} if step.suppressed else {}
    end = {"fired": step.started, **more, "reason": step.reason}
    if step.event is None:
        return {"at": utc_text(step.at), "timer": True, **subject_fields(rule, step.subject), **end}
    line = simulation.line_number(step.event.id)
    return {"line": line, "at": utc_text(step.at), "contributing": step.contributing, **end}


def subject_fields(rule: simulation.Rule, subject: str) -> dict[str, str]:
    """The subject with the name of the workflow's key; also under `distinct_id` where that is the key."""
    fields = {"key": rule.key, "subject": subject}
    return {**fields, "distinct_id": subject} if rule.key == DISTINCT_ID else fields


def _as_cells(step: simulation.SimulatedStep) -> tuple[object, ...]:
    result = "contributes" if step.contributing else "starts nothing"
    if step.started:
        lines = ", ".join(str(simulation.line_number(event)) for event in step.used)
        result = f"starts a run (line{'s' if len(step.used) > 1 else ''} {lines})"
    if step.event is None:
        return utc_text(step.at), "deadline", step.subject, result, step.reason
    return utc_text(step.at), f"line {simulation.line_number(step.event.id)}", step.event.event, result, step.reason


@click.command("backtest")
@click.argument("file", type=existing_file)
@click.option("--since", required=True, metavar="WHEN", help="How far back, such as 30d, or a time.")
@account_option
@click.option("--checkpoint", type=click.Path(dir_okay=False, path_type=Path), help="A file to continue from.")
@click.option("--show", default=20, show_default=True, help="The number of starts to list.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per start, then a summary.")
@command
def backtest(file: Path, since: str, account: str | None, checkpoint: Path | None, show: int, as_json: bool) -> None:
    """Simulate the document FILE on the stored events: which subjects would have started it, and when. Changes nothing."""
    rule = _compile_file(file)
    begin = read_time_option("--since", since)
    assert begin is not None
    tally = SavedTally.read(checkpoint) if checkpoint else SavedTally()
    if checkpoint:
        # An unwritable file fails now, not after an hour of work.
        tally.write(checkpoint)
    found, left = get_account(account), show
    bar = tqdm(total=None, unit=" subjects", disable=None, file=sys.stderr, leave=False)
    for subject, matches in simulation.backtest(context(), found.id, rule, begin, after=tally.last_subject):
        tally.add(subject, [match.at for match in matches])
        for match in matches:
            if as_json:
                start = {**subject_fields(rule, subject), "at": match.at, "matched": match.used}
                click.echo(json_line(start))
            elif (left := left - 1) >= 0:
                cells = (utc_text(match.at), subject, counted(len(match.used), "event"))
                click.echo(row(cells, (27, 36), terminal_width()))
        bar.update()
        if checkpoint and tally.subjects % 1_000 == 0:
            tally.write(checkpoint)
    bar.close()
    if checkpoint:
        tally.write(checkpoint)
    click.echo(json.dumps(tally.summary()) if as_json else tally.as_text(rule.workflow))


class SavedTally(simulation.Tally):
    """The counts of a backtest. Can be saved in a file."""

    def summary(self) -> dict[str, Any]:
        """All counts as JSON values."""
        return {
            "subjects": self.subjects,
            "subjects_started": self.started,
            "starts": self.starts,
            "days": dict(sorted(self.days.items())),
        }

    def as_text(self, workflow: str) -> str:
        """All counts as text."""
        days = "".join(f"\n  {day}  {count}" for day, count in sorted(self.days.items()))
        return (
            f"{workflow} would have started {counted(self.starts, 'run')}, for {self.started:,} of "
            f"{counted(self.subjects, 'subject')} with events that it looks at{days}"
        )

    def write(self, file: Path) -> None:
        """Save the counts, so that a later call can continue."""
        temporary = file.with_name(file.name + ".unfinished")
        try:
            temporary.write_text(json.dumps({"last_subject": self.last_subject, **self.summary()}))
            temporary.replace(file)
        except OSError as exc:
            raise click.ClickException(f"--checkpoint: {file} cannot be written: {exc.strerror}") from None

    @classmethod
    def read(cls, file: Path) -> SavedTally:
        """The saved counts. Without a file, all are zero."""
        tally = cls()
        try:
            saved = json.loads(file.read_bytes())
            if saved["last_subject"] is not None:
                tally.last_subject = str(saved["last_subject"])
            tally.subjects, tally.started, tally.starts = (
                int(saved[name]) for name in ("subjects", "subjects_started", "starts")
            )
            tally.days.update({str(day): int(count) for day, count in saved["days"].items()})
        except FileNotFoundError:
            pass
        except OSError as exc:
            raise click.ClickException(f"--checkpoint: {file} cannot be read: {exc.strerror}") from None
        except (ValueError, LookupError, TypeError, AttributeError):
            raise click.ClickException(
                f"--checkpoint: {file} was not written by a backtest. Remove it, or use another file."
            ) from None
        return tally
