"""Calls the APIs behind augments of the type `api`, while an event is accepted.

A call takes at most half a second in total: waiting for a permit, name resolution, connecting, and the whole response. It runs
in a thread (a greenlet under gevent) that is abandoned when the time is over. Only allowed addresses are called. Circuit
breakers limit the concurrent calls per account and server, and pause calls to a server that fails. Answers are cached for a
minute.
"""

from __future__ import annotations

import http.client
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from typing import Any

from cachetools import TTLCache
from yarl import URL

from app.actions.address_guard import RefusedTarget
from app.actions.circuit import Deferred
from app.actions.circuit_breaker import CircuitBreakers, Permit
from app.actions.guarded_connection import GuardedConnection
from app.actions.http_response import MAX_BODY_BYTES
from app.core.config import Settings
from app.core.errors import Problem
from app.core.exact_json import ExactObject, read_object

# Seconds.
TIMEOUT = 0.5
CACHE_TTL = 60.0
_MAX_PERMIT_WAIT = 0.25
_MAX_ABORT_WAIT = 0.1
_MAX_CACHED_BYTES = 16 * 1024 * 1024
# Concurrent calls: at most 16 to one server and 48 of one account.
_MAX_CALLS = 64
_EMPTY = ExactObject({}, {})
_HEADERS = {"Accept": "application/json", "User-Agent": "signalbox"}


class ApiError(Exception):
    """Why there is no usable answer; of the URL the message repeats only host and port."""


@dataclass(frozen=True, slots=True)
class ApiQuery:
    """A query of one account: the `value` of the attribute `name`, sent to the server at `url`."""

    account_id: int
    url: str
    name: str
    value: str


class ApiClient:
    """The API calls of one process."""

    def __init__(self, settings: Settings) -> None:
        self._allowed = settings.allowed_private_targets
        self._tls = ssl.create_default_context()
        self._cache: TTLCache[ApiQuery, ExactObject] = TTLCache(_MAX_CACHED_BYTES, CACHE_TTL, getsizeof=_size)
        self._circuit_breakers = CircuitBreakers(_MAX_CALLS)
        self._lock = threading.Lock()
        self._released = threading.Condition(self._lock)
        self._threads = ThreadPoolExecutor(_MAX_CALLS, thread_name_prefix="augments")
        # Those that end their idle time first come first.
        self._idle: list[GuardedConnection] = []

    def query(self, query: ApiQuery) -> ExactObject:
        """The server's answer, an empty object for a 404. Raises ApiError, after half a second at the latest."""
        with self._lock:
            cached = self._cache.get(query)
        if cached is not None:
            return cached
        answer = self._query(query)
        with self._lock:
            self._cache[query] = answer
        return answer

    def close(self) -> None:
        """Close idle connections and end the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _query(self, query: ApiQuery) -> ExactObject:
        deadline = time.monotonic() + TIMEOUT
        url = URL(query.url).update_query({query.name: query.value})
        server = f"{url.host}:{url.port}"
        permit = self._acquire(query.account_id, server)
        try:
            status, body = self._get(url, deadline, permit, partial(self._release, query.account_id, server, permit))
        except TimeoutError:
            raise ApiError(f"{server} did not answer within {TIMEOUT:g} seconds") from None
        except RefusedTarget as exc:
            raise ApiError(str(exc)) from None
        except (OSError, http.client.HTTPException, ValueError):
            raise ApiError(f"{server} cannot be reached, or closed the connection") from None
        return _parse(server, status, body)

    def _acquire(self, account_id: int, server: str) -> Permit:
        deadline = time.monotonic() + _MAX_PERMIT_WAIT
        with self._released:
            while True:
                try:
                    return self._circuit_breakers.acquire(account_id, server)
                except Deferred as exc:
                    if exc.error_class != "busy" or not self._released.wait(deadline - time.monotonic()):
                        raise ApiError(str(exc)) from None

    def _release(self, account_id: int, server: str, permit: Permit) -> None:
        with self._released:
            self._circuit_breakers.release(account_id, server, permit)
            self._released.notify_all()

    def _get(self, url: URL, deadline: float, permit: Permit, release: Callable[[], None]) -> tuple[int, bytes]:
        connection = self._take_idle(url) or GuardedConnection(url, TIMEOUT, self._allowed, self._tls)
        try:
            call = self._threads.submit(self._call, connection, url, permit, release)
        except RuntimeError:
            release()
            raise
        try:
            return call.result(deadline - time.monotonic())
        except TimeoutError:
            connection.abort()
            # An abandoned call keeps its permit until its thread ends, so that the limits bound the threads. Most end at once.
            if call.cancel():
                release()
            else:
                wait((call,), _MAX_ABORT_WAIT)
            raise

    def _call(
        self, connection: GuardedConnection, url: URL, permit: Permit, release: Callable[[], None]
    ) -> tuple[int, bytes]:
        permit.succeeded = False
        try:
            response = connection.get(url, _HEADERS, MAX_BODY_BYTES)
            permit.succeeded = response[0] < 500
        except BaseException:
            connection.close()
            raise
        finally:
            release()
        if connection.is_reusable():
            with self._lock:
                self._idle.append(connection)
        return response

    def _take_idle(self, url: URL) -> GuardedConnection | None:
        with self._lock:
            while self._idle and not self._idle[0].is_reusable():
                self._idle.pop(0).close()
            found = next(
                (each for each in reversed(self._idle) if each.origin == url.origin() and each.is_reusable()), None
            )
            if found is not None:
                self._idle.remove(found)
            return found


def _parse(server: str, status: int, body: bytes) -> ExactObject:
    if status == 404:
        return _EMPTY
    if status != 200:
        raise ApiError(f"{server} answered {status}")
    if len(body) >= MAX_BODY_BYTES:
        raise ApiError(f"{server} answered with {MAX_BODY_BYTES} bytes or more")
    try:
        return read_object(body)
    except Problem:
        raise ApiError(f"{server} did not answer with a JSON object that can be stored") from None


def _size(answer: ExactObject) -> int:
    texts: Mapping[str, Any] = answer.raw
    return 200 + sum(len(name) + len(text) for name, text in texts.items())
