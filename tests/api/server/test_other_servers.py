"""Signalbox runs under gunicorn's own workers and under Granian as well."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
import urllib.request
import zlib
from contextlib import suppress
from pathlib import Path

import pytest

from app.cli.devserver.child_process import end_all, start_program
from app.services.context import AppContext
from bench.servers import free_port
from tests.api.conftest import Rows, settings_of
from tests.support.builders import a_sender, an_event
from tests.support.server import ROOT, START_TIMEOUT, Server, clean_environment

GUNICORN = ["-m", "gunicorn", "-c", "{folder}/conf.py", "--bind", "127.0.0.1:{port}"]
COMMANDS = {
    "gunicorn's sync worker": [*GUNICORN, "--worker-class", "sync"],
    "gunicorn's gthread worker": [*GUNICORN, "--worker-class", "gthread", "--threads", "4"],
    "gunicorn's gevent worker": [*GUNICORN, "--worker-class", "gevent"],
    "Granian": ["-m", "granian", "--interface", "wsgi", "--host", "127.0.0.1", "--port", "{port}", "--no-ws"],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_an_event_is_stored_under(name: str, context: AppContext, rows: Rows, tmp_path: Path) -> None:
    # No file of settings: with deploy/gunicorn.conf.py, gevent would have patched the threads.
    (tmp_path / "conf.py").write_text("control_socket_disable = True\n")
    port, output = free_port(), tmp_path / "output"
    command = [part.format(folder=tmp_path, port=port) for part in COMMANDS[name]]
    with output.open("wb") as written:
        program = start_program(
            [sys.executable, *command, "wsgi:app"],
            death_signal=signal.SIGKILL,
            cwd=ROOT,
            env=clean_environment(**settings_of(context)),
            stdout=written,
            stderr=subprocess.STDOUT,
        )
    try:
        server = Server(port, program, output)
        wait_for(server)
        sender = a_sender(context, server)
        assert sender.post(an_event()).status_code == 200
        assert sender.post({"event": ""}).status_code == 422
        # Its body is read after the response.
        assert sender.post({"event": "a"}, **{"Content-Type": "text/plain"}).status_code == 415
        assert rows("SELECT count(*) FROM events WHERE account_id = %s", sender.account_id) == [(1,)]
        assert wait_for_refusals(rows, sender.account_id) == [(422, b'{"event": ""}'), (415, b'{"event": "a"}')]
        server.hang_up(all_threads=True)
    finally:
        end_all([program], signal.SIGTERM, 20)


def wait_for_refusals(rows: Rows, account_id: int) -> list[tuple[object, bytes]]:
    """The status and the body of the account's first two refusals."""
    deadline = time.monotonic() + 20
    while True:
        found = rows("SELECT status, body FROM refusals WHERE account_id = %s ORDER BY id", account_id)
        if len(found) == 2 or time.monotonic() > deadline:
            return [(status, zlib.decompress(body)) for status, body in found if isinstance(body, memoryview)]
        time.sleep(0.05)


def wait_for(server: Server) -> None:
    """Return once /health is 200."""
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline and server.program.poll() is None:
        with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{server.port}/health", timeout=5) as answer:
            if answer.status == 200:
                return
        time.sleep(0.1)
    raise AssertionError(server.output())
