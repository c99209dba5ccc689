"""What fails is seen: `/readyz?verbose`, the metrics and one line of the log say so, and the alert for it fires on these metrics.

Each test breaks one thing of a whole installation (PostgreSQL, Redis, gunicorn, a worker), and mends it again.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import psycopg2
import pytest
import yaml
from cryptography.fernet import Fernet

from app.cli.devserver.child_process import Program, end_all, start_program
from app.core.config import from_environment
from app.db.migrate import head, upgrade
from app.db.workers import ALIVE_WITHIN
from app.services import monitoring, readiness
from app.services.context import AppContext
from tests.support.builders import Sender, a_sender, an_event
from tests.support.polling import until
from tests.support.server import ROOT, Redis, Server, clean_environment, running_redis, running_server
from tests.support.small_disk import SmallDisk, running_small_disk

KEY = Fernet.generate_key().decode()
RULES = ROOT / "deploy" / "prometheus" / "alerts.yml"
# Seconds after which all show a fault.
SEEN_WITHIN = 15.0
SELECTED = re.compile(r"^(signalbox_check_failing)\{(.*)\} (\S+)$", re.MULTILINE)


@dataclass
class Installation:
    """All processes of an installation."""

    disk: SmallDisk
    redis: Redis
    folder: Path
    settings: dict[str, str]
    context: AppContext
    server: Server = field(init=False)
    sender: Sender = field(init=False)
    worker: Program | None = None
    worker_port: int = 0

    def execute(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """Execute a statement, also while the server is read-only."""
        options = "-c default_transaction_read_only=off"
        with closing(psycopg2.connect(self.disk.url, options=options)) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(statement, values)
                return cursor.fetchall() if cursor.description else []

    def start_worker(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as trial:
            self.worker_port = trial.getsockname()[1]
        with (self.folder / "worker.log").open("ab") as log:
            self.worker = start_program(
                [sys.executable, "-m", "app.cli", "worker", "--metrics-port", str(self.worker_port)],
                death_signal=signal.SIGKILL,
                cwd=ROOT,
                env=clean_environment(**self.settings),
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def stop_worker(self, how: signal.Signals = signal.SIGTERM) -> None:
        assert self.worker is not None
        end_all([self.worker], how, 30.0)

    def failing(self) -> dict[str, str]:
        """The failing checks of /readyz?verbose, with their details."""
        answer = self.server.open("/readyz?verbose")
        failing = {check["name"]: check["detail"] for check in answer.json["checks"] if check["state"] == "failing"}
        assert [*failing] == answer.json["failing"]
        assert answer.status_code == (503 if failing.keys() & readiness.REQUIRED else 200)
        return failing

    def alert(self, name: str) -> bool:
        """Whether an alert fires on the metrics that the web process shows now."""
        rule = next(
            rule
            for group in yaml.safe_load(RULES.read_text("utf-8"))["groups"]
            for rule in group["rules"]
            if rule["alert"] == name
        )
        samples = SELECTED.findall(self.server.open("/metrics").text)
        series = [
            {"series": f'{metric}{{{labels}, instance="web-1"}}', "values": f"{value}+0x8"}
            for metric, labels, value in samples
        ]
        labels = {"instance": "web-1"} if "by (instance)" in rule["expr"] else {}
        summary = rule["annotations"]["summary"].replace("{{ $labels.instance }}", "web-1")
        fires = {"exp_labels": {**labels, **rule["labels"]}, "exp_annotations": {"summary": summary}}
        test = {"eval_time": "30s", "alertname": name, "exp_alerts": [fires]}
        case = {"interval": "5s", "input_series": series, "alert_rule_test": [test]}
        file = self.folder / "case.yml"
        file.write_text(yaml.safe_dump({"rule_files": [str(RULES)], "evaluation_interval": "5s", "tests": [case]}))
        promtool = shutil.which("promtool")
        assert promtool is not None, "promtool is not installed; this test needs it (apt install prometheus)"
        return subprocess.run([promtool, "test", "rules", str(file)], capture_output=True, check=False).returncode == 0

    def gauge(self, check: str) -> float:
        return self.server.metric(f'signalbox_check_failing{{check="{check}"}}')

    def logged(self, since: int, check: str) -> list[dict[str, Any]]:
        """The lines of the web process's log after position `since` that name a failing check."""
        lines = [json.loads(line) for line in self.server.output()[since:].splitlines()]
        return [line for line in lines if check in line.get("failing", {})]


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    with ExitStack() as stack:
        disk, redis = stack.enter_context(running_small_disk()), stack.enter_context(running_redis())
        upgrade(disk.url)
        settings = {"DATABASE_URL": disk.url, "REDIS_URL": redis.url, "ENCRYPTION_KEY": KEY}
        context = AppContext(from_environment(settings))
        stack.callback(context.database.close)
        whole = Installation(disk, redis, tmp_path_factory.mktemp("installation"), settings, context)
        whole.server = stack.enter_context(running_server(**settings))
        whole.sender = a_sender(context, whole.server)
        whole.start_worker()
        stack.callback(whole.stop_worker)
        until(lambda: not whole.failing())
        yield whole


def _assert_seen(
    whole: Installation,
    check: str,
    alert: str,
    detail: str,
    break_it: Callable[[], object],
    mend_it: Callable[[], object],
    *,
    within: float = SEEN_WITHIN,
) -> None:
    """Break something, look at all that shows it within so many seconds, and mend it."""
    until(lambda: not whole.failing() and whole.gauge(check) == 0)
    assert not whole.alert(alert)
    since = len(whole.server.output())
    break_it()
    try:
        until(
            lambda: (check in whole.failing(), whole.gauge(check), len(whole.logged(since, check))),
            lambda seen: seen == (True, 1, 1),
            timeout=within,
        )
        assert detail in whole.failing()[check]
        assert whole.alert(alert)
    finally:
        mend_it()
    until(lambda: not whole.failing() and whole.gauge(check) == 0)
    assert "all checks of /readyz pass again" in whole.server.output()[since:]


def test_a_change_is_seen_by_all_within_fifteen_seconds() -> None:
    assert 2 * monitoring.INTERVAL + readiness.MAX_WAIT < SEEN_WITHIN == 15


def test_a_stopped_worker_is_seen(installation: Installation) -> None:
    _assert_seen(
        installation,
        "workers",
        "SignalboxNoWorker",
        "no worker is alive",
        installation.stop_worker,
        installation.start_worker,
    )
    log = [json.loads(line) for line in (installation.folder / "worker.log").read_text().splitlines()]
    *_, started, stopped, restarted = [line for line in log if line["event"].startswith("worker st")]
    assert (started["worker"], started["event"]) == (stopped["worker"], "worker started")
    assert restarted["worker"] != started["worker"]


def test_a_killed_worker_is_seen_although_it_could_not_say_so(installation: Installation) -> None:
    _assert_seen(
        installation,
        "workers",
        "SignalboxNoWorker",
        "no worker is alive",
        partial(installation.stop_worker, signal.SIGKILL),
        installation.start_worker,
    )


def test_a_frozen_worker_is_seen_although_its_connections_are_open(installation: Installation) -> None:
    assert installation.worker is not None
    send = partial(os.kill, installation.worker.pid)
    freeze, thaw = partial(send, signal.SIGSTOP), partial(send, signal.SIGCONT)
    # Until then it counts as alive.
    within = ALIVE_WITHIN.total_seconds() + SEEN_WITHIN
    _assert_seen(installation, "workers", "SignalboxNoWorker", "no worker is alive", freeze, thaw, within=within)


def test_a_stopped_redis_is_seen(installation: Installation) -> None:
    redis = installation.redis
    _assert_seen(installation, "redis", "SignalboxRedisUnavailable", "Redis does not answer", redis.kill, redis.start)


def test_a_read_only_postgres_is_seen(installation: Installation) -> None:
    def switch(setting: str) -> None:
        installation.execute(f"ALTER SYSTEM SET default_transaction_read_only = {setting}")
        installation.execute("SELECT pg_reload_conf()")

    def break_it() -> None:
        switch("on")
        until(lambda: installation.sender.post(an_event()).status_code == 503)

    _assert_seen(installation, "writable", "SignalboxPostgresReadOnly", "read-only", break_it, lambda: switch("off"))
    until(lambda: installation.sender.post(an_event()).status_code == 200)


def test_a_missing_migration_is_seen(installation: Installation) -> None:
    _assert_seen(
        installation,
        "migrations",
        "SignalboxMigrationMissing",
        f"the database is at migration 0015, this release needs {head()}",
        lambda: installation.execute("UPDATE alembic_version SET version_num = '0015'"),
        lambda: installation.execute("UPDATE alembic_version SET version_num = %s", head()),
    )


def test_a_wrong_encryption_key_is_seen(installation: Installation) -> None:
    ((account_id, secret),) = installation.execute("SELECT id, signing_secret FROM accounts")
    other = Fernet(Fernet.generate_key()).encrypt(b"whsec_")
    change = "UPDATE accounts SET signing_secret = %s WHERE id = %s"
    _assert_seen(
        installation,
        "encryption_key",
        "SignalboxEncryptionKeyWrong",
        "ENCRYPTION_KEY is not the key",
        lambda: installation.execute(change, other, account_id),
        lambda: installation.execute(change, bytes(secret), account_id),
    )


def test_a_full_disk_is_seen(installation: Installation) -> None:
    large = {"noise": os.urandom(100_000).hex()}

    def break_it() -> None:
        installation.disk.fill()
        until(lambda: installation.sender.post(an_event(data=large)).status_code == 503)

    _assert_seen(installation, "disk", "SignalboxDiskFull", "No space left on device", break_it, installation.disk.free)
    until(lambda: installation.sender.post(an_event(data=large)).status_code == 200)


def test_the_worker_shows_metrics_of_its_own(installation: Installation) -> None:
    def text() -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{installation.worker_port}/metrics", timeout=10) as answer:
            return str(answer.read().decode())

    until(lambda: "\nsignalbox_workers_alive 1.0\n" in text())
    assert '\nsignalbox_jobs_due{kind="run"} 0.0\n' in text()
    assert '\nsignalbox_check_failing{check="postgres"} 0.0\n' in text()
