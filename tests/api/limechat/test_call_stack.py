"""One event passes the files that docs/architecture.md shows, in that order, on its way from the socket to its row."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import FrameType

from flask.testing import FlaskClient

from app.services.context import AppContext
from tests.support.builders import a_sender, an_event

ROOT = Path(__file__).resolve().parents[3]
SERVER = ["app/api/server/gunicorn_worker.py", "app/api/server/request_handler.py"]
MAX_FILES = 12


def _documented() -> list[str]:
    section = (ROOT / "docs" / "architecture.md").read_text("utf-8").partition("## One event, in")[2]
    return re.findall(r"^\| `(app/[a-z_/]+\.py)` \|", section.partition("What these call")[0], re.MULTILINE)


def _files_of_stack(frame: FrameType | None) -> list[str]:
    """The files of `app` on a call stack, outermost first, each once."""
    files: list[str] = []
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(ROOT / "app"):
            files.insert(0, str(path.relative_to(ROOT)))
        frame = frame.f_back
    return list(dict.fromkeys(files))


def test_an_event_passes_the_documented_files(context: AppContext, client: FlaskClient) -> None:
    sender = a_sender(context, client, plan="standard")
    sender.post(an_event())
    deepest: list[str] = []

    def record(frame: FrameType, kind: str, function: object) -> None:
        nonlocal deepest
        if kind == "c_call" and getattr(function, "__name__", "") == "execute":
            deepest = _files_of_stack(frame)

    sys.setprofile(record)
    try:
        assert sender.post(an_event()).status_code == 200
    finally:
        sys.setprofile(None)
    documented = _documented()
    assert documented[:2] == SERVER
    assert set(deepest) <= set(documented)
    assert [file for file in documented if file in deepest] == documented[2:]
    assert len(documented) <= MAX_FILES
