"""Several processes combine their metrics in a folder, also when one replaces another."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from app.services.context import AppContext
from tests.api.conftest import settings_of
from tests.support.server import START_TIMEOUT, Server, running_server

REFUSED = 'signalbox_refusals_total{status="404"}'


def _replace_process(server: Server) -> None:
    (before,) = server.processes()
    os.kill(before, signal.SIGKILL)
    deadline = time.monotonic() + START_TIMEOUT
    while server.processes() in ([], [before]):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    server.hang_up()
    assert server.open("/livez").status_code == 200


def test_a_process_that_replaces_another_continues_its_counters_and_files(context: AppContext, tmp_path: Path) -> None:
    with running_server(**settings_of(context), PROMETHEUS_MULTIPROC_DIR=str(tmp_path)) as server:
        server.open("/nowhere")
        assert server.metric(REFUSED) == 1
        files = {file.name for file in tmp_path.iterdir() if not file.name.startswith("gauge_live")}
        _replace_process(server)
        server.open("/nowhere")
        assert server.metric(REFUSED) == 2
        assert {file.name for file in tmp_path.iterdir() if not file.name.startswith("gauge_live")} == files
        assert any(name.endswith(f"_web-{server.program.pid}-1.db") for name in files)


def test_two_processes_add_up_what_each_counts(two_processes: Server) -> None:
    before = two_processes.metric(REFUSED)
    with two_processes.connected_to_each() as connections:
        for connection in connections:
            two_processes.request_on(connection, "/nowhere")
    assert two_processes.metric(REFUSED) == before + 2
    # Each process sets its gauges every few seconds.
    deadline = time.monotonic() + START_TIMEOUT
    while (found := two_processes.metric('signalbox_connections_max{pool="events"}')) != 20:
        assert time.monotonic() < deadline, found
        time.sleep(0.1)
