"""The short way of a plain request past gunicorn's parser: it takes only what is beyond doubt.

Comes in: the first bytes of a request. Goes out: the WSGI environ that gunicorn would have made of it, and an answer whose
head is checked in one piece; or None, for all that gunicorn itself has to read or refuse. No refusal comes from here.
"""

from __future__ import annotations

import os
import re
from typing import Any

from gunicorn import config, util
from gunicorn.glogging import Logger
from gunicorn.http.message import Request
from gunicorn.http.unreader import IterUnreader
from gunicorn.http.wsgi import Response, create

# Printable ASCII without spaces at its ends, which gunicorn takes away, so that there is nothing to take away.
_VALUE = r"[!-~](?:[ -~]*[!-~])?"
# A token, but without the underscore: `a_b` and `a-b` would be one in the environ.
_NAME = r"[!#$%&'*+.^`|~0-9A-Za-z-]+"
# What says where a body ends, or what the connection is to become, is gunicorn's to judge, and so are bodies of megabytes.
_WEIGHTY = r"connection|content-length|expect|http2-settings|proxy-connection|te|trailer|transfer-encoding|upgrade"
_HEAD = re.compile(
    r"(GET|HEAD|POST|PUT|PATCH|DELETE) "
    # Not two slashes first, nothing encoded: the path is what it says.
    r"((/(?!/)[0-9A-Za-z._~/-]*)(?:\?([0-9A-Za-z._~/%=&+:,-]*))?) HTTP/1\.1\r\n"
    rf"((?:(?:(?i:content-length: [0-9]{{1,6}}|connection: keep-alive)|(?!(?i:{_WEIGHTY}):){_NAME}: {_VALUE})\r\n)+)",
    re.ASCII,
)
# The head of an answer: 204, 304 and 1xx have no body, and what gunicorn sets or leaves out itself is left to it.
_LINE = rf"(?!(?i:content-length|{'|'.join(util.hop_headers)}):){_NAME}: {_VALUE}\r\n"
_ANSWER = re.compile(
    rf"(?!204|304)[2-5][0-9]{{2}} [ -~]*\r\n(?:{_LINE})*Content-Length: ([0-9]+)\r\n(?:{_LINE})*", re.ASCII
)


def may_be_short(cfg: Any, log: Any) -> bool:
    """Whether the settings leave gunicorn nothing to do for plain requests but to read and to answer them."""
    return bool(
        cfg.keepalive > 0
        and (cfg.protocol, cfg.proxy_protocol, cfg.http2_cleartext) == ("http", "off", "off")
        and not cfg.is_ssl
        and not cfg.secure_scheme_headers
        and cfg.pre_request is config.PreRequest.default
        and cfg.post_request is config.PostRequest.default
        # Nobody is told of each request, and what the environ's `wsgi.errors` stands for stays the same.
        and type(log).access is Logger.access
        and not log.access_log_enabled
        and (cfg.errorlog, cfg.loglevel == "debug") == ("-", False)
        and not os.environ.get("SCRIPT_NAME")
    )


class _Keys(dict[str, str]):
    """The environ's keys of headers' names as they are spelt; not more of them are kept than senders have reason for."""

    def __missing__(self, name: str) -> str:
        key = name.upper().replace("-", "_")
        if key not in ("CONTENT_TYPE", "CONTENT_LENGTH"):
            key = f"HTTP_{key}"
        if len(self) < 1_000 and len(name) < 50:
            self[name] = key
        return key


class PlainRequests:
    """Reads the plain requests of a worker's connections."""

    def __init__(self, cfg: Any) -> None:
        self._cfg = cfg
        self._keys = _Keys()
        # Of a head that is no longer in all, no line is too long.
        self._longest = min(n for n in (cfg.limit_request_line, cfg.limit_request_field_size, 4094) if n > 0)
        self._most_fields = min(n for n in (cfg.limit_request_fields, 100) if n > 0)
        self._environs: dict[Any, dict[str, Any]] = {}

    def environ_of(self, connection: Any, listener_name: Any, address: Any) -> dict[str, Any] | None:
        """What is the same in the environ of each request on a connection, as gunicorn makes it; None for strange addresses."""
        over_ip = isinstance(listener_name, tuple) and isinstance(address, tuple)
        over_unix = isinstance(listener_name, str) and ":" not in listener_name and address == ""
        if not over_ip and not over_unix:
            return None
        if listener_name not in self._environs:
            sample = Request(self._cfg, IterUnreader([b"GET / HTTP/1.1\r\n\r\n"]), address)
            environ = create(sample, None, address, listener_name, self._cfg)[1]
            # It would speak for the sample.
            del environ["wsgi.early_hints"]
            self._environs[listener_name] = {**environ, "wsgi.multithread": True}
        environ = {**self._environs[listener_name], "gunicorn.socket": connection}
        if over_ip:
            environ["REMOTE_ADDR"], environ["REMOTE_PORT"] = address[0], str(address[1])
        return environ

    def read(self, data: bytes, template: dict[str, Any]) -> tuple[dict[str, Any], int] | None:
        """The environ of the plain request that `data` begins with (but for `wsgi.input`), and how long its head is."""
        end = data.find(b"\r\n\r\n") + 2
        if not 2 <= end <= self._longest or not (head := _HEAD.fullmatch(data[:end].decode("latin-1"))):
            return None
        environ = template.copy()
        environ["REQUEST_METHOD"], environ["RAW_URI"], environ["PATH_INFO"], query, fields = head.groups("")
        environ["QUERY_STRING"] = query
        lines = fields[:-2].split("\r\n")
        for line in lines:
            name, value = line.split(": ", 1)
            environ[self._keys[name]] = value
        # On a Unix socket, it is the Host that says who is asked.
        if not environ["SERVER_PORT"] and "HTTP_HOST" in environ:
            environ["SERVER_NAME"], environ["SERVER_PORT"] = [*environ["HTTP_HOST"].split(":"), "80"][:2]
        if len(environ) != len(template) + len(lines) or len(lines) > self._most_fields:
            return None
        return environ, end + 2


class PlainRequest:
    """What gunicorn's answer asks of its request."""

    version = (1, 1)

    def __init__(self, method: str) -> None:
        self.method = method
        self.body: Any = None
        self._must_close = False

    def force_close(self) -> None:
        """No other request can follow."""
        self._must_close = True

    def should_close(self) -> bool:
        """Whether no other request can follow."""
        return self._must_close


class Pieces(list[bytes]):
    """Takes the place of the socket that gunicorn's answer writes to."""

    sendall = list[bytes].append


class PlainResponse(Response):  # type: ignore[misc]
    """The answer to a plain request; where its head is not beyond doubt, gunicorn checks and writes it."""

    status: str | None
    headers_sent: bool

    def __init__(self, request: PlainRequest, pieces: Pieces, cfg: Any) -> None:
        super().__init__(request, pieces, cfg)
        self._lines: str | None = None

    def start_response(self, status: str, headers: Any, exc_info: Any = None) -> Any:
        """As WSGI has it."""
        self._lines = None
        if exc_info is None and self.status is None and type(headers) is list and self.req.method != "HEAD":
            lines = "".join([name + ": " + value + "\r\n" for name, value in headers])
            head = status + "\r\n" + lines
            # As many lines as there should be: nothing has smuggled in another.
            if (found := _ANSWER.fullmatch(head)) and head.count("\n") == 1 + len(headers):
                self.status, self.status_code = status, int(status[:3])
                self.response_length, self._lines = int(found[1]), lines
                return self.write
        return super().start_response(status, headers, exc_info)

    def send_headers(self) -> None:
        """Write the head, once."""
        if self._lines is None:
            super().send_headers()
        elif not self.headers_sent:
            connection = "close" if self.must_close or self.req.should_close() else "keep-alive"
            head = f"HTTP/1.1 {self.status}\r\nServer: {self.version}\r\nDate: {util.http_date()}\r\nConnection: {connection}\r\n"
            self.sock.append(f"{head}{self._lines}\r\n".encode("ascii"))
            self.headers_sent = True
