"""Sending events over HTTP from a file: what is in the file goes out as it is, one request an event, in order.

Comes in: bytes that are one JSON object, a JSON array, or one JSON object a line. Goes out: for each event whether it was
stored, had been stored before, or was refused and why. What is not the event's fault is tried again for a while.
"""

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

from app.core.retry_after import parse_retry_after

PATH = "/api/v1/cvf-events"
MOST_TRIES = 8
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0
_LONGEST_WISH = 60.0
_TIMEOUT = 30.0
_LARGEST_ANSWER = 64 * 1024
_PASSING = frozenset((408, 425, 429, 500, 502, 503, 504))
# Not about this event: the next one would be answered the same.
_HOPELESS = frozenset((*range(300, 400), 401, 403, 404, 405))

_HINTS = {
    401: "; the key is what --token or SIGNALBOX_TOKEN says",
    403: "; the key (--token, SIGNALBOX_TOKEN) has to be one of the account that --account-id names, and may have to be "
    "given the right to send",
    404: "; is --url the address of a Signalbox?",
}
_TOKEN = re.compile(r"[!-~]+")

STORED, REPEATED, REFUSED = "stored", "stored before", "refused"


@dataclass(frozen=True, slots=True)
class Entry:
    """One event of a file: its position (from 0), the line on which it begins (from 1), and its text."""

    position: int
    line: int
    body: bytes

    def idempotency_key(self, source: str = "") -> str:
        """Made of content, position and `source` (which file it is), so that the same file sent again stores nothing
        twice, while an event that stands in a file twice, or in two files, is stored twice."""
        digest = hashlib.sha256(f"{source}:{self.position}:".encode("utf-8", "surrogateescape") + self.body).hexdigest()
        return f"send-{digest[:48]}"


class GaveUp(Exception):
    """Nothing more can be sent; the text says why."""


# Reading


def read_entries(source: BinaryIO) -> tuple[int | None, Iterator[Entry]]:
    """The events of a file, and how many they are where that can be told beforehand. Raises ValueError.

    Lines are read one by one; what is one object or an array is read as a whole.
    """
    line, first = _first_line(source)
    if not first:
        raise ValueError("there is nothing in it")
    if first.lstrip().startswith(b"{") and _is_json(first):
        return _count(source), _by_line(line, first, source)
    text = first + source.read()
    try:
        if text.lstrip().startswith(b"["):
            parts = [bytes(part) for part in msgspec.json.decode(text, type=list[msgspec.Raw])]
        else:
            parts = [bytes(msgspec.json.decode(text, type=msgspec.Raw))]
    except (msgspec.DecodeError, UnicodeDecodeError) as wrong:
        raise ValueError(
            f"it is neither a JSON object, nor a JSON array, nor one JSON object a line (from line {line} on: {wrong})"
        ) from None
    return len(parts), _in_text(line, text, parts)


def _first_line(source: BinaryIO) -> tuple[int, bytes]:
    """The first line with something on it, and its number."""
    number = 0
    for number, line in enumerate(source, start=1):
        text = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
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
    """How many lines with something on them there are, with the first; None where one cannot look twice."""
    if not source.seekable():
        return None
    here = source.tell()
    count = 1 + sum(1 for line in source if line.strip())
    source.seek(here)
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
    """The parts of a text with the numbers of their lines."""
    place = 0
    for position, part in enumerate(parts):
        found = text.find(part, place)
        number += text.count(b"\n", place, found)
        yield Entry(position, number, part)
        place = found
        number += text.count(b"\n", place, place + len(part))
        place += len(part)


# Sending


@dataclass(frozen=True, slots=True)
class Answer:
    """What the server said: a status, the pause that it wishes for (seconds), and its body."""

    status: int
    retry_after: float | None
    body: bytes

    def detail(self) -> str:
        """What is wrong, in the server's words where it has any."""
        with suppress(ValueError):
            problem = json.loads(self.body)
            if isinstance(problem, dict) and (told := problem.get("detail") or problem.get("title")):
                return f"{told} ({self.status})"
        return f"answered {self.status}"

    def is_repeated(self) -> bool:
        """Whether the event had been stored before."""
        with suppress(ValueError):
            receipt = json.loads(self.body)
            return isinstance(receipt, dict) and receipt.get("duplicate") is True
        return False


class Sender:
    """Sends events of one `source` to one server over one connection that is kept open. `rest` sleeps for so many seconds.

    Raises ValueError for a `url` that is none.
    """

    def __init__(
        self, url: str, token: str, account_id: int, *, source: str = "", rest: Callable[[float], None] = time.sleep
    ) -> None:
        host, port, self._path = _read_url(url)
        kind = http.client.HTTPSConnection if url.lower().startswith("https") else http.client.HTTPConnection
        self._connection = kind(host, port, timeout=_TIMEOUT)
        self._headers = {
            "Content-Type": "application/json",
            "x-limechat-uat": token,
            "x-fb-account-id": str(account_id),
        }
        self._source = source
        self._rest = rest

    def send(self, entry: Entry) -> tuple[str, str]:
        """What became of an event (STORED, REPEATED or REFUSED), and why. Raises GaveUp."""
        said = ""
        for tried in range(1, MOST_TRIES + 1):
            wish: float | None = None
            try:
                answer = self._post(entry)
            except (OSError, http.client.HTTPException) as trouble:
                self._connection.close()
                said = f"no answer: {str(trouble) or type(trouble).__name__}"
            else:
                if answer.status < 300:
                    return (REPEATED if answer.is_repeated() else STORED), ""
                if answer.status in _HOPELESS:
                    raise GaveUp(answer.detail() + _HINTS.get(answer.status, ""))
                if answer.status not in _PASSING:
                    return REFUSED, answer.detail()
                said, wish = answer.detail(), answer.retry_after
            if tried < MOST_TRIES:
                self._rest(pause_after(tried, wish))
        raise GaveUp(f"{said}, {MOST_TRIES} times over")

    def _post(self, entry: Entry) -> Answer:
        headers = {**self._headers, "Idempotency-Key": entry.idempotency_key(self._source)}
        self._connection.request("POST", self._path, body=entry.body, headers=headers)
        response = self._connection.getresponse()
        body = response.read(_LARGEST_ANSWER)
        if response.read(1):
            self._connection.close()
        return Answer(response.status, parse_retry_after(response.headers.get("Retry-After"), datetime.now(UTC)), body)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


def _read_url(url: str) -> tuple[str, int | None, str]:
    """Host, port and path of where events are posted; raises ValueError."""
    wrong = ValueError(
        f"{url!r} has to begin with http:// or https:// and to name a host, such as https://a.example.com"
    )
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise wrong from None
    if parts.scheme not in ("http", "https") or not host or not re.fullmatch(r"[^\s\x00-\x20\x7f]+", host):
        raise wrong
    path = quote(parts.path.rstrip("/"), safe="/%:@!$&'()*+,;=~")
    return host, port, path if path.endswith(PATH) else path + PATH


def is_token(text: str) -> bool:
    """Whether `text` can be sent as a key at all."""
    return _TOKEN.fullmatch(text) is not None


def pause_after(tried: int, wish: float | None) -> float:
    """Seconds until the next try: what the server wishes for, a minute at most; else doubled each time, with jitter."""
    if wish is not None:
        return min(wish, _LONGEST_WISH)
    pause: float = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** (tried - 1))
    return pause * random.uniform(0.5, 1.0)
