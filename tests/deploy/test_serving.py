"""The web processes as systemd and nginx run them: by one socket, behind TLS, for the senders' addresses."""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest
from flask.testing import FlaskClient

from app.cli.devserver.child_process import end_all, start_program
from app.services.context import AppContext
from bench.restart import WebUnit, under_load, unit_command
from bench.servers import ROOT, nginx
from tests.api.conftest import settings_of
from tests.support.ambiguous_requests import AMBIGUOUS_LINES, BROKEN_CHUNKS, CHUNKS
from tests.support.builders import a_sender
from tests.support.certificates import a_certificate
from tests.support.gunicorn import running_gunicorn
from tests.support.server import START_TIMEOUT, clean_environment

FAILURES = 300


def respond(path: Path | int, request: bytes, context: ssl.SSLContext | None = None) -> bytes:
    """The first response to a request, by a socket or a port."""
    raw = socket.socket(socket.AF_INET if isinstance(path, int) else socket.AF_UNIX)
    raw.settimeout(20)
    raw.connect(("127.0.0.1", path) if isinstance(path, int) else str(path))
    received = b""
    with (
        context.wrap_socket(raw, server_hostname="127.0.0.1") if context else raw as connection,
        suppress(ConnectionError),
    ):
        connection.sendall(request)
        while part := connection.recv(65536):
            received += part
            end = re.search(rb"Content-Length: (\d+)\r\n(?:.*\r\n)*?\r\n", received)
            if end and len(received) >= end.end() + int(end[1]):
                break
    return received


def get(path: str, *fields: str, method: str = "GET") -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: x", *fields, "Connection: close"]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder whose sockets the user of nginx may reach, which pytest's own folders are not."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@contextmanager
def web_unit(context: AppContext, folder: Path, **environment: str) -> Iterator[Path]:
    """gunicorn by the command of its unit, with a socket of its own; the path of the socket."""
    path = folder / "web.sock"
    settings = clean_environment(**settings_of(context), BIND=f"unix:{path}", **environment)
    unit = WebUnit(ROOT, settings, folder / "notify")
    try:
        unit.start()
        yield path
    finally:
        unit.close()


def test_a_gunicorn_serves_by_the_socket_that_systemd_gives_it(context: AppContext, tmp_path: Path) -> None:
    path = tmp_path / "web.sock"
    # systemd-socket-activate starts the command at the first connection.
    names = [f"--setenv={name}={value}" for name, value in settings_of(context).items()]
    command = ["systemd-socket-activate", f"--listen={path}", f"--setenv=PYTHONPATH={ROOT}", *names]
    program = start_program(
        [*command, *unit_command("signalbox-web@.service")],
        death_signal=signal.SIGTERM,
        cwd=ROOT,
        env=clean_environment(),
    )
    try:
        deadline = time.monotonic() + START_TIMEOUT
        while not path.exists():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert respond(path, get("/livez")).startswith(b"HTTP/1.1 200 ")
    finally:
        end_all([program], signal.SIGTERM, 30)
    # The socket is systemd's: gunicorn leaves it.
    assert path.exists()


def test_no_request_fails_while_two_units_restart_in_turn(
    context: AppContext, client: FlaskClient, folder: Path
) -> None:
    sender = a_sender(context, client)
    headers = {"Content-Type": "application/json", **sender.headers()}
    with closing(socket.socket(socket.AF_UNIX)) as listener:
        path = folder / "web.sock"
        listener.bind(str(path))
        path.chmod(0o666)
        listener.listen(2048)
        settings = clean_environment(**settings_of(context))
        units = [WebUnit(ROOT, settings, folder / name, listener) for name in ("1", "2")]
        try:
            for unit in units:
                unit.start()
            with nginx(folder, path) as port:
                sent = under_load(port, headers, lambda: [unit.restart() for unit in units] and None, rate=20)
        finally:
            for unit in units:
                unit.close()
    assert sent.refused == []
    assert len(sent.late) == len(sent.due) > 20


def test_limits_count_senders_behind_a_load_balancer_and_nginx(context: AppContext, folder: Path) -> None:
    balancer = {"# set_real_ip_from 10.0.0.0/24;": "set_real_ip_from 127.0.0.1;"}
    with web_unit(context, folder) as path, nginx(folder, path, balancer) as port:

        def fail(forwarded: str) -> int:
            answer = respond(
                port, get("/1.0/token", f"X-Forwarded-For: {forwarded}", "Content-Length: 0", method="POST")
            )
            return int(answer.split(b" ", 2)[1])

        # A sender cannot hide behind an address that it writes itself.
        statuses = [fail(f"198.51.100.{number % 250}, 192.0.2.1") for number in range(FAILURES + 1)]
        assert [status for status in statuses if status != 401] == [429]
        assert fail("192.0.2.2") == 401


@pytest.fixture(scope="module")
def encrypted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Path, Path]]:
    """nginx with TLS in front of an app that repeats the body: its port, the socket for plain HTTP, and the certificate."""
    folder = tmp_path_factory.mktemp("encrypted")
    certificate = a_certificate(folder)
    with running_gunicorn(folder) as server, nginx(folder, server.port, certificate=certificate) as port:
        yield port, folder / "nginx" / "plain.sock", certificate


def tls_client(certificate: Path, *protocols: str) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(certificate))
    context.set_alpn_protocols(list(protocols) or ["http/1.1"])
    return context


def test_responses_ask_for_https_from_now_on(encrypted: tuple[int, Path, Path]) -> None:
    port, _, certificate = encrypted
    for request in (get("/"), b"BAD\r\n\r\n"):
        assert b"\r\nStrict-Transport-Security: max-age=31536000\r\n" in respond(port, request, tls_client(certificate))


def test_clients_may_choose_http_2(encrypted: tuple[int, Path, Path]) -> None:
    port, _, certificate = encrypted
    with (
        socket.create_connection(("127.0.0.1", port)) as raw,
        tls_client(certificate, "h2").wrap_socket(raw, server_hostname="127.0.0.1") as connection,
    ):
        assert connection.selected_alpn_protocol() == "h2"


def test_tls_before_1_2_is_refused(encrypted: tuple[int, Path, Path]) -> None:
    openssl = shutil.which("openssl")
    assert openssl
    for version, accepted in (("-tls1", False), ("-tls1_1", False), ("-tls1_2", True), ("-tls1_3", True)):
        command = [openssl, "s_client", "-connect", f"127.0.0.1:{encrypted[0]}", version, "-cipher", "ALL:@SECLEVEL=0"]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        assert ("Cipher is (NONE)" not in done.stdout and "New, TLS" in done.stdout) is accepted, version


def test_browsers_are_sent_to_https_and_a_post_is_not(encrypted: tuple[int, Path, Path]) -> None:
    plain = encrypted[1]
    redirect = respond(plain, get("/version?a=b"))
    assert redirect.startswith(b"HTTP/1.1 301 ")
    assert b"\r\nLocation: https://x/version?a=b\r\n" in redirect
    check_problem(respond(plain, get("/api/v1/cvf-events", "Content-Length: 0", method="POST")), 400)
    check_problem(respond(plain, b"BAD\r\n\r\n"), 400)
    check_problem(respond(plain, get("/.well-known/acme-challenge/none")), 404)


def check_problem(response: bytes, status: int | None = None) -> None:
    """A response that is no success is a problem document with its own status."""
    head, _, body = response.partition(b"\r\n\r\n")
    found = int(head.split(b" ", 2)[1])
    assert status is None or found == status
    assert re.search(rb"\r\nContent-Type: application/problem\+json", head), head
    # Others may follow on the connection.
    problem, _ = json.JSONDecoder().raw_decode(body.decode())
    assert problem["status"] == found
    assert problem["type"].startswith("urn:signalbox:")


AMBIGUOUS = {
    **{name: (b"POST / HTTP/1.1\r\nHost: x\r\n" + line, body) for name, (line, body) in AMBIGUOUS_LINES.items()},
    **{
        f"the chunks {name}": (b"POST / HTTP/1.1\r\nHost: x\r\n" + CHUNKS, body) for name, body in BROKEN_CHUNKS.items()
    },
}


@pytest.mark.parametrize("name", AMBIGUOUS)
def test_what_is_ambiguous_is_a_problem_document_or_a_valid_request(
    encrypted: tuple[int, Path, Path], name: str
) -> None:
    port, _, certificate = encrypted
    head, body = AMBIGUOUS[name]
    response = respond(port, head + b"Connection: close\r\n\r\n" + body, tls_client(certificate))
    # nginx leaves out fields whose names are invalid, and passes the rest on as a request that it has written itself.
    if not response.startswith(b"HTTP/1.1 200 "):
        check_problem(response)
