"""Augments of the type `api` are asked here: a URL, a name and a value in; a JSON object out, or the reason why there is none.

A web process has one thread with an event loop for this, started by the first question; so the way out is the same as that
of the workers: `app/actions/http_session.py` looks at the address that is dialled, and no name server talks its way around it. A
question may take half a second in all. After five failures in a row a server is left alone for a while, and one account
holds some of the places only. Answers are kept for a minute.
"""

from __future__ import annotations

import asyncio
import atexit
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import aiohttp
from cachetools import TTLCache
from yarl import URL

from app.actions import http_session
from app.actions.circuit_breaker import CircuitBreakers, Deferred
from app.actions.http_response import MAX_BODY_BYTES
from app.core.config import Settings
from app.core.errors import Problem
from app.core.exact_json import ExactObject, read_object

LONGEST = 0.5
KEPT_FOR = 60.0
# Bytes of answers that are kept.
_MOST_KEPT = 16 * 1024 * 1024
# Questions under way at a time: sixteen of them to one server, forty-eight for one account.
_PLACES = 64
_NOTHING_KNOWN = ExactObject({}, {})
_HEADERS = {"Accept": "application/json", "User-Agent": "signalbox"}


class NoAnswer(Exception):
    """Why a server said nothing that could be used, in words that repeat nothing of the URL but host and port."""


@dataclass(frozen=True, slots=True)
class Question:
    """What one account asks: the `value` of the attribute `name`, of the server behind `url`."""

    account_id: int
    url: str
    name: str
    value: str


class Asker:
    """Asks the servers behind augments, for one process."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._kept: TTLCache[Question, ExactObject] = TTLCache(_MOST_KEPT, KEPT_FOR, getsizeof=_size)
        self._circuit_breakers = CircuitBreakers(_PLACES)
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._session: aiohttp.ClientSession | None = None

    def ask(self, question: Question) -> ExactObject:
        """What the server knows; nothing at all after a 404. Raises NoAnswer, at the latest after half a second."""
        with self._lock:
            known = self._kept.get(question)
            loop = self._loop or self._start()
        if known is not None:
            return known
        asked: Future[ExactObject] = asyncio.run_coroutine_threadsafe(self._ask(question), loop)
        answer = asked.result()
        with self._lock:
            self._kept[question] = answer
        return answer

    def close(self) -> None:
        """End the thread and its connections; the next question starts them anew."""
        with self._lock:
            loop, self._loop = self._loop, None
        if loop is not None:
            asyncio.run_coroutine_threadsafe(self._end(), loop).result()
            loop.call_soon_threadsafe(loop.stop)

    def _start(self) -> asyncio.AbstractEventLoop:
        self._loop = loop = asyncio.new_event_loop()
        threading.Thread(target=_run, args=(loop,), name="augments", daemon=True).start()
        atexit.register(self.close)
        return loop

    async def _end(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _ask(self, question: Question) -> ExactObject:
        url = URL(question.url).update_query({question.name: question.value})
        place = f"{url.host}:{url.port}"
        try:
            async with asyncio.timeout(LONGEST), self._circuit_breakers.permit(question.account_id, place) as permit:
                permit.succeeded = False
                status, body = await self._get(url)
                permit.succeeded = status < 500
        except TimeoutError:
            raise NoAnswer(f"{place} did not answer within {LONGEST:g} seconds") from None
        except Deferred as held:
            raise NoAnswer(str(held)) from None
        except (aiohttp.ClientError, OSError, ValueError) as wrong:
            cause = getattr(wrong, "os_error", wrong)
            told = str(cause) if isinstance(cause, http_session.RefusedTarget) else "cannot be reached, or broke off"
            raise NoAnswer(told if isinstance(cause, http_session.RefusedTarget) else f"{place} {told}") from None
        return _read(place, status, body)

    async def _get(self, url: URL) -> tuple[int, bytes]:
        if self._session is None:
            self._session = http_session.open_session(self._settings)
        async with self._session.get(url, headers=_HEADERS, allow_redirects=False) as response:
            return response.status, await http_session.read_body(response)


def _run(loop: asyncio.AbstractEventLoop) -> None:
    loop.run_forever()
    loop.close()


def _read(place: str, status: int, body: bytes) -> ExactObject:
    if status == 404:
        return _NOTHING_KNOWN
    if status != 200:
        raise NoAnswer(f"{place} answered {status}")
    if len(body) >= MAX_BODY_BYTES:
        raise NoAnswer(f"{place} answered with {MAX_BODY_BYTES} bytes or more")
    try:
        return read_object(body)
    except Problem:
        raise NoAnswer(f"{place} did not answer with a JSON object that can be stored") from None


def _size(answer: ExactObject) -> int:
    texts: Mapping[str, Any] = answer.raw
    return 200 + sum(len(name) + len(text) for name, text in texts.items())
