"""Reads events from a file and posts them unchanged and in order, one request per event, with retries."""

from __future__ import annotations

import hashlib
import http.client
import json
import random
import re
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import BinaryIO
from urllib.parse import quote, urlsplit

import msgspec

from app.core.gzip_body import BYTE_ORDER_MARK
from app.core.retry_after import parse_retry_after

PATH = "/api/v1/cvf-events"
MAX_ATTEMPTS = 8
_FIRST_PAUSE, _MAX_PAUSE = 0.5, 30.0
_MAX_RETRY_AFTER = 60.0
# A server is given up after so many attempts as long as it has never responded: its address may be wrong.
_FIRST_ATTEMPTS = 2
CONNECT_TIMEOUT = 3.0
# Until the first response it is not known whether there is a Signalbox server.
FIRST_TIMEOUT, _TIMEOUT = 10.0, 30.0
_MAX_RESPONSE = 64 * 1024
_RETRYABLE = frozenset((408, 425, 429, 500, 502, 503, 504))
# The response is not about this event: all others would get it, too.
_FATAL = frozenset((*range(300, 400), 401, 403, 404, 405))

_HINTS = {
    401: "; check --token or SIGNALBOX_TOKEN",
    403: "; the key (--token, SIGNALBOX_TOKEN) must belong to the account of --account-id and have the scope events:write",
    404: "; check that --url is the address of a Signalbox server",
}
_TOKEN = re.compile(r"[!-~]+")

STORED, REPEATED, REFUSED = "stored", "stored before", "refused"


@dataclass(frozen=True, slots=True)
class Entry:
    """One event of a file: its position (from 0), its first line (from 1) and its JSON text."""

    position: int
    line: int
    body: bytes

    def idempotency_key(self, source: str = "") -> str:
        """A hash of content, position and `source` (the file): sending a file again stores nothing twice, while equal
        events at two positions or in two files are both stored."""
        digest = hashlib.sha256(f"{source}:{self.position}:".encode("utf-8", "surrogateescape") + self.body).hexdigest()
        return f"send-{digest[:48]}"


class GaveUp(Exception):
    """No further event can be sent; the text is the reason."""


class ServerUnavailable(GaveUp):
    """The server does not respond or is busy: sending may work later."""


# Reading


def read_entries(source: BinaryIO) -> tuple[int | None, Iterator[Entry]]:
    """The number of events in a file (None when it cannot be known in advance) and the events. Raises ValueError.

    JSON lines are streamed; a single object or an array is read as a whole.
    """
    line, first = _first_line(source)
    if not first:
        raise ValueError("the file is empty")
    if first.lstrip().startswith(b"{") and _is_json(first):
        return _count(source), _by_line(line, first, source)
    text = first + source.read()
    try:
        if text.lstrip().startswith(b"["):
            parts = [bytes(part) for part in msgspec.json.decode(text, type=list[msgspec.Raw])]
        else:
            parts = [bytes(msgspec.json.decode(text, type=msgspec.Raw))]
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise ValueError(
            f"expected a JSON object, a JSON array, or one JSON object per line (from line {line}: {exc})"
        ) from None
    return len(parts), _in_text(line, text, parts)


def _first_line(source: BinaryIO) -> tuple[int, bytes]:
    """The first line that is not blank, and its number."""
    number = 0
    for number, line in enumerate(source, start=1):
        text = line.removeprefix(BYTE_ORDER_MARK) if number == 1 else line
        if text.strip():
            return number, text
    return number, b""


def _is_json(text: bytes) -> bool:
    try:
        msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False
    return True


def _count(source: BinaryIO) -> int | None:
    """The number of lines that are not blank, the first included; None for a stream that cannot be read twice."""
    if not source.seekable():
        return None
    start = source.tell()
    count = 1 + sum(1 for line in source if line.strip())
    source.seek(start)
    return count


def _by_line(number: int, first: bytes, source: BinaryIO) -> Iterator[Entry]:
    yield Entry(0, number, first.strip())
    position = 0
    for line in source:
        number += 1
        if line.strip():
            position += 1
            yield Entry(position, number, line.strip())


def _in_text(number: int, text: bytes, parts: list[bytes]) -> Iterator[Entry]:
    """The events of a text with the numbers of their lines."""
    end = 0
    for position, part in enumerate(parts):
        start = text.find(part, end)
        number += text.count(b"\n", end, start)
        yield Entry(position, number, part)
        end = start + len(part)
        number += text.count(b"\n", start, end)


# Sending


@dataclass(frozen=True, slots=True)
class Reply:
    """The server's response: status, Retry-After in seconds, and body."""

    status: int
    retry_after: float | None
    body: bytes

    def detail(self) -> str:
        """The problem detail of the response, or its status."""
        with suppress(ValueError):
            problem = json.loads(self.body)
            if isinstance(problem, dict) and (text := problem.get("detail") or problem.get("title")):
                return f"{text} ({self.status})"
        return f"status {self.status}"

    def is_repeated(self) -> bool:
        """Whether the event was stored before."""
        with suppress(ValueError):
            receipt = json.loads(self.body)
            return isinstance(receipt, dict) and receipt.get("duplicate") is True
        return False


class Sender:
    """Sends the events of one `source` to one server over one connection. Raises ValueError for an invalid `url`.

    `notify` is called with the reason before a connection is tried again.
    """

    def __init__(
        self,
        url: str,
        token: str,
        account_id: int,
        *,
        source: str = "",
        sleep: Callable[[float], None] = time.sleep,
        notify: Callable[[str], None] = lambda reason: None,
    ) -> None:
        host, port, self._path = _read_url(url)
        kind = http.client.HTTPSConnection if url.lower().startswith("https") else http.client.HTTPConnection
        self._connection = kind(host, port, timeout=CONNECT_TIMEOUT)
        self._url = url.rstrip("/")
        self._has_responded = False
        self._notify = notify
        self._headers = {
            "Content-Type": "application/json",
            "x-limechat-uat": token,
            "x-fb-account-id": str(account_id),
        }
        self._source = source
        self._sleep = sleep

    def send(self, entry: Entry) -> tuple[str, str]:
        """Post an event. Returns STORED, REPEATED or REFUSED, and the reason for the last one. Raises GaveUp."""
        for attempt in range(1, MAX_ATTEMPTS + 1):
            retry_after: float | None = None
            try:
                reply = self._post(entry)
            except (OSError, http.client.HTTPException) as exc:
                begin = "no response from" if self._connection.sock else "cannot connect to"
                reason = f"{begin} {self._url}: {getattr(exc, 'strerror', None) or str(exc) or type(exc).__name__}"
                self._connection.close()
                if attempt == (MAX_ATTEMPTS if self._has_responded else _FIRST_ATTEMPTS):
                    break
                self._notify(reason)
            else:
                self._has_responded = True
                if reply.status < 300:
                    return (REPEATED if reply.is_repeated() else STORED), ""
                if reply.status in _FATAL:
                    raise GaveUp(reply.detail() + _HINTS.get(reply.status, ""))
                if reply.status not in _RETRYABLE:
                    return REFUSED, reply.detail()
                reason, retry_after = reply.detail(), reply.retry_after
            if attempt < MAX_ATTEMPTS:
                self._sleep(pause_after(attempt, retry_after))
        raise ServerUnavailable(f"{reason}, after {attempt} attempts")

    def _post(self, entry: Entry) -> Reply:
        headers = {**self._headers, "Idempotency-Key": entry.idempotency_key(self._source)}
        if self._connection.sock is None:
            self._connection.connect()
        self._connection.sock.settimeout(_TIMEOUT if self._has_responded else FIRST_TIMEOUT)
        self._connection.request("POST", self._path, body=entry.body, headers=headers)
        response = self._connection.getresponse()
        body = response.read(_MAX_RESPONSE)
        if response.read(1):
            self._connection.close()
        return Reply(response.status, parse_retry_after(response.headers.get("Retry-After"), datetime.now(UTC)), body)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


def _read_url(url: str) -> tuple[str, int | None, str]:
    """Host, port and path to post events to. Raises ValueError."""
    error = ValueError(f"{url!r} is not a URL with http:// or https:// and a host, such as https://a.example.com")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise error from None
    if parts.scheme not in ("http", "https") or not host or not re.fullmatch(r"[^\s\x00-\x20\x7f]+", host):
        raise error
    path = quote(parts.path.rstrip("/"), safe="/%:@!$&'()*+,;=~")
    return host, port, path if path.endswith(PATH) else path + PATH


def is_token(text: str) -> bool:
    """Whether `text` can be sent in a header."""
    return _TOKEN.fullmatch(text) is not None


def pause_after(attempt: int, retry_after: float | None) -> float:
    """Seconds until the next attempt: `retry_after`, at most a minute; else exponential backoff with jitter."""
    if retry_after is not None:
        return min(retry_after, _MAX_RETRY_AFTER)
    pause: float = min(_MAX_PAUSE, _FIRST_PAUSE * 2 ** (attempt - 1))
    return pause * random.uniform(0.5, 1.0)
