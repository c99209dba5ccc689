"""Calls the APIs behind augments of the type `api`, while an event is accepted.

All calls of one event run side by side and have one deadline: waiting for permits, name resolution, connecting, and the whole
responses. They run in threads (greenlets under gevent) that are abandoned when the time is over. Only allowed addresses are
called. Circuit breakers limit the concurrent calls per account and server, and pause calls to a URL that fails, or to a server
that cannot be reached. Answers to GET are cached for a minute.
"""

from __future__ import annotations

import http.client
import json
import ssl
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, TypeAlias

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
from app.ingest.enrichment_budget import API_SECONDS, MAX_ANSWERED_BYTES, ApiBudget

# Seconds.
CACHE_TTL = 60.0
_MAX_ABORT_WAIT = 0.1
# A call that was abandoned after less than this is not counted as a failure of its server.
_MIN_FAILURE = 0.25
_MAX_CACHED_BYTES = 16 * 1024 * 1024
# Concurrent calls: at most 16 to one server and 48 of one account.
_MAX_CALLS = 64
# Threads of all accounts.
_MAX_THREADS = 192
# The status and body of an answer, or why there is none.
Outcome: TypeAlias = tuple[int, bytes] | Exception
_EMPTY = ExactObject({}, {})
_HEADERS = {"Accept": "application/json", "User-Agent": "signalbox"}


class ApiError(Exception):
    """Why there is no usable answer; of the URL the message repeats only host and port."""


@dataclass(frozen=True, slots=True)
class ApiQuery:
    """One call for an account. Without a `body` it is a GET, and its answer has the fields themselves; with one it is a POST,
    and the answer has them in `attributes`."""

    account_id: int
    url: str
    body: bytes | None = None


def lookup_query(account_id: int, url: str, key: str, value: str) -> ApiQuery:
    """A GET with the key attribute in the query."""
    return ApiQuery(account_id, str(URL(url).update_query({key: value})))


def event_query(account_id: int, url: str, value: str | None, attributes: str) -> ApiQuery:
    """A POST of the value of the key attribute and of the event's members (JSON text)."""
    return ApiQuery(account_id, url, f'{{"key-attr":{json.dumps(value)},"attributes":{attributes}}}'.encode())


@dataclass(slots=True, eq=False)
class _Call:
    """A call under way; `outcome` is the status and body, or why there are none."""

    query: ApiQuery
    connection: GuardedConnection
    permit: Permit
    server: str
    future: Future[None] | None = None
    outcome: Outcome | None = None
    # Abandoned so early that this says nothing about the server.
    had_little_time: bool = False


class ApiClient:
    """The API calls of one process."""

    def __init__(self, settings: Settings) -> None:
        self._allowed = settings.allowed_private_targets
        self._tls = ssl.create_default_context()
        self._cache: TTLCache[ApiQuery, ExactObject] = TTLCache(_MAX_CACHED_BYTES, CACHE_TTL, getsizeof=_size)
        self._circuit_breakers = CircuitBreakers(_MAX_CALLS)
        # Notified when a call has ended. Guards everything below and the cache.
        self._ended = threading.Condition()
        self._threads = ThreadPoolExecutor(_MAX_THREADS, thread_name_prefix="augments")
        # Those that end their idle time first come first.
        self._idle: list[GuardedConnection] = []

    def query(self, queries: Sequence[ApiQuery], budget: ApiBudget) -> list[ExactObject | ApiError]:
        """The answers to the queries of one event, in their order; an empty object for a 404. Returns by the deadline."""
        answers = budget.answers
        with self._ended:
            answers.update({query: self._cache[query] for query in queries if query in self._cache})
        missing = [query for query in dict.fromkeys(queries) if query not in answers]
        outcomes = self._call_all(missing, budget.deadline()) if missing else {}
        for query in missing:
            answer = answers[query] = _answer(query, outcomes[query], budget)
            if query.body is None and isinstance(answer, ExactObject):
                with self._ended:
                    self._cache[query] = answer
        return [answers[query] for query in queries]

    def close(self) -> None:
        """Close idle connections and end the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        with self._ended:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _call_all(self, queries: Sequence[ApiQuery], deadline: float) -> dict[ApiQuery, Outcome]:
        """The outcome of each query. Calls start as their permits become free."""
        calls: list[_Call] = []
        failed: dict[ApiQuery, Exception] = {}
        waiting = list(queries)
        with self._ended:
            while (left := deadline - time.monotonic()) > 0:
                waiting = [query for query in waiting if not self._start(query, calls, failed)]
                if not waiting and all(call.outcome is not None for call in calls):
                    break
                self._ended.wait(left)
            unfinished = [call for call in calls if call.outcome is None]
            outcomes = {call.query: call.outcome or TimeoutError() for call in calls}
        self._abandon(unfinished)
        late = ApiError("no time was left for it")
        return {**dict.fromkeys(waiting, late), **failed, **outcomes}

    def _start(self, query: ApiQuery, calls: list[_Call], failed: dict[ApiQuery, Exception]) -> bool:
        """Start a call, or record why it was not made; False while no permit is free."""
        url = URL(query.url)
        server = f"{url.host}:{url.port}"
        target = f"{'GET' if query.body is None else 'POST'} {url.with_query(None)}"
        try:
            permit = self._circuit_breakers.acquire(query.account_id, server, target)
        except Deferred as exc:
            failed[query] = ApiError(str(exc).replace(target, server))
            return exc.error_class != "busy"
        connection = self._take_idle(url) or GuardedConnection(url, API_SECONDS, self._allowed, self._tls)
        call = _Call(query, connection, permit, server)
        try:
            call.future = self._threads.submit(self._make, call, url)
        except RuntimeError as exc:
            self._circuit_breakers.release(query.account_id, server, permit)
            failed[query] = exc
        else:
            calls.append(call)
        return True

    def _make(self, call: _Call, url: URL) -> None:
        """Make a call, in a thread of its own."""
        outcome: Outcome
        try:
            if call.query.body is None:
                outcome = call.connection.get(url, _HEADERS, MAX_BODY_BYTES)
            else:
                outcome = call.connection.post(url, _HEADERS, call.query.body, MAX_BODY_BYTES)
        except Exception as exc:
            call.connection.close()
            outcome = exc
        call.permit.is_connected = call.connection.is_connected
        if not call.had_little_time:
            call.permit.succeeded = not isinstance(outcome, Exception) and outcome[0] < 500
        self._end(call, outcome)

    def _end(self, call: _Call, outcome: Outcome) -> None:
        with self._ended:
            self._circuit_breakers.release(call.query.account_id, call.server, call.permit)
            call.outcome = outcome
            if not isinstance(outcome, Exception) and call.connection.is_reusable():
                self._idle.append(call.connection)
            self._ended.notify_all()

    def _abandon(self, calls: Sequence[_Call]) -> None:
        """End calls at the deadline. A call keeps its permit until its thread ends, so that the limits bound the threads; most
        end at once."""
        for call in calls:
            call.had_little_time = time.monotonic() - call.permit.started_at < _MIN_FAILURE
            call.connection.abort()
            if call.future is not None and call.future.cancel():
                self._end(call, TimeoutError())
        wait([call.future for call in calls if call.future is not None], _MAX_ABORT_WAIT)

    def _take_idle(self, url: URL) -> GuardedConnection | None:
        """An open connection to the server of a URL. The caller has locked."""
        while self._idle and not self._idle[0].is_reusable():
            self._idle.pop(0).close()
        found = next(
            (each for each in reversed(self._idle) if each.origin == url.origin() and each.is_reusable()), None
        )
        if found is not None:
            self._idle.remove(found)
        return found


def _answer(query: ApiQuery, outcome: Outcome, budget: ApiBudget) -> ExactObject | ApiError:
    url = URL(query.url)
    server = f"{url.host}:{url.port}"
    if isinstance(outcome, ApiError):
        return outcome
    if isinstance(outcome, RefusedTarget):
        return ApiError(str(outcome))
    if isinstance(outcome, TimeoutError):
        return ApiError(f"{server} did not answer within {API_SECONDS:g} seconds")
    if isinstance(outcome, Exception):
        if not isinstance(outcome, OSError | http.client.HTTPException | ValueError | RuntimeError):
            raise outcome
        return ApiError(f"{server} cannot be reached, or closed the connection")
    status, body = outcome
    budget.bytes_left -= len(body)
    if budget.bytes_left < 0:
        return ApiError(f"the APIs answered with more than {MAX_ANSWERED_BYTES} bytes together")
    return _parse(server, status, body, is_post=query.body is not None)


def _parse(server: str, status: int, body: bytes, *, is_post: bool) -> ExactObject | ApiError:
    if status in (204, 404):
        return _EMPTY
    if status != 200:
        return ApiError(f"{server} answered {status}")
    if len(body) >= MAX_BODY_BYTES:
        return ApiError(f"{server} answered with {MAX_BODY_BYTES} bytes or more")
    try:
        found = read_object(body)
    except Problem:
        return ApiError(f"{server} did not answer with a JSON object that can be stored")
    if not is_post:
        return found
    attributes = found.value.get("attributes")
    if not isinstance(attributes, dict):
        return ApiError(f'{server} did not answer with {{"key-attr": …, "attributes": {{…}}}}')
    return read_object(found.raw["attributes"].encode())


def _size(answer: ExactObject) -> int:
    texts: Mapping[str, Any] = answer.raw
    return 200 + sum(len(name) + len(text) for name, text in texts.items())
