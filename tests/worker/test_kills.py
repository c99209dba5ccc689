"""All processes are killed repeatedly while events are posted: each acknowledged event is stored once, and its runs end.

PostgreSQL, gunicorn and a worker are real processes and are ended by SIGKILL. Senders retry by status code as third-party tools
do, and the workflow calls a listener.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import signal
import socket
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil
import psycopg2
import pytest
from cryptography.fernet import Fernet

from app.cli.devserver.embedded_postgres import EmbeddedPostgres
from app.cli.devserver.supervisor import Command, stop_together
from app.core import config
from app.core.models import EVENTS_WRITE, PLANS
from app.db.migrate import upgrade
from app.services import accounts, api_keys, workflows
from app.services.context import AppContext
from tests.support.builders import EVENTS_PATH, a_workflow, an_event

EVENTS = 2_000
KILLS = 21
SENDERS = 4
TIMEOUT = 240.0


class Listener(ThreadingHTTPServer):
    """Counts the received calls by idempotency key; fails now and then."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Call)
        self.calls: Counter[str] = Counter()
        self.keys_of_event: defaultdict[str, set[str]] = defaultdict(set)
        self.lock = threading.Lock()


class _Call(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        listener = self.server
        assert isinstance(listener, Listener)
        with listener.lock:
            key = self.headers["Idempotency-Key"]
            listener.calls[key] += 1
            listener.keys_of_event[body["data"]["number"]].add(key)
            fails = random.random() < 0.02
        self.send_response(503 if fails else 200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@dataclass
class Processes:
    """The processes under test, and how to kill and restart each."""

    postgres: EmbeddedPostgres
    folder: Path
    web: Command
    worker: Command
    port: int
    killed: Counter[str] = field(default_factory=Counter)

    def kill(self, what: str) -> None:
        """Kill a process with SIGKILL, and start it again after a pause."""
        self.killed[what] += 1
        if what == "postgres":
            pid_file = self.folder / "postgres" / "postmaster.pid"
            os.kill(int(pid_file.read_text().split()[0]), signal.SIGKILL)
            while self.postgres.running():
                time.sleep(0.01)
            time.sleep(random.uniform(0, 0.3))
            self.postgres.start()
            return
        command = self.web if what == "gunicorn" else self.worker
        assert command.program is not None
        victims = [command.program.pid]
        if what == "gunicorn" and random.random() < 0.5:
            victims = [child.pid for child in psutil.Process(victims[0]).children()]
        for victim in victims:
            os.kill(victim, signal.SIGKILL)
        time.sleep(random.uniform(0, 0.3))
        if command.program.pid in victims:
            command.program.wait()
            command.start()


@pytest.fixture
def under_test() -> Iterator[tuple[Processes, dict[str, str]]]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="signalbox-kills-"))) / "data"
        postgres = EmbeddedPostgres(folder, durable=True, say=lambda line: None)
        postgres.start()
        stack.callback(postgres.stop)
        upgrade(postgres.url)
        port = _free_port()
        environment = {
            **os.environ,
            "DATABASE_URL": postgres.url,
            "ENCRYPTION_KEY": Fernet.generate_key().decode(),
            "BIND": f"127.0.0.1:{port}",
            "WEB_CONCURRENCY": "1",
            "REDIS_URL": "",
            "ALLOWED_PRIVATE_TARGETS": "127.0.0.0/8",
            "HEARTBEAT_TIMEOUT": "3",
            "LOG_LEVEL": "error",
        }
        web = Command([sys.executable, "-m", "gunicorn", "-c", "deploy/gunicorn.conf.py", "wsgi:app"], environment)
        worker = Command([sys.executable, "-m", "app.cli", "worker"], environment)
        stack.callback(lambda: stop_together([web, worker], 20))
        web.start()
        worker.start()
        yield Processes(postgres, folder, web, worker, port), environment


@pytest.fixture
def listener() -> Iterator[Listener]:
    with Listener() as listening:
        thread = threading.Thread(target=listening.serve_forever, daemon=True)
        thread.start()
        yield listening
        listening.shutdown()
        thread.join()


def test_acknowledged_events_survive_every_kill(
    under_test: tuple[Processes, dict[str, str]], listener: Listener, capsys: pytest.CaptureFixture[str]
) -> None:
    parts, environment = under_test
    owner = AppContext(config.from_environment(environment))
    account_id = accounts.create_account(owner, "acme", PLANS["unlimited"])
    token = api_keys.create_key(owner, account_id, "test", (EVENTS_WRITE,))
    workflows.apply_workflow(
        owner,
        account_id,
        a_workflow(
            steps=[
                {"log": "{{ data.number }}"},
                {"wait": "1s"},
                {
                    "http": {"url": f"http://127.0.0.1:{listener.server_port}/"},
                    "retry": {"attempts": 10, "first": "1s", "max": "2s"},
                },
            ]
        ),
    )
    stream = _Stream(parts.port, account_id, token)
    senders = [threading.Thread(target=stream.send, args=(number,), daemon=True) for number in range(SENDERS)]
    for sender in senders:
        sender.start()
    targets = ["gunicorn", "worker", "postgres"] * (KILLS // 3)
    random.shuffle(targets)
    for number, target in enumerate(targets, start=1):
        stream.wait_for(EVENTS * number // (KILLS + 1))
        parts.kill(target)
    stream.wait_for(EVENTS)
    stream.stop.set()
    for sender in senders:
        sender.join(60)
    _wait_for_the_runs(parts.postgres.url)

    with closing(psycopg2.connect(parts.postgres.url)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT id::text, count(*), min(data ->> 'number') FROM events GROUP BY id")
        stored = {row[0]: row[1] for row in cursor}
        cursor.execute("SELECT event_id::text, count(*), min(status) FROM runs GROUP BY event_id")
        runs = {row[0]: (row[1], row[2]) for row in cursor}
        cursor.execute("SELECT idempotency_key, count(*) FROM events WHERE idempotency_key IS NOT NULL GROUP BY 1")
        by_key = dict(cursor.fetchall())
        cursor.execute("SELECT status, count(*) FROM runs GROUP BY status")
        statuses = dict(cursor.fetchall())
        cursor.execute("SELECT count(*) FROM attempts WHERE outcome = 'done' AND request IS NOT NULL")
        (sent,) = cursor.fetchone() or (0,)
    acknowledged = stream.acknowledged
    with capsys.disabled():
        print(
            f"\nkilled: {dict(parts.killed)}; posts: {stream.posts}, acknowledged: {len(acknowledged)}, "
            f"stored: {len(stored)}, runs: {statuses}, calls: {sum(listener.calls.values())} "
            f"with {len(listener.calls)} keys, recorded as sent: {sent}"
        )
    assert len(acknowledged) >= EVENTS
    assert sum(parts.killed.values()) >= 20
    assert [id_ for id_ in acknowledged if stored.get(id_) != 1] == []
    assert [key for key, count in by_key.items() if count != 1] == []
    assert [id_ for id_ in acknowledged if runs.get(id_, (0, ""))[0] != 1] == []
    assert {status for _, status in runs.values()} <= {"done", "failed"}
    assert statuses.get("done", 0) >= 0.99 * len(stored)
    # No run starts twice: all calls for an event have the same idempotency key, however often they were repeated.
    assert [number for number, keys in listener.keys_of_event.items() if len(keys) != 1] == []
    assert stream.surprises == []


class _Stream:
    """Senders that post until they are stopped. Half of the events carry an idempotency key and are retried until they are
    acknowledged; the others are given up when they fail, as a sender without retries would."""

    def __init__(self, port: int, account_id: int, token: str) -> None:
        self._port = port
        self._headers = {
            "Content-Type": "application/json",
            "x-limechat-uat": token,
            "x-fb-account-id": str(account_id),
        }
        self.acknowledged: set[str] = set()
        self.surprises: list[str] = []
        self.posts = 0
        self.stop = threading.Event()
        self._lock = threading.Lock()

    def wait_for(self, count: int) -> None:
        deadline = time.monotonic() + TIMEOUT
        while len(self.acknowledged) < count:
            assert time.monotonic() < deadline, f"only {len(self.acknowledged)} of {count} events came through in time"
            time.sleep(0.02)

    def send(self, sender: int) -> None:
        number = 0
        while not self.stop.is_set():
            number += 1
            with_key = number % 2 == 0
            name = f"{'keyed' if with_key else 'plain'}-{sender}-{number}"
            body = json.dumps(an_event(distinct_id=name, data={"number": name}))
            headers = {**self._headers, "Idempotency-Key": name} if with_key else self._headers
            while not self._post(body, headers) and with_key and not self.stop.is_set():
                time.sleep(0.05)
            time.sleep(0.01)

    def _post(self, body: str, headers: dict[str, str]) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=10)
        try:
            connection.request("POST", EVENTS_PATH, body, headers)
            response = connection.getresponse()
            answer = response.read()
        except (OSError, http.client.HTTPException):
            response = None
        finally:
            connection.close()
        with self._lock:
            self.posts += 1
            if response is not None and response.status == 200:
                self.acknowledged.add(json.loads(answer)["id"])
                return True
            if response is not None and response.status != 503:
                self.surprises.append(f"{response.status} {answer!r}")
        return False


def _wait_for_the_runs(url: str) -> None:
    deadline = time.monotonic() + TIMEOUT
    while time.monotonic() < deadline:
        with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM runs WHERE status = 'running'")
            if cursor.fetchone() == (0,):
                return
        time.sleep(0.5)
    raise AssertionError("runs are still on their way")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
