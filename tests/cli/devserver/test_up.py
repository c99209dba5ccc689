"""`make run` for real: the supervisor with its Postgres, web process and worker, in a folder of its own."""

from __future__ import annotations

import http.client
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil
import psycopg2
import pytest

from app.cli.devserver.embedded_postgres import psql
from app.core.config import embedded_database_url

ROOT = Path(__file__).resolve().parents[3]
TIMEOUT_SECONDS = 60.0
EXAMPLES_PORT = 9099


def _free_port() -> int:
    with closing(socket.socket()) as trial:
        trial.bind(("127.0.0.1", 0))
        return int(trial.getsockname()[1])


def _is_free(port: int) -> bool:
    with closing(socket.socket()) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _eventually(what: Callable[[], Any], why: Callable[[], str] = lambda: "") -> Any:
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while time.monotonic() < deadline:
        if found := what():
            return found
        time.sleep(0.05)
    raise AssertionError(f"did not come true within {TIMEOUT_SECONDS:.0f} s\n{why()}")


class Run:
    """One `python -m app.cli.devserver.up` in `folder`, and its output."""

    def __init__(self, folder: Path, **environment: str) -> None:
        self.folder = folder
        self.port = _free_port()
        number = len(list(folder.glob("output-*")))
        self.output_path = folder / f"output-{number}"
        with self.output_path.open("wb") as output:
            self.program = subprocess.Popen(
                [sys.executable, "-m", "app.cli.devserver.up"],
                cwd=folder,
                env={**os.environ, "PYTHONPATH": str(ROOT), "PORT": str(self.port), **environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def output(self) -> str:
        return self.output_path.read_text(errors="replace")

    def until(self, pattern: str, *, times: int = 1) -> list[Any]:
        """Wait until the output matches `pattern`."""

        def found() -> list[Any] | None:
            matches = list(re.finditer(pattern, self.output(), re.MULTILINE))
            if len(matches) >= times:
                return matches
            assert self.program.poll() is None, f"it ended with {self.program.returncode}:\n{self.output()}"
            return None

        return list(_eventually(found, self.output))

    def banner_value(self, name: str) -> str:
        """The value of `name` in the banner."""
        return str(self.until(rf"^{name}=(.*)$")[-1][1])

    def child(self, word: str) -> psutil.Process:
        """The child whose command line has `word`."""
        found = [
            one for one in psutil.Process(self.program.pid).children() if any(word in part for part in _words(one))
        ]
        assert len(found) == 1, f"{word}: {found}\n{self.output()}"
        return found[0]

    def descendants(self) -> list[psutil.Process]:
        return psutil.Process(self.program.pid).children(recursive=True)

    def health(self) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status
        except (OSError, http.client.HTTPException):
            return 0
        finally:
            connection.close()

    def interrupt(self) -> int:
        """Ctrl-C; returns the exit code."""
        self.program.send_signal(signal.SIGINT)
        return self.program.wait(TIMEOUT_SECONDS)

    def post_by_curl(self) -> str:
        """The output of the printed command."""
        self.until(r"^Ctrl-C stops")
        command = self.until(r"^curl .*$")[-1][0]
        assert shutil.which("curl"), "curl is not installed; these tests paste the printed command (apt install curl)"
        done = subprocess.run(
            ["sh", "-c", command], capture_output=True, text=True, check=True, timeout=TIMEOUT_SECONDS
        )
        return done.stdout

    def stored(self) -> int:
        with closing(psycopg2.connect(self.banner_value("database"))) as connection, connection.cursor() as cursor:
            cursor.execute("select count(*) from events")
            row = cursor.fetchone()
            assert row is not None
            return int(row[0])


def _words(process: psutil.Process) -> list[str]:
    with suppress(psutil.Error):
        return list(process.cmdline())
    return []


def _lives(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="signalbox-up-") as name:
        yield Path(name)


@pytest.fixture
def start(folder: Path) -> Iterator[Callable[..., Run]]:
    """Starts runs in the folder of the test; ends what is left of them."""
    runs: list[Run] = []

    def begin(**environment: str) -> Run:
        runs.append(Run(folder, **environment))
        return runs[-1]

    yield begin
    for run in runs:
        if run.program.poll() is None:
            run.interrupt()


@pytest.fixture(scope="module")
def running() -> Iterator[Run]:
    """One run shared by all tests that leave it running; the example's own port is always taken."""
    with ExitStack() as stack:
        with suppress(OSError):
            stack.enter_context(socket.create_server(("127.0.0.1", EXAMPLES_PORT)))
        name = stack.enter_context(tempfile.TemporaryDirectory(prefix="signalbox up & "))
        run = Run(Path(name))
        try:
            run.until(r"^Ctrl-C stops")
            yield run
        finally:
            if run.program.poll() is None:
                run.interrupt()


def test_the_start_message_has_all_addresses(running: Run) -> None:
    assert running.banner_value("url") == f"http://127.0.0.1:{running.port}"
    assert re.fullmatch(r"\d+", running.banner_value("account"))
    assert re.fullmatch(r"sb_\w{8}_[\w-]{49}", running.banner_value("token"))
    assert running.banner_value("database") == embedded_database_url(running.folder / ".data")


def test_the_printed_user_signs_in_to_the_console(running: Run) -> None:
    url, email, password = re.fullmatch(
        r"(\S+/console), as (\S+) with the password (\S+)", running.until(r"^\S+/console, as .*$")[-1][0]
    ).groups()  # type: ignore[union-attr]
    browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
    page = browser.open(f"{url}/", timeout=TIMEOUT_SECONDS).read().decode()
    token = re.search(r'name="csrf_token"[^>]*value="([^"]+)"', page)
    assert token is not None
    form = urllib.parse.urlencode({"csrf_token": token[1], "email": email, "password": password}).encode()
    with browser.open(f"{url}/sign-in", data=form, timeout=TIMEOUT_SECONDS) as answer:
        assert answer.url == f"{url}/demo/"


def test_the_output_says_that_loopback_is_allowed(running: Run) -> None:
    running.until(r"ALLOWED_PRIVATE_TARGETS=127\.0\.0\.0/8,::1")


def test_the_printed_curl_stores_an_event(running: Run) -> None:
    before = running.stored()
    answer = running.post_by_curl()
    assert answer.startswith("HTTP/1.1 200 "), answer
    assert '"distinct_id":"915673412780"' in answer.replace(" ", "")
    assert running.stored() == before + 1


@pytest.mark.parametrize("program", ["psql of the machine", "psql of the wheel"])
def test_the_printed_psql_shows_the_event(running: Run, program: str) -> None:
    running.post_by_curl()
    command = running.until(r"^\S*psql.*$")[-1][0]
    if program == "psql of the wheel":
        command = re.sub(r"^\S+", f"'{psql()}'", command)
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "product_view" in done.stdout
    assert "Cool Sneakers" in done.stdout


def test_a_second_start_in_the_same_folder_is_refused(running: Run) -> None:
    second = Run(running.folder)
    assert second.program.wait(TIMEOUT_SECONDS) == 1
    assert second.output() == f"signalbox: already running in this folder (process {running.program.pid})\n"


@pytest.mark.parametrize(
    ("word", "name"),
    [("gunicorn", "web process"), ("worker", "worker"), ("-D", "postgres")],
    ids=["web", "worker", "pg"],
)
def test_a_killed_process_is_restarted_and_reported_in_one_line(running: Run, word: str, name: str) -> None:
    before = running.output().count("\n")
    killed = running.child(word)
    killed.kill()
    running.until(rf"^{name} ended \(signal 9\), restarted$")
    assert _eventually(lambda: running.health() == 200, running.output)
    assert running.child(word).pid != killed.pid
    ours = [line for line in running.output().splitlines()[before:] if line.startswith(("postgres", "web", "worker"))]
    assert len(ours) == 1, ours
    assert running.post_by_curl().startswith("HTTP/1.1 200 ")


def test_ctrl_c_leaves_nothing_behind_and_the_next_start_keeps_the_data(start: Callable[..., Run]) -> None:
    first = start()
    first.post_by_curl()
    processes = first.descendants()
    assert len(processes) > 5
    assert first.interrupt() == 0
    assert [one for one in processes if _lives(one)] == []
    assert _is_free(first.port)

    second = start()
    second.post_by_curl()
    assert second.stored() == 2
    assert second.banner_value("account") == first.banner_value("account")
    assert second.banner_value("token") != first.banner_value("token")
    assert "The API key of the previous start was revoked" in second.output()
    assert "The API key of the previous start was revoked" not in first.output()


def test_the_example_workflow_calls_the_echo_server(running: Run) -> None:
    before = running.output().count("call arrived:")
    running.post_by_curl()
    running.until(r"^call arrived: POST /\S* event=product_view distinct_id=915673412780$", times=before + 1)


if sys.platform == "linux":  # Only there do children end with their parent.

    def test_all_processes_end_with_a_killed_supervisor(start: Callable[..., Run]) -> None:
        run = start()
        run.post_by_curl()
        processes = run.descendants()
        run.program.kill()
        run.program.wait()
        assert _eventually(lambda: not any(_lives(one) for one in processes))
        again = start()
        again.post_by_curl()
        assert again.stored() == 2


def test_a_server_left_by_a_killed_supervisor_is_stopped_first(folder: Path, start: Callable[..., Run]) -> None:
    run = start()
    run.post_by_curl()
    postgres = run.child("-D")
    postgres.suspend()
    run.program.kill()
    run.program.wait()
    again = start()
    time.sleep(1)
    postgres.resume()
    again.post_by_curl()
    assert again.stored() == 2
    assert not _lives(postgres)


def test_a_busy_port_is_reported_in_one_line(start: Callable[..., Run]) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as other:
        port = other.getsockname()[1]
        run = start(PORT=str(port))
        assert run.program.wait(TIMEOUT_SECONDS) == 1
    assert run.output().startswith(f"signalbox: port {port} is in use by another program: ")
    assert run.output().count("\n") == 1


def test_an_unreachable_database_is_reported_without_the_password(start: Callable[..., Run]) -> None:
    secret = "s3cr?t/@:pass"
    run = start(DATABASE_URL=f"postgresql://somebody:{quote(secret, safe='')}@127.0.0.1:{_free_port()}/x")
    assert run.program.wait(TIMEOUT_SECONDS) == 1
    assert run.output().startswith("signalbox: DATABASE_URL (postgresql://somebody@127.0.0.1:")
    assert run.output().count("\n") == 1
    assert secret not in run.output()
    assert quote(secret, safe="") not in run.output()


@pytest.mark.parametrize(
    ("name", "value"), [("PORT", "70000"), ("PORT", "web"), ("BIND", "unix:/tmp/x"), ("BIND", "a:b:c")]
)
def test_an_invalid_address_is_reported_in_one_line(start: Callable[..., Run], name: str, value: str) -> None:
    run = start(**{name: value})
    assert run.program.wait(TIMEOUT_SECONDS) == 1
    assert run.output().startswith(f"signalbox: {name}='{value}' cannot be used")
    assert run.output().count("\n") == 1


def test_with_database_url_nothing_is_embedded(start: Callable[..., Run], folder: Path, empty_database: str) -> None:
    run = start(DATABASE_URL=empty_database)
    run.post_by_curl()
    assert not (folder / ".data" / "postgres").exists()
    assert not any("-D" in _words(one) for one in run.descendants())
    assert run.stored() == 1
    assert run.interrupt() == 0
    psycopg2.connect(empty_database).close()


def test_two_web_processes_need_redis(start: Callable[..., Run]) -> None:
    run = start(WEB_CONCURRENCY="2")
    assert run.program.wait(TIMEOUT_SECONDS) == 1
    assert "REDIS_URL" in run.output()
    assert "Traceback" not in run.output()
