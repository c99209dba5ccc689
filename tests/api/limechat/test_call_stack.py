"""One event passes the files that docs/architecture.md shows, in that order, on its way from the socket to its row.

docs/decisions/0053-what-the-rules-count.md says what is counted.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from flask.testing import FlaskClient

from app.services.context import AppContext
from tests.support.builders import a_sender, an_event

ROOT = Path(__file__).resolve().parents[3]
SERVER = ["app/api/server/gunicorn_worker.py", "app/api/server/request_handler.py"]
# Files on the call path from the socket to the row. Files whose code runs at all, from the WSGI application to the row and back.
MAX_FILES, MAX_FILES_RUN = 12, 25


def _documented() -> list[str]:
    section = (ROOT / "docs" / "architecture.md").read_text("utf-8").partition("## One event, in")[2]
    return re.findall(r"^\| `(app/[a-z_/]+\.py)` \|", section.partition("What these call")[0], re.MULTILINE)


def _file_of(frame: FrameType) -> str | None:
    """The file of `app` whose code a frame runs."""
    path = Path(frame.f_code.co_filename)
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT / "app") else None


def _files_of_stack(frame: FrameType | None) -> list[str]:
    """The files of `app` on a call stack, outermost first, each once."""
    files: list[str] = []
    while frame is not None:
        if file := _file_of(frame):
            files.insert(0, file)
        frame = frame.f_back
    return list(dict.fromkeys(files))


def _profile(context: AppContext, client: FlaskClient, record: Callable[[FrameType, str, object], None]) -> None:
    """Post a plain event; `record` is called for each call of a function meanwhile."""
    sender = a_sender(context, client, plan="standard")
    # The process knows the account then.
    sender.post(an_event())
    body = an_event()
    sys.setprofile(record)
    try:
        answer = sender.post(body)
    finally:
        sys.setprofile(None)
    assert answer.status_code == 200


def test_an_event_passes_the_documented_files(context: AppContext, client: FlaskClient) -> None:
    deepest: list[str] = []

    def record(frame: FrameType, kind: str, function: object) -> None:
        nonlocal deepest
        if kind == "c_call" and getattr(function, "__name__", "") == "execute":
            deepest = _files_of_stack(frame)

    _profile(context, client, record)
    documented = _documented()
    assert documented[:2] == SERVER
    assert set(deepest) <= set(documented)
    assert [file for file in documented if file in deepest] == documented[2:]
    assert len(documented) <= MAX_FILES


def test_few_files_run_for_a_plain_event(context: AppContext, client: FlaskClient) -> None:
    files: set[str] = set()

    def record(frame: FrameType, kind: str, function: object) -> None:
        if kind == "call" and (file := _file_of(frame)):
            files.add(file)

    _profile(context, client, record)
    assert set(_documented()) - set(SERVER) <= files
    assert len(files) <= MAX_FILES_RUN, sorted(files)
