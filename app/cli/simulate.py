"""`flask workflow simulate` and `flask workflow backtest`: what a document would do, without doing anything."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from app.cli.base import command, context, the_account
from app.cli.formatting import visible
from app.cli.workflows import tell_mistakes
from app.core.durations import read_duration
from app.core.timestamps import utc_text
from app.services import simulation, workflows

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command("simulate")
@click.argument("file", type=_FILE)
@click.argument("events", type=_FILE)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def simulate_(file: Path, events: Path, as_json: bool) -> None:
    """Run the document FILE on EVENTS, a file with one event a line: {"event", "distinct_id", "received_at", "data"}.

    Needs no database. Prints for each event whether it contributes and starts a run, and the deadlines that fire.
    """
    rule = _rule_of(file)
    for happened in simulation.simulate(rule, _read_events(events)):
        click.echo(json.dumps(_as_object(happened)) if as_json else _as_line(happened))


def _rule_of(file: Path) -> simulation.Rule:
    raw = file.read_bytes()
    mistakes = workflows.mistakes_in(raw)
    if mistakes:
        tell_mistakes((file, mistake) for mistake in mistakes)
        sys.exit(1)
    return simulation.rule_of(raw.decode("utf-8"))


def _read_events(file: Path) -> Iterator[simulation.Seen]:
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                try:
                    yield simulation.read_event(line, number)
                except ValueError as wrong:
                    click.echo(visible(f"{file}:{number}: {wrong}"), err=True)
                    sys.exit(1)


def _as_object(happened: simulation.Happened) -> dict[str, Any]:
    if happened.seen is not None:
        line = simulation.line_of(happened.seen.id)
        more = {"suppressed": True} if happened.suppressed else {}
        return {"line": line, "contributing": happened.contributing, "fired": happened.fired, **more}
    moment = utc_text(happened.at)
    return {"at": moment, "distinct_id": happened.subject, "timer": True, "fired": happened.fired}


def _as_line(happened: simulation.Happened) -> str:
    moment = f"{happened.at:%Y-%m-%d %H:%M:%S}Z"
    if happened.suppressed:
        end = "suppressed by again"
    elif happened.fired:
        used = ", ".join(str(simulation.line_of(event)) for event in happened.matched)
        end = f"starts a run (lines {used})"
    else:
        end = "contributes" if happened.contributing else "-"
    if happened.seen is None:
        return f"{moment}\tdeadline\t{happened.subject!r}\t{end}"
    return f"{moment}\tline {simulation.line_of(happened.seen.id)}\t{happened.seen.event!r}\t{end}"


@click.command("backtest")
@click.argument("file", type=_FILE)
@click.option("--since", required=True, metavar="DURATION", help="How far back, such as 30d.")
@click.option("--account", help="Slug or id; may be left out while there is only one account.")
@click.option("--checkpoint", type=click.Path(dir_okay=False, path_type=Path), help="Goes on where this file says.")
@click.option("--show", default=20, show_default=True, help="How many starts to list.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object for each start, then a summary.")
@command
def backtest(file: Path, since: str, account: str | None, checkpoint: Path | None, show: int, as_json: bool) -> None:
    """Run the document FILE over the stored events: who would have started it, and when. Changes nothing."""
    rule = _rule_of(file)
    try:
        begin = context().clock() - read_duration(since)
    except ValueError as wrong:
        raise click.BadParameter(str(wrong), param_hint="--since") from None
    tally = Tally.read(checkpoint) if checkpoint else Tally()
    if checkpoint:
        # Whether it can be kept is better known now than after an hour.
        tally.write(checkpoint)
    found = the_account(account)
    bar = tqdm(total=None, unit=" subjects", disable=None, file=sys.stderr, leave=False)
    for subject, starts in simulation.backtest(context(), found.id, rule, begin, after=tally.last_subject):
        tally.add(subject, [at for at, _ in starts])
        for at, matched in starts:
            if as_json:
                row = {"distinct_id": subject, "at": utc_text(at), "matched": list(map(str, matched))}
                click.echo(json.dumps(row))
            elif tally.starts <= show:
                click.echo(f"{at:%Y-%m-%d %H:%M:%S}Z\t{subject!r}\t{len(matched)} events")
        bar.update()
        if checkpoint and tally.subjects % 1_000 == 0:
            tally.write(checkpoint)
    bar.close()
    if checkpoint:
        tally.write(checkpoint)
    click.echo(json.dumps(tally.summary()) if as_json else tally.in_words(rule.workflow))


class Tally:
    """What a backtest has counted so far, and how far it has come; can be kept in a file."""

    def __init__(self) -> None:
        self.last_subject: str | None = None
        self.subjects = 0
        self.started = 0
        self.starts = 0
        self.days: Counter[str] = Counter()

    def add(self, subject: str, starts: list[datetime]) -> None:
        """One subject is done."""
        self.last_subject = subject
        self.subjects += 1
        self.started += bool(starts)
        self.starts += len(starts)
        self.days.update(f"{at:%Y-%m-%d}" for at in starts)

    def summary(self) -> dict[str, Any]:
        """All counts as JSON values."""
        return {
            "subjects": self.subjects,
            "subjects_started": self.started,
            "starts": self.starts,
            "days": dict(sorted(self.days.items())),
        }

    def in_words(self, workflow: str) -> str:
        """All counts for people."""
        days = "".join(f"\n  {day}  {count}" for day, count in sorted(self.days.items()))
        return (
            f"{workflow} would have started {self.starts} times, for {self.started} of {self.subjects} people who sent "
            f"what it asks for{days}"
        )

    def write(self, file: Path) -> None:
        """Keep it, so that a later call can go on."""
        unfinished = file.with_name(file.name + ".unfinished")
        try:
            unfinished.write_text(json.dumps({"last_subject": self.last_subject, **self.summary()}))
            unfinished.replace(file)
        except OSError as trouble:
            raise click.ClickException(f"--checkpoint: {file} cannot be written: {trouble.strerror}") from None

    @classmethod
    def read(cls, file: Path) -> Tally:
        """What was kept; an empty one when there is no file."""
        tally = cls()
        try:
            kept = json.loads(file.read_bytes())
            if kept["last_subject"] is not None:
                tally.last_subject = str(kept["last_subject"])
            tally.subjects, tally.started, tally.starts = (
                int(kept[name]) for name in ("subjects", "subjects_started", "starts")
            )
            tally.days.update({str(day): int(count) for day, count in kept["days"].items()})
        except FileNotFoundError:
            pass
        except OSError as trouble:
            raise click.ClickException(f"--checkpoint: {file} cannot be read: {trouble.strerror}") from None
        except (ValueError, LookupError, TypeError, AttributeError):
            raise click.ClickException(
                f"--checkpoint: {file} was not written by a backtest; remove it, or name another file"
            ) from None
        return tally
