"""The short way of plain requests gives what gunicorn gives: the same environ, the same answers, the same refusals."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from gunicorn.config import Config
from gunicorn.glogging import Logger
from gunicorn.http.message import Request
from gunicorn.http.unreader import IterUnreader
from gunicorn.http.wsgi import Response, create
from hypothesis import given, settings
from hypothesis import strategies as st

from app.api.server.plain_requests import Pieces, PlainRequest, PlainRequests, PlainResponse, may_be_short

ROOT = Path(__file__).resolve().parents[3]
PLAIN = (
    b"POST /api/v1/cvf-events HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 5\r\n\r\nhello"
)
HOST = b"Host: x\r\n"

# What is plain goes the short way.
TAKEN = [
    PLAIN,
    PLAIN + PLAIN,
    PLAIN[:-2],
    PLAIN.replace(b"Host: x\r\n", b"Host: x\r\n\r\n"),
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /a//b/%s HTTP/1.1\r\nHost: x\r\n\r\n" % (b"x" * 900),
    b"GET /1.0/tenants/a-b_c~d/stream?ticket=a%2Fb&last_event_id= HTTP/1.1\r\nHost: [::1]:80\r\n\r\n",
    b"GET /? HTTP/1.1\r\nHost: x\r\n\r\n",
    b"HEAD /x HTTP/1.1\r\nhost: x\r\nCONNECTION: keep-alive\r\nX-A: b: c\r\n\r\n",
    b'DELETE /x HTTP/1.1\r\nHost: x\r\ncontent-length: 007\r\nX-1!#$%&\'*+.^`|~: "<>"\r\n\r\nbody777GET ',
    b"GET / HTTP/1.1\r\n" + b"".join(b"X-%d: 1\r\n" % n for n in range(64)) + b"\r\n",
    b"GET / HTTP/1.1\r\nX: %s\r\n\r\n" % (b"x" * 4073),
]
# These are gunicorn's.
LEFT = [
    b"",
    b"\r\n",
    b"\r\n\r\n",
    b"\r\n" + PLAIN,
    PLAIN[:40],
    PLAIN.replace(b"\r\n", b"\n"),
    PLAIN.replace(b"\r\n", b"\n", 1),
    PLAIN.replace(b"Host: x\r\n", b"Host: x\n"),
    PLAIN.replace(b"Host: x\r\n", b"Host: x\r"),
    PLAIN.replace(b"Host: x\r\n", b"Host: x\r\r\n"),
    PLAIN.replace(b"POST", b"post"),
    PLAIN.replace(b"POST", b"BREW"),
    PLAIN.replace(b"POST", b"CONNECT"),
    PLAIN.replace(b"POST ", b"POST  "),
    PLAIN.replace(b" HTTP/1.1", b"  HTTP/1.1"),
    PLAIN.replace(b"HTTP/1.1", b"HTTP/1.0"),
    PLAIN.replace(b"HTTP/1.1", b"HTTP/2.0"),
    PLAIN.replace(b"HTTP/1.1", b"http/1.1"),
    PLAIN.replace(b"/api", b"//api"),
    b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
    PLAIN.replace(b"/api", b"http://x/api"),
    PLAIN.replace(b"/api", b"x:80"),
    PLAIN.replace(b"/api", b"/api%00"),
    PLAIN.replace(b"/api", b"/a%20pi"),
    PLAIN.replace(b"/api", b"/api#x"),
    PLAIN.replace(b"/api", b"/api?a?b"),
    PLAIN.replace(b"/api", b"/api;x"),
    PLAIN.replace(b"/api", b"/a\xe4pi"),
    PLAIN.replace(b"/api", b"/a\x00pi"),
    PLAIN.replace(b"/api", b"/a\tpi"),
    PLAIN.replace(b"Content-Length: 5", b"Content-Length: 5\r\nContent-Length: 5"),
    PLAIN.replace(b"Content-Length: 5", b"Content-Length: 5\r\ncontent-length: 6"),
    PLAIN.replace(b"Content-Length: 5", b"Content-Length: +5"),
    PLAIN.replace(b"Content-Length: 5", b"Content-Length: -5"),
    PLAIN.replace(b"Content-Length: 5", b"Content-Length: 5,5"),
    PLAIN.replace(b"Content-Length: 5", b"Content-Length: 5 "),
    PLAIN.replace(b"Content-Length: 5", b"Content-Length:5"),
    PLAIN.replace(b"Content-Length: 5", b"Content-Length : 5"),
    PLAIN.replace(b"Content-Length: 5", b"Content-Length: 0x5"),
    PLAIN.replace(b"Content-Length: 5", b"Content-Length: \xb2"),
    PLAIN.replace(b"Content-Length: 5", b"Content-Length: "),
    PLAIN.replace(b"Content-Length: 5", b"Content_Length: 5"),
    PLAIN.replace(b"Content-Length: 5", b"Content-Length: 9999999"),
    PLAIN.replace(b"Content-Length: 5", b"Transfer-Encoding: chunked").replace(b"hello", b"5\r\nhello\r\n0\r\n\r\n"),
    PLAIN.replace(b"Content-Length: 5", b"Content-Length: 5\r\nTransfer-Encoding: chunked"),
    PLAIN.replace(b"Content-Length: 5", b"Content-Length: 5\r\nTRANSFER-encoding: identity"),
    PLAIN.replace(b"Content-Length: 5", b"Content-Length: 5\r\nTransfer-Encoding : chunked"),
    PLAIN.replace(b"Content-Length: 5", b"Content-Length: 5\r\nTransfer_Encoding: chunked"),
    PLAIN.replace(b"Host: x", b"Host: x\r\nHost: y"),
    PLAIN.replace(b"Host: x", b"Host: x\r\nX: 1\r\nx: 2"),
    PLAIN.replace(b"Host: x", b"Content-Type: x"),
    PLAIN.replace(b"Host: x", b"Host : x"),
    PLAIN.replace(b"Host: x", b"Host:x"),
    PLAIN.replace(b"Host: x", b"Host:\tx"),
    PLAIN.replace(b"Host: x", b"Host:  x"),
    PLAIN.replace(b"Host: x", b"Host: x "),
    PLAIN.replace(b"Host: x", b"Host: x\t"),
    PLAIN.replace(b"Host: x", b"Host: "),
    PLAIN.replace(b"Host: x", b"Host:"),
    PLAIN.replace(b"Host: x", b"Host"),
    PLAIN.replace(b"Host: x", b": x"),
    PLAIN.replace(b"Host: x", b" Host: x"),
    PLAIN.replace(b"Host: x", b"Host: x\r\n y"),
    PLAIN.replace(b"Host: x", b"Host: a\tb"),
    PLAIN.replace(b"Host: x", b"Host: a\x00b"),
    PLAIN.replace(b"Host: x", b"Host: a\x7fb"),
    PLAIN.replace(b"Host: x", b"Host: \xe4"),
    PLAIN.replace(b"Host: x", b"H\xf6st: x"),
    PLAIN.replace(b"Host: x", b"H(st: x"),
    PLAIN.replace(b"Host: x", b"X_A: x"),
    PLAIN.replace(b"Host: x", b"Script_Name: /api"),
    PLAIN.replace(b"Host: x", b"Connection: close"),
    PLAIN.replace(b"Host: x", b"Connection: keep-alive, close"),
    PLAIN.replace(b"Host: x", b"Connection: Upgrade\r\nUpgrade: h2c"),
    PLAIN.replace(b"Host: x", b"Expect: 100-continue"),
    PLAIN.replace(b"Host: x", b"expect: something"),
    PLAIN.replace(b"Host: x", b"TE: trailers"),
    PLAIN.replace(b"Host: x", b"Trailer: x"),
    b"GET / HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\n" + b"".join(b"X-%d: 1\r\n" % n for n in range(65)) + b"\r\n",
    b"GET / HTTP/1.1\r\nX: %s\r\n\r\n" % (b"x" * 4074),
    b"GET /%s HTTP/1.1\r\nHost: x\r\n\r\n" % (b"x" * 4081),
    b"GET /%s HTTP/1.1\r\nHost: x\r\n\r\n" % (b"x" * 4080),
    b"GET / HTTP/1.1\r\nX: %s\r\n\r\n" % (b"x" * 8185),
    b"GET / HTTP/1.1\r\nX: %s\r\n\r\n" % (b"x" * 8186),
]
_BITS = [
    *(
        b"GET",
        b"POST",
        b"CONNECT",
        b" ",
        b"/",
        b"a",
        b"?",
        b"%00",
        b"HTTP/1.1",
        b"HTTP/1.0",
        b"\r\n",
        b"\n",
        b"\r",
        b":",
        b": ",
    ),
    *(
        b"\t",
        b"_",
        b"-",
        b"Host",
        b"host",
        b"Content-Length",
        b"content-length",
        b"Content-Type",
        b"Transfer-Encoding",
        b"chunked",
    ),
    *(
        b"Connection",
        b"keep-alive",
        b"close",
        b"0",
        b"5",
        b",",
        b"\x00",
        b"\xe4",
        b"\xdf",
        b"\x85",
        b"\x7f",
        b"X",
        b"hello",
    ),
]
# Most of it plain, so that a good part of what is made of it is taken.
_PLAIN_NAMES = [
    b"Host",
    b"X-A",
    b"x-b",
    b"Content-Type",
    b"Accept",
    b"X-Forwarded-Proto",
    b"Content",
    b"Length",
    b"X-Fb-Account-Id",
]
_NAMES = st.sampled_from(
    [
        *_PLAIN_NAMES * 4,
        b"host",
        b"X_A",
        b"Content-Length",
        b"CONTENT-LENGTH",
        b"Connection",
        b"Expect",
        b"Transfer-Encoding",
        b"X\xdf",
    ]
)
_VALUES = st.sampled_from(
    [b"x", b"5", b"05", b"a: b", b"a, b"] * 4 + [b"keep-alive", b"close", b"", b"\xe4", b"\x0b", b"chunked"]
)
_COLONS = st.sampled_from([b": "] * 40 + [b":", b" : ", b":\t", b":  "])
_ENDS = st.sampled_from([b"\r\n"] * 40 + [b"\n", b" \r\n", b"\r\n ", b"\r\r\n"])
_LINES = st.lists(st.tuples(_NAMES, _COLONS, _VALUES, _ENDS).map(b"".join), max_size=6).map(b"".join)
_LENGTHS = st.sampled_from([b"", b"Content-Length: 5\r\n", b"content-length: 05\r\n", b"Connection: keep-alive\r\n"])
_PATH = st.lists(st.sampled_from([b"/", b"a", b"b-_.~", b"?", b"a=%41", b"&", b"1", b"#", b";", b":"]), max_size=4).map(
    b"".join
)
_FIRST = st.tuples(
    st.sampled_from([b"GET ", b"POST "] * 5 + [b"HEAD ", b"OPTIONS ", b"get ", b"GET  "]),
    st.sampled_from([b"/a"] * 5 + [b"/", b"a"]),
    _PATH,
    st.sampled_from([b" HTTP/1.1\r\n"] * 10 + [b" HTTP/1.0\r\n", b" HTTP/1.1\n"]),
).map(b"".join)
_REST = st.sampled_from([b"\r\n", b"\r\nhello", b"\r\nhel", b"\r\nhello" + PLAIN, b"", b"\n"])
REQUESTS = st.tuples(_FIRST, _LINES, _LENGTHS, _REST).map(b"".join)


@st.composite
def spoilt(draw: st.DrawFn) -> bytes:
    """A plain request in which a few places were overwritten, filled or cut."""
    data = draw(st.sampled_from(TAKEN))
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, min(len(data), 150)))
        data = data[:place] + draw(st.sampled_from([*_BITS, b""])) + data[place + draw(st.integers(0, 3)) :]
    return data


ANYTHING = spoilt() | REQUESTS | st.lists(st.sampled_from(_BITS), max_size=40).map(b"".join)


def config() -> Config:
    """The settings that bear on reading, as deploy/gunicorn.conf.py has them."""
    cfg = Config()
    for name, value in {
        "limit_request_line": 4094, "limit_request_fields": 64, "limit_request_field_size": 8190, "http_parser": "python",
        "forwarded_allow_ips": "*", "secure_scheme_headers": {}, "forwarder_headers": "",
    }.items():  # fmt: skip
        cfg.set(name, value)
    return cfg


CFG = config()
LISTENER, CLIENT = ("127.0.0.1", 8000), ("10.0.0.9", 4711)
READER = PlainRequests(CFG)
# These are objects of their own in each environ.
_OWN = ("wsgi.input", "wsgi.errors", "wsgi.early_hints")


def by_gunicorn(
    data: bytes, listener: Any = LISTENER, client: Any = CLIENT
) -> tuple[dict[str, Any], bytes, bytes, bool]:
    """The environ, the body, what comes behind it, and whether the connection ends."""
    request = Request(CFG, IterUnreader([data]), client)
    environ = create(request, "socket", client, listener, CFG)[1]
    environ["wsgi.multithread"] = True
    body = request.body.read()
    return (
        {k: v for k, v in environ.items() if k not in _OWN},
        body,
        request.unreader.take_buffered(),
        request.should_close(),
    )


def by_the_short_way(
    data: bytes, listener: Any = LISTENER, client: Any = CLIENT
) -> tuple[dict[str, Any], bytes, bytes, bool] | None:
    """The same, where it is taken."""
    template = READER.environ_of("socket", listener, client)
    assert template is not None
    before = dict(template)
    read = READER.read(data, template)
    assert template == before
    if read is None:
        return None
    environ, head = read
    end = head + int(environ.get("CONTENT_LENGTH", 0))
    return ({k: v for k, v in environ.items() if k not in _OWN}, data[head:end], data[end:], False)


@pytest.mark.parametrize("data", TAKEN)
@pytest.mark.parametrize(
    ("listener", "client"), [(LISTENER, CLIENT), (("::1", 80, 0, 0), ("::2", 5, 0, 0)), ("/run/x.sock", "")]
)
def test_what_is_plain_is_read_as_gunicorn_reads_it(data: bytes, listener: Any, client: Any) -> None:
    taken = by_the_short_way(data, listener, client)
    assert taken is not None
    assert taken == by_gunicorn(data, listener, client)


@pytest.mark.parametrize("data", LEFT)
def test_what_is_not_plain_is_left_to_gunicorn(data: bytes) -> None:
    assert by_the_short_way(data) is None


@given(ANYTHING)
@settings(max_examples=1500, deadline=None)
def test_whatever_is_taken_gunicorn_takes_alike(data: bytes) -> None:
    taken = by_the_short_way(data)
    if taken is not None:
        assert taken == by_gunicorn(data)


@pytest.mark.parametrize(
    ("listener", "client"), [("/run/a:b.sock", ""), ("/run/x.sock", "/run/client"), (b"\0abstract", "")]
)
def test_strange_addresses_are_left_to_gunicorn(listener: Any, client: Any) -> None:
    assert READER.environ_of("socket", listener, client) is None


def test_limits_are_those_of_the_settings() -> None:
    cfg = config()
    cfg.set("limit_request_fields", 2)
    cfg.set("limit_request_field_size", 60)
    reader = PlainRequests(cfg)
    template = reader.environ_of("socket", LISTENER, CLIENT)
    assert template is not None
    assert reader.read(b"GET / HTTP/1.1\r\nA: 1\r\nB: 2\r\n\r\n", template)
    assert not reader.read(b"GET / HTTP/1.1\r\nA: 1\r\nB: 2\r\nC: 3\r\n\r\n", template)
    assert not reader.read(b"GET / HTTP/1.1\r\nA: %s\r\n\r\n" % (b"1" * 60), template)


_STATUSES = st.sampled_from(
    ["200 OK", "404 Not Found", "204 No", "304 No", "100 Go", "200", "200 ", "2000 OK", "200 \xe4", "200 O\tK"]
)
_SPLITTING = st.sampled_from(["200 OK\r\nX: 1", "200 OK\nX: 1", "200 OK\r\n\r\n", "200 OK\r\nContent-Length: 2"])
_WORDS = st.sampled_from(
    [
        *(
            "Content-Length",
            "content-length",
            "X-A",
            "X_A",
            "Connection",
            "close",
            "upgrade",
            "Server",
            "TE",
            "5",
            "2",
            "",
            " ",
            "a b",
        ),
        *(
            "a ",
            "\t",
            "\r\n",
            "\n",
            "\r",
            "X: 1\r\nY",
            "1\r\nX: 2",
            "1\r\n\r\nHTTP/1.1 200 OK",
            "\x00",
            "\xe4",
            "\u2028",
            ":",
            "x:",
        ),
    ]
)
_HEADERS = st.lists(st.tuples(_WORDS, _WORDS), max_size=4).flatmap(
    lambda some: st.permutations([*some, ("Content-Length", "2")]) | st.just(some)
)


def answered(response: Response, status: Any, headers: Any) -> bytes | type[BaseException]:
    """What is sent, or what is raised."""
    try:
        response.start_response(status, headers)(b"{}")
        response.close()
    except Exception as wrong:
        return type(wrong)
    return re.sub(rb"\r\nDate: [^\r]*", b"", b"".join(response.sock))


@given(st.sampled_from(["GET", "HEAD"]), st.sampled_from(["200 OK"]) | _STATUSES | _SPLITTING, _HEADERS, st.booleans())
@settings(max_examples=1000, deadline=None)
def test_whatever_an_app_says_is_answered_as_gunicorn_answers_it(
    method: str, status: str, headers: list[tuple[str, str]], last: bool
) -> None:
    request = PlainRequest(method)
    if last:
        request.force_close()
    expected = answered(Response(request, Pieces(), CFG), status, headers)
    assert answered(PlainResponse(request, Pieces(), CFG), status, headers) == expected


def test_headers_that_are_no_text_are_refused() -> None:
    for headers in ([("X", 1)], [(b"X", "1")], [("Content-Length", 2)]):
        assert answered(PlainResponse(PlainRequest("GET"), Pieces(), CFG), "200 OK", headers) is TypeError


class OwnLogger(Logger):
    """One that is told of each request."""

    def access(self, resp: Any, req: Any, environ: Any, request_time: Any) -> None:
        """Nothing."""


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("keepalive", 0),
        ("proxy_protocol", "auto"),
        ("certfile", __file__),
        ("http2_cleartext", "upgrade"),
        ("secure_scheme_headers", {"X-FORWARDED-PROTO": "https"}),
        ("pre_request", lambda worker, req: None),
        ("post_request", lambda worker, req, environ, resp: None),
        ("accesslog", "-"),
        ("errorlog", "/dev/null"),
        ("loglevel", "debug"),
    ],
)
def test_settings_by_which_gunicorn_has_more_to_do_end_the_short_way(name: str, value: Any) -> None:
    cfg = config()
    log = Logger(cfg)
    assert may_be_short(cfg, log)
    cfg.set(name, value)
    assert not may_be_short(cfg, Logger(cfg) if name == "accesslog" else log)


def test_loggers_and_prefixes_end_the_short_way(monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = config()
    assert not may_be_short(cfg, OwnLogger(cfg))
    monkeypatch.setenv("SCRIPT_NAME", "/api")
    assert not may_be_short(cfg, Logger(cfg))


# The whole way, in real servers: one as it is deployed, one that has a hook for each request and so no short way.
APP = """
import json

def app(environ, start_response):
    path, body = environ["PATH_INFO"], b""
    if path != "/unread":
        try:
            body = environ["wsgi.input"].read()
        except OSError as wrong:
            body = type(wrong).__name__.encode()
    told = {k: v for k, v in environ.items() if type(v) in (str, bool) and k not in ("REMOTE_PORT", "SERVER_PORT")}
    told = json.dumps([told, body.decode("latin-1"), len(environ["wsgi.input"].read()), path], sort_keys=True).encode()
    length = [("Content-Length", str(len(told)))]
    match path:
        case "/fails":
            raise RuntimeError
        case "/oserror":
            raise ConnectionResetError(104, "reset")
        case "/stops":
            raise StopIteration
        case "/split":
            start_response("200 OK", [("X-A", "1\\r\\nX-B: 2"), *length])
        case "/split-name":
            start_response("200 OK", [("X-A: 1\\r\\nX-B", "2"), *length])
        case "/split-status":
            start_response("200 OK\\r\\nX-B: 2", length)
        case "/lf":
            start_response("200 OK", [("X-A", "1\\nX-B: 2"), *length])
        case "/number":
            start_response("200 OK", [("X-A", 1), *length])
        case "/spaces":
            start_response("200 OK", [("X-A", " 1\\t"), ("X-C", ""), *length])
        case "/latin":
            start_response("200 \\xe4", [("X-A", "\\xe4"), *length])
        case "/hops":
            start_response("200 OK", [("Connection", "close"), ("Server", "me"), ("date", "x"), *length])
        case "/none":
            start_response("204 No Content", length)
            return [b"x"]
        case "/unchanged":
            start_response("304 Not Modified", length)
            return []
        case "/unknown":
            start_response("200", length)
        case "/none-at-all":
            return [told]
        case "/chunked":
            start_response("200 OK", [("X-A", "1")])
            return (part for part in (told[:5], b"", told[5:]))
        case "/long":
            start_response("200 OK", [("content-length", "5")])
        case "/short":
            start_response("200 OK", [("Content-Length", "5"), ("X-A", "1")])
        case "/less":
            start_response("200 OK", length)
            return [told[:5]]
        case "/two-lengths":
            start_response("200 OK", [("Content-Length", "5"), *length])
        case "/written":
            start_response("200 OK", length)(told[:10])
            return [told[10:]]
        case "/large":
            told *= 10_000
            start_response("200 OK", [("Content-Length", str(len(told)))])
        case "/twice":
            start_response("200 OK", length)
            start_response("500 No", length)
        case "/again":
            start_response("200 OK", [("X-A", "1"), *length])
            try:
                raise ValueError
            except ValueError:
                import sys
                start_response("500 No", [("Content-Length", "2")], sys.exc_info())
            return [b"no"]
        case "/text":
            start_response("200 OK", length)
            return ["text"]
        case "/fails-late":
            start_response("200 OK", length)
            return (part or 1 / 0 for part in (told[:5], b""))
        case _:
            start_response("200 OK", length)
    return [told]
"""
PATHS = sorted(set(re.findall(r'case "(/[a-z-]+)"', APP)) - {"/fails-late", "/text", "/again"})


class Server:
    """A gunicorn with this app."""

    def __init__(self, folder: Path, more: str) -> None:
        (folder / "told.py").write_text(APP)
        (folder / "conf.py").write_text((ROOT / "deploy/gunicorn.conf.py").read_text("utf-8") + more)
        with closing(socket.socket()) as trial:
            trial.bind(("127.0.0.1", 0))
            self.port = int(trial.getsockname()[1])
        self.output = folder / "output"
        with self.output.open("wb") as output:
            self.program = subprocess.Popen(
                [sys.executable, "-m", "gunicorn", "-c", "conf.py", "told:app"],
                cwd=folder,
                env={**os.environ, "PYTHONPATH": str(ROOT), "PORT": str(self.port)},
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        deadline = time.monotonic() + 20
        while b"200 OK" not in self.tell(PLAIN):
            assert self.program.poll() is None and time.monotonic() < deadline, self.output.read_text()
            time.sleep(0.05)

    def tell(self, *packets: bytes) -> bytes:
        """All that it answers to these packets, without what differs each time."""
        answer = b""
        try:
            with closing(socket.create_connection(("127.0.0.1", self.port), timeout=20)) as connection:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                for n, packet in enumerate(packets):
                    time.sleep(0.002 if n else 0)
                    connection.sendall(packet)
                connection.shutdown(socket.SHUT_WR)
                while part := connection.recv(65536):
                    answer += part
        except (ConnectionRefusedError, ConnectionResetError, BrokenPipeError):
            return answer
        return re.sub(rb"\r\n(Date|X-Request-Id): [^\r]*", b"", answer)

    def end(self) -> None:
        self.program.terminate()
        self.program.wait(30)


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("deployed"), "")
    yield server
    server.end()


@pytest.fixture(scope="module")
def careful(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("careful"), "\ndef post_request(worker, req, environ, resp):\n    pass\n")
    yield server
    server.end()


def test_the_two_servers_differ_in_the_way(deployed: Server, careful: Server) -> None:
    # Nothing of a whole answer is sent before its end, so that one which fails half-way can still be a problem document.
    cut = PLAIN.replace(b"/api/v1/cvf-events", b"/fails-late")
    assert b'"Internal error"' in deployed.tell(cut)
    assert careful.tell(cut) == b""


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"POST"])
def test_answers_are_those_of_gunicorn(deployed: Server, careful: Server, method: bytes) -> None:
    for path in PATHS:
        request = b"%s %s HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc" % (method, path.encode())
        sent = request + PLAIN
        assert deployed.tell(sent) == careful.tell(sent), path
        assert b"\r\nX-B: 2" not in deployed.tell(sent)


@pytest.mark.parametrize("data", [data for data in TAKEN + LEFT if data])
def test_a_connection_is_answered_as_gunicorn_answers_it(deployed: Server, careful: Server, data: bytes) -> None:
    for sent in (data, data + PLAIN, PLAIN + data, data[: len(data) // 2]):
        assert deployed.tell(sent) == careful.tell(sent)


def test_requests_may_be_split_anywhere(deployed: Server, careful: Server) -> None:
    chunked = PLAIN.replace(b"Content-Length: 5", b"Transfer-Encoding: chunked").replace(
        b"hello", b"5\r\nhello\r\n0\r\n\r\n"
    )
    unread = PLAIN.replace(b"/api/v1/cvf-events", b"/unread")
    sent = PLAIN + chunked + unread + PLAIN
    expected = careful.tell(sent)
    assert expected.count(b"HTTP/1.1 200 OK") == 4
    assert deployed.tell(sent) == expected
    for place in range(1, len(sent), 7):
        assert deployed.tell(sent[:place], sent[place:]) == expected, place


@pytest.mark.parametrize("path", [b"/", b"/unread", b"/fails"])
def test_what_looks_like_a_request_in_a_body_is_none(deployed: Server, careful: Server, path: bytes) -> None:
    inside = PLAIN + PLAIN.replace(b"/api/v1/cvf-events", b"/nowhere")
    head = b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (path, 3 + len(inside))
    chunked = b"POST %s HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n" % (path, len(inside))
    for packets in ((head + b"abc", inside), (head, b"abc", inside), (head, b"abc", inside[:90], inside[90:])):
        answers = deployed.tell(*packets, PLAIN)
        assert answers == careful.tell(*packets, PLAIN), packets
        assert answers.count(b"HTTP/1.1 ") == (1 if path == b"/fails" else 2)
    answers = deployed.tell(chunked, inside, b"\r\n0\r\n\r\n", PLAIN)
    assert answers == careful.tell(chunked, inside, b"\r\n0\r\n\r\n", PLAIN)
    assert answers.count(b"HTTP/1.1 ") == (1 if path == b"/fails" else 2)


@pytest.mark.parametrize("size", [8_100, 20_000, 999_999, 1_000_000])
@pytest.mark.parametrize("path", [b"/", b"/unread", b"/fails"])
def test_bodies_may_be_large(deployed: Server, careful: Server, size: int, path: bytes) -> None:
    request = b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (path, size)
    body = b"0123456789" * (size // 10 + 1)
    sent = request + body[:size] + PLAIN
    assert deployed.tell(sent) == careful.tell(sent)
    assert deployed.tell(request, body[:size], PLAIN) == careful.tell(sent)


@given(st.lists(ANYTHING, min_size=1, max_size=3), st.lists(st.integers(1, 600), max_size=3))
@settings(max_examples=120, deadline=None)
def test_whatever_comes_is_answered_as_gunicorn_answers_it(
    deployed: Server, careful: Server, parts: list[bytes], places: list[int]
) -> None:
    sent = b"".join(parts)
    cuts = sorted({0, *(min(place, len(sent)) for place in places), len(sent)})
    packets = [sent[one:other] for one, other in pairwise(cuts)]
    assert deployed.tell(*packets) == careful.tell(*packets)


@pytest.mark.parametrize("path", [b"/fails-late", b"/text"])
def test_an_app_that_fails_after_it_began_is_a_problem_document(deployed: Server, path: bytes) -> None:
    answer = deployed.tell(PLAIN.replace(b"/api/v1/cvf-events", path))
    assert answer.startswith(b"HTTP/1.1 500 Internal error\r\nContent-Type: application/problem+json\r\n")
    assert b"Connection: close\r\n" in answer


def test_an_app_may_think_again_before_anything_is_sent(deployed: Server) -> None:
    answer = deployed.tell(PLAIN.replace(b"/api/v1/cvf-events", b"/again"))
    assert answer.startswith(b"HTTP/1.1 500 No\r\n")
    assert answer.count(b"Content-Length: ") == 1
    assert b"X-A" not in answer


def test_a_process_that_has_served_its_requests_ends_after_the_answer(tmp_path: Path) -> None:
    server = Server(tmp_path, "\nmax_requests = 4\nmax_requests_jitter = 0\n")
    try:
        answers = server.tell(PLAIN * 6)
        assert 1 <= answers.count(b"HTTP/1.1 200 OK") <= 3
        assert answers.count(b"Connection: close") == 1
        assert server.tell(PLAIN).count(b"HTTP/1.1 200 OK") == 1
    finally:
        server.end()
