"""Of generated sequences of requests, the app sees those that are valid, with their bodies, and never a smuggled one."""

from __future__ import annotations

import json
import random
import re
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import pytest

from app.core.errors import ProblemType
from bench.servers import nginx
from tests.support.gunicorn import Gunicorn, running_gunicorn
from tests.support.request_sequences import RECORDER, Generator, Sequence
from tests.support.server import ROOT

CONNECTIONS = 8
DIRECT = 18_000
SPOILT = 3_000
# Fewer requests than the burst that deploy/nginx.conf allows from one address.
THROUGH_NGINX = 1_500
SPOILING = (
    b"",
    b" ",
    b"\r",
    b"\n",
    b"\r\n",
    b"\t",
    b":",
    b"\x00",
    b"\xe4",
    b"/",
    b"_",
    b"0",
    b"5",
    b"HTTP/1.1",
    b"chunked",
    b"Host",
)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Gunicorn]:
    with running_gunicorn(tmp_path, RECORDER, "\nmax_requests = 0\n") as running:
        yield running


def send(port: int, packets: list[bytes], *, end: bool = False, pause: float = 0) -> bytes:
    """All that the server sends back for these packets; `end`: the client says that no more will follow."""
    received = b""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection, suppress(ConnectionError):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for packet in packets:
            connection.sendall(packet)
            time.sleep(pause)
        if end:
            connection.shutdown(socket.SHUT_WR)
        else:
            connection.settimeout(1)
        with suppress(TimeoutError):
            while part := connection.recv(65536):
                received += part
    return received


def in_packets(data: bytes, rng: random.Random) -> list[bytes]:
    """The same in up to four packets."""
    positions = sorted({0, *(rng.randrange(len(data)) for _ in range(rng.choice((0, 0, 1, 3)))), len(data)})
    return [data[one:other] for one, other in pairwise(positions)]


def sent_by_many(sequences: list[Sequence], send_one: Callable[[Sequence], bytes]) -> list[bytes]:
    """What comes back for each sequence; several are under way at the same time."""
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        return list(pool.map(send_one, sequences))


def seen_by_app(server: Gunicorn) -> tuple[dict[int, list[tuple[int, str]]], list[str]]:
    """What the app has recorded: by sequence, and what belongs to none."""
    recorded = json.loads(server.exchange(b"GET /seen HTTP/1.1\r\nConnection: close\r\n\r\n").partition(b"\r\n\r\n")[2])
    return {int(number): [(n, body) for n, body in seen] for number, seen in recorded["seen"].items()}, recorded[
        "stray"
    ]


def faults(server: Gunicorn, sequences: list[Sequence], received: list[bytes]) -> list[str]:
    """What is wrong with the requests that the app has seen, or with the responses."""
    seen, found = seen_by_app(server)
    for sequence, answer in zip(sequences, received, strict=True):
        records = seen.pop(sequence.number, [])
        if not sequence.permits(records):
            found.append(f"{sequence.what}: seen {records} of {sequence.sent[:2000]!r}")
        elif answer.count(b"X-App: ") != len(records) or re.search(rb"HTTP/1.1 5(?!0[15])", answer):
            found.append(f"{sequence.what}: {len(records)} seen, answered {answer[:2000]!r}")
    return found + [f"seen without being sent: {number}" for number in seen]


def test_of_generated_sequences_the_app_sees_what_is_valid(server: Gunicorn) -> None:
    generator, rng = Generator(1), random.Random(2)
    sequences = [generator.sequence() for _ in range(DIRECT)]
    received = sent_by_many(sequences, lambda one: send(server.port, in_packets(one.sent, rng)))
    assert faults(server, sequences, received) == []
    assert b"Traceback" not in server.output.read_bytes()


def test_sequences_may_arrive_in_two_parts_or_end_at_every_byte(server: Gunicorn) -> None:
    generator = Generator(3)
    short = [one for one in (generator.sequence() for _ in range(200)) if len(one.sent) < 700][:10]
    sequences: list[Sequence] = []
    packets: dict[int, list[bytes]] = {}
    for one in short:
        for position in range(1, len(one.sent)):
            whole = one.renumbered(len(sequences) + 1)
            packets[whole.number] = [whole.sent[:position], whole.sent[position:]]
            ended = one.renumbered(len(sequences) + 2).cut(position)
            packets[ended.number] = [ended.sent]
            sequences += [whole, ended]
    received = sent_by_many(
        sequences, lambda one: send(server.port, packets[one.number], end=one.what == "cut", pause=0.0005)
    )
    assert faults(server, sequences, received) == []
    assert len(sequences) > 4_000


def test_spoilt_sequences_are_answered_one_by_one_or_refused(server: Gunicorn) -> None:
    generator, rng = Generator(9), random.Random(10)
    sequences = [generator.sequence() for _ in range(SPOILT)]
    for one in sequences:
        for _ in range(rng.choice((1, 2, 3))):
            position = rng.randrange(min(len(one.sent), 300))
            one.sent = one.sent[:position] + rng.choice(SPOILING) + one.sent[position + rng.choice((0, 1, 3)) :]
    received = sent_by_many(sequences, lambda one: send(server.port, [one.sent], end=True))
    seen, stray = seen_by_app(server)
    assert sum(answer.count(b"X-App: ") for answer in received) == sum(map(len, seen.values())) + len(stray)
    for answer in received:
        assert set(re.findall(rb"HTTP/1.1 (\d{3}) ", answer)) <= {
            b"100",
            b"200",
            b"400",
            b"414",
            b"417",
            b"431",
            b"501",
            b"505",
        }
        assert answer.count(b"Connection: close\r\n") <= 1
    assert b"Traceback" not in server.output.read_bytes()


def test_through_nginx_the_app_sees_what_usual_clients_send(server: Gunicorn, tmp_path: Path) -> None:
    generator, rng = Generator(5, usual=True), random.Random(6)
    sequences = [generator.sequence() for _ in range(THROUGH_NGINX)]
    with nginx(tmp_path, server.port) as port:
        received = sent_by_many(sequences, lambda one: send(port, in_packets(one.sent, rng)))
    assert faults(server, sequences, received) == []


def test_through_nginx_the_app_sees_nothing_that_nginx_does_not_send(server: Gunicorn, tmp_path: Path) -> None:
    # nginx reads some ambiguous requests, each in one way; the app has to see what nginx has read, request by request.
    generator, rng = Generator(7), random.Random(8)
    sequences = [generator.sequence() for _ in range(THROUGH_NGINX)]
    # nginx answers HTTP/0.9 without the header by which responses are counted here.
    sequences = [one for one in sequences if "GET %s" not in one.what]
    with nginx(tmp_path, server.port) as port:
        received = sent_by_many(sequences, lambda one: send(port, in_packets(one.sent, rng)))
    seen, stray = seen_by_app(server)
    answered = [path for answer in received for path in re.findall(rb"X-App: (.*)\r", answer)]
    assert len(answered) == sum(map(len, seen.values())) + len(stray)
    for sequence, answer in zip(sequences, received, strict=True):
        records = seen.get(sequence.number, [])
        of_it = re.findall(rb"X-App: \w+ ?/\w+/%06d/(\d+)\r" % sequence.number, answer)
        assert [number for number, _ in records] == list(map(int, of_it))
        assert [one for one in records if one[0] < len(sequence.expected)] == sequence.expected[: len(records)]
        assert b"<html>" not in answer


def test_nginx_refuses_by_problem_documents(server: Gunicorn, tmp_path: Path) -> None:
    refused = {
        b"POST /\x00 HTTP/1.1\r\n\r\n": 400,
        b"GET / HTTP/1.1\r\n\r\n": 400,
        b"GET /signalbox-problem HTTP/1.1\r\nHost: x\r\n\r\n": 404,
        b"TRACE / HTTP/1.1\r\nHost: x\r\n\r\n": 405,
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n": 413,
        b"GET /%s HTTP/1.1\r\n\r\n" % (b"x" * 40_000): 414,
        b"GET / HTTP/1.1\r\nX: %s\r\n\r\n" % (b"y" * 40_000): 431,
        b"GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: x\r\n\r\n": 501,
        b"GET / HTTP/2.0\r\n\r\n": 505,
    }
    with nginx(tmp_path, server.port) as port:
        answers = {status: send(port, [sent]) for sent, status in refused.items()}
        server.program.terminate()
        server.program.wait(30)
        answers[503] = send(port, [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"])
    assert b"\r\nRetry-After: 5\r\n" in answers[503]
    for status, answer in answers.items():
        head, _, body = answer.partition(b"\r\n\r\n")
        assert f"HTTP/1.1 {status} ".encode() in head
        assert b"\r\nContent-Type: application/problem+json" in head
        assert re.search(rb"\r\nX-Request-Id: [0-9a-f]{32}", head)
        assert json.loads(body)["status"] == status


def test_nginx_has_the_problem_types_of_the_app() -> None:
    text = (ROOT / "deploy/nginx.conf").read_text("utf-8")
    types = re.findall(r"""^ +(default|\d{3}) '("urn:.*)';$""", text, re.MULTILINE)
    details = re.findall(r"""^ +(default|\d{3}) "[A-Z].*\.";$""", text, re.MULTILINE)
    assert [status for status, _ in types] == details
    assert len(types) > 10
    for status, members in types:
        problem = json.loads(f'{{"type": {members}}}')
        kinds = [
            (kind.urn, kind.title)
            for kind in ProblemType
            if kind.status == (400 if status == "default" else int(status))
        ]
        assert (problem["type"], problem["title"]) in kinds
