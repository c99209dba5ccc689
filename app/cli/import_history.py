"""`flask event import`: events of the past, from a file of lines."""

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

from app.cli.base import command, context, the_account
from app.cli.formatting import visible
from app.core.errors import Unavailable
from app.ingest.history_import import Counts, Importer, Line, survey

_GZIP = b"\x1f\x8b"
_ENDING = re.compile(r"(\.ndjson|\.jsonl|\.json)?(\.gz)?$")
_FIELD = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*(\.[A-Za-z_][A-Za-z0-9_-]*)*")


@click.command("import")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, allow_dash=True))
@click.option("--time-field", default="received_at", show_default=True, help="When it was, such as data.created_at.")
@click.option("--start-workflows", is_flag=True, help="Let the events start the workflows that are enabled now.")
@click.option("--account", help="Slug or id; may be left out while there is only one account.")
@command
def import_(file: str, time_field: str, start_workflows: bool, account: str | None) -> None:
    """Store the events of the past in FILE (- is standard input): one JSON object a line, gzip or not.

    Each line holds what a request would hold, and when it was. The same file imported again adds nothing, wherever it was
    interrupted. Lines that are no events go to FILE.rejected.ndjson with the reason, and make exit code 1.
    """
    if not _FIELD.fullmatch(time_field):
        raise click.ClickException(f"--time-field: {time_field!r} is no field such as received_at or data.created_at")
    account_id = the_account(account).id
    try:
        with _opened(file) as source:
            counts = _import(source, account_id, time_field, start_workflows, _rejected_path(file))
    except (OSError, EOFError, zlib.error) as wrong:
        raise click.ClickException(f"{file} cannot be read: {wrong}") from None
    told = [f"{counts.stored:,} stored", f"{counts.known:,} stored before", f"{counts.rejected:,} rejected"]
    if start_workflows:
        told.append(f"{counts.started:,} runs started")
    click.echo(", ".join(told))
    if counts.rejected:
        click.echo(f"what is wrong with the rejected lines: {visible(_rejected_path(file))}", err=True)
        sys.exit(1)


def _import(source: BinaryIO, account_id: int, time_field: str, start_workflows: bool, rejected: Path) -> Counts:
    most = context().settings.max_event_bytes
    total, repeated = survey(_lines(source, most))
    with _Rejected(rejected) as rejects:
        importer = Importer(context(), account_id, time_field=time_field, repeated=repeated, reject=rejects.add)
        try:
            _show("storing", total, importer.run(_lines(source, most)))
            if start_workflows:
                _show("starting workflows", total, importer.start_workflows(_lines(source, most)))
        except Unavailable as trouble:
            raise click.ClickException(
                f"the database does not answer: {trouble}. Import the same again: what is stored is not stored twice"
            ) from None
    return importer.counts


def _show(what: str, total: int, steps: Iterator[int]) -> None:
    """Go through the steps, with a progress bar on a terminal."""
    with tqdm(total=total, desc=what, unit=" lines", disable=None, file=sys.stderr, leave=False) as bar:
        for done in steps:
            bar.update(done)


@contextmanager
def _opened(file: str) -> Iterator[BinaryIO]:
    """A file that can be read over and over, unpacked; standard input goes through a temporary file."""
    with ExitStack() as stack:
        raw: IO[bytes]
        if file == "-":
            raw = stack.enter_context(tempfile.TemporaryFile())
            shutil.copyfileobj(sys.stdin.buffer, raw)
            raw.seek(0)
        else:
            raw = stack.enter_context(Path(file).open("rb"))
        packed = raw.read(2) == _GZIP
        raw.seek(0)
        yield stack.enter_context(gzip.GzipFile(fileobj=raw)) if packed else raw  # type: ignore[misc]


def _lines(source: BinaryIO, most: int) -> Iterator[Line]:
    """The lines with something on them, from the beginning; of those that are too long only the number."""
    source.seek(0)
    number = 0
    while line := source.readline(most + 2):
        number += 1
        whole = line.endswith(b"\n") or len(line) < most + 2
        while not whole:
            rest = source.readline(1 << 16)
            whole = not rest or rest.endswith(b"\n")
            line = b""
        text = line.removeprefix(b"\xef\xbb\xbf").strip() if number == 1 else line.strip()
        if not line or len(text) > most:
            yield number, None
        elif text:
            yield number, text


def _rejected_path(file: str) -> Path:
    """`events.ndjson.gz` has its rejected lines in `events.rejected.ndjson` beside it."""
    if file == "-":
        return Path("stdin.rejected.ndjson")
    path = Path(file)
    return path.with_name(_ENDING.sub("", path.name, count=1) + ".rejected.ndjson")


class _Rejected:
    """The file of rejected lines. It is there only when there are some; that of an earlier import goes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[str] | None = None

    def __enter__(self) -> _Rejected:
        with suppress(FileNotFoundError):
            os.remove(self._path)
        return self

    def add(self, number: int, text: bytes | None, reason: str) -> None:
        """Write a line with its number (from 1) and what is wrong with it."""
        if self._file is None:
            self._file = self._path.open("w", encoding="utf-8")
        shown = None if text is None else text.decode("utf-8", errors="backslashreplace")
        self._file.write(json.dumps({"line": number, "reason": reason, "text": shown}, ensure_ascii=False) + "\n")

    def __exit__(
        self, kind: type[BaseException] | None, raised: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()
