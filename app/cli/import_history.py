"""`signalbox event import`: historical events from a file of JSON lines."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import sys
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import IO, BinaryIO

import click
from tqdm import tqdm

from app.cli.base import UnavailableError, account_option, command, context, explain_unavailable, get_account
from app.cli.terminal_text import visible
from app.core.errors import Unavailable
from app.core.gzip_body import BYTE_ORDER_MARK
from app.core.models import STORE
from app.db.accounts import AccountRow
from app.ingest.history_import import Counts, Importer, Line, survey

_GZIP = b"\x1f\x8b"
_ENDING = re.compile(r"(\.ndjson|\.jsonl|\.json)?(\.gz)?$")
_FIELD = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*(\.[A-Za-z_][A-Za-z0-9_-]*)*")


@click.command("import")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, allow_dash=True))
@click.option("--time-field", default="received_at", show_default=True, help="The event time, such as data.created_at.")
@click.option("--start-workflows", is_flag=True, help="Let the events start workflows that are enabled now.")
@account_option
@command
def import_(file: str, time_field: str, start_workflows: bool, account: str | None) -> None:
    """Store the historical events of FILE (- is standard input): one JSON object per line, plain or gzip.

    A line has the fields of a request, and the time of the event. Importing a file again adds nothing, wherever the import
    was interrupted. Invalid lines go to FILE.rejected.ndjson with the reason; the exit code is 1 then.
    """
    if not _FIELD.fullmatch(time_field):
        raise click.BadParameter(
            f"{time_field!r} is not a field such as received_at or data.created_at", param_hint="--time-field"
        )
    found = get_account(account)
    try:
        with _opened(file) as source:
            counts = _import(source, file, found, time_field, start_workflows)
    except (OSError, EOFError, zlib.error) as exc:
        raise click.ClickException(f"{file} cannot be read: {exc}") from None
    results = [f"{counts.stored:,} stored", f"{counts.known:,} stored before", f"{counts.rejected:,} rejected"]
    if start_workflows:
        results.append(f"{counts.started:,} runs started")
    click.echo(", ".join(results))
    if counts.rejected:
        click.echo(f"the rejected lines and the reasons are in {visible(_rejected_path(file))}", err=True)
        sys.exit(1)


def _import(source: BinaryIO, file: str, account: AccountRow, time_field: str, start_workflows: bool) -> Counts:
    max_bytes = context().settings.max_event_bytes
    total, repeated = survey(_lines(source, max_bytes))
    name = "standard input" if file == "-" else Path(file).name
    with _RejectedLines(_rejected_path(file)) as rejected_lines:
        importer = Importer(
            context(),
            account.id,
            time_field=time_field,
            stores_unusable_phone=account.unusable_phone == STORE,
            repeated=repeated,
            source={"file": name, "lines": total, "time_field": time_field, "start_workflows": start_workflows},
            reject=rejected_lines.add,
        )
        try:
            _show_progress("storing", total, importer.run(_lines(source, max_bytes)))
            if start_workflows:
                _show_progress("starting workflows", total, importer.start_workflows(_lines(source, max_bytes)))
        except Unavailable as exc:
            raise UnavailableError(
                f"{explain_unavailable(exc)}. Import the same file again: stored events are not stored twice"
            ) from None
    return importer.counts


def _show_progress(what: str, total: int, steps: Iterator[int]) -> None:
    """Run the steps with a progress bar on a terminal."""
    with tqdm(total=total, desc=what, unit=" lines", disable=None, file=sys.stderr, leave=False) as bar:
        for done in steps:
            bar.update(done)


@contextmanager
def _opened(file: str) -> Iterator[BinaryIO]:
    """A seekable, uncompressed stream of the file; standard input is copied to a temporary file."""
    with ExitStack() as stack:
        raw: IO[bytes]
        if file == "-":
            raw = stack.enter_context(tempfile.TemporaryFile())
            shutil.copyfileobj(sys.stdin.buffer, raw)
            raw.seek(0)
        else:
            raw = stack.enter_context(Path(file).open("rb"))
        is_gzip = raw.read(2) == _GZIP
        raw.seek(0)
        yield stack.enter_context(gzip.GzipFile(fileobj=raw)) if is_gzip else raw  # type: ignore[misc]


def _lines(source: BinaryIO, max_bytes: int) -> Iterator[Line]:
    """The lines that are not blank, from the beginning, with their numbers; None for one that is too long."""
    source.seek(0)
    number = 0
    while line := source.readline(max_bytes + 2):
        number += 1
        complete = line.endswith(b"\n") or len(line) < max_bytes + 2
        while not complete:
            rest = source.readline(1 << 16)
            complete = not rest or rest.endswith(b"\n")
            line = b""
        text = line.removeprefix(BYTE_ORDER_MARK).strip()
        if not line or len(text) > max_bytes:
            yield number, None
        elif text:
            yield number, text


def _rejected_path(file: str) -> Path:
    """The rejected lines of `events.ndjson.gz` go to `events.rejected.ndjson` in the same folder."""
    if file == "-":
        return Path("stdin.rejected.ndjson")
    path = Path(file)
    return path.with_name(_ENDING.sub("", path.name, count=1) + ".rejected.ndjson")


class _RejectedLines:
    """The file of rejected lines, created for the first one. Removes the file of an earlier import."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[str] | None = None

    def __enter__(self) -> _RejectedLines:
        with suppress(FileNotFoundError):
            os.remove(self._path)
        return self

    def add(self, number: int, text: bytes | None, reason: str) -> None:
        """Write a line with its number (from 1) and the reason."""
        if self._file is None:
            self._file = self._path.open("w", encoding="utf-8")
        shown = None if text is None else text.decode("utf-8", errors="backslashreplace")
        self._file.write(json.dumps({"line": number, "reason": reason, "text": shown}, ensure_ascii=False) + "\n")

    def __exit__(
        self, kind: type[BaseException] | None, raised: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()
