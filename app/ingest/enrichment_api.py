"""Calls the APIs behind augments of the type `api`, while an event is accepted.

All calls of one event run at the same time and have one deadline: waiting for permits, name resolution, connecting, and the whole
responses. They run in threads (greenlets under gevent) that are abandoned when the time is over. Only allowed addresses are
called. Circuit breakers limit the concurrent calls per account and server, and pause calls to a URL that fails, or to a server
that cannot be reached. Answers to GET are cached for a minute.
"""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

from cachetools import TTLCache
from yarl import URL

from app.actions.address_guard import RefusedTarget
from app.actions.circuit import Deferred
from app.actions.circuit_breaker import CircuitBreakers, Permit
from app.actions.guarded_connection import GuardedConnection, tls_context
from app.actions.http_response import MAX_BODY_BYTES
from app.core.config import Settings
from app.core.errors import Problem
from app.core.exact_json import ExactObject, read_object
from app.core.pacing import pause_if_due
from app.ingest import enrichment_budget
from app.ingest.enrichment_budget import MAX_ANSWERED_BYTES, ApiBudget

# Seconds.
CACHE_TTL = 60.0
_MAX_ABORT_WAIT = 0.1
# A call that was abandoned after less than this is not counted as a failure of its server.
_MIN_FAILURE = 0.25
_MAX_CACHED_BYTES = 16 * 1024 * 1024
# Concurrent calls: at most 16 to one server and 48 of one account, a quarter and three quarters of _MAX_CALLS.
_MAX_CALLS, _MAX_PER_ACCOUNT = 64, 48
_ACCOUNT_IS_BUSY = f"the account has reached its limit of {_MAX_PER_ACCOUNT} calls at a time"
# Threads of all accounts.
_MAX_THREADS = 192
# The status and body of an answer, or why there is none.
Outcome: TypeAlias = tuple[int, bytes] | Exception
# What a call may raise; anything else is a fault of ours.
_FAILURES = (OSError, http.client.HTTPException, ValueError, RuntimeError)
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


def event_body(value: str | None, attributes: str) -> bytes:
    """The body of a POST: the value of the key attribute, and the event's members (JSON text)."""
    return f'{{"key-attr":{json.dumps(value)},"attributes":{attributes}}}'.encode()


@dataclass(slots=True, eq=False)
class _Call:
    """A call under way; `outcome` is the status and body, or why there are none."""

    target: _Target
    batch: _Batch
    connection: GuardedConnection
    permit: Permit
    future: Future[None] | None = None
    outcome: Outcome | None = None
    # Abandoned so early that this says nothing about the server.
    had_little_time: bool = False


class _Target(NamedTuple):
    """A query with the server, as in messages, and the URL without its query, by which circuits judge answers."""

    query: ApiQuery
    url: URL
    server: str
    name: str


@dataclass(slots=True, eq=False)
class _Batch:
    """The calls of one event: those that wait for permits, those that were made, and why the others were not."""

    account_id: int
    waiting: list[_Target]
    calls: list[_Call] = field(default_factory=list)
    failed: dict[ApiQuery, Exception] = field(default_factory=dict)
    # Why calls wait.
    reason: str = "no time was left for it"
    # Set when a call of it has ended, or when a permit may be free for it.
    wake: threading.Event = field(default_factory=threading.Event)

    def is_done(self) -> bool:
        """Whether every call has ended."""
        return not self.waiting and all(call.outcome is not None for call in self.calls)


class ApiClient:
    """The API calls of one process."""

    def __init__(self, settings: Settings) -> None:
        self._allowed = settings.allowed_private_targets
        self._cache: TTLCache[ApiQuery, ExactObject] = TTLCache(_MAX_CACHED_BYTES, CACHE_TTL, getsizeof=_size)
        self._circuit_breakers = CircuitBreakers(_MAX_CALLS)
        # Guards everything below and the cache.
        self._lock = threading.Lock()
        self._threads = ThreadPoolExecutor(_MAX_THREADS, thread_name_prefix="augments")
        # Ordered by the end of their idle time.
        self._idle: list[GuardedConnection] = []
        # By account: calls under way, and batches that wait for permits, first come first.
        self._running: Counter[int] = Counter()
        self._queues: dict[int, list[_Batch]] = {}

    def query(self, queries: Sequence[ApiQuery], budget: ApiBudget) -> list[ExactObject | ApiError]:
        """The answers to the queries of one event, in their order; an empty object for a 404. Returns by the deadline."""
        answers = budget.answers
        with self._lock:
            for query in queries:
                if query.body is None and (cached := self._cache.get(query)) is not None:
                    answers[query] = cached
        missing = [query for query in dict.fromkeys(queries) if query not in answers]
        outcomes = self._call_all(missing, budget.deadline()) if missing else {}
        for query in missing:
            pause_if_due()
            answer = answers[query] = _answer(query, outcomes[query], budget)
            if query.body is None and isinstance(answer, ExactObject):
                with self._lock:
                    self._cache[query] = answer
        return [answers[query] for query in queries]

    def close(self) -> None:
        """Close idle connections and end the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _call_all(self, queries: Sequence[ApiQuery], deadline: float) -> dict[ApiQuery, Outcome]:
        """The outcome of each query. Calls start as their permits become free."""
        batch = _Batch(queries[0].account_id, list(map(_target, queries)))
        while (left := deadline - time.monotonic()) > 0:
            self._start_waiting(batch)
            if batch.is_done():
                break
            batch.wake.wait(left)
            batch.wake.clear()
        with self._lock:
            self._leave_queue(batch)
            unfinished = [call for call in batch.calls if call.outcome is None]
            outcomes = {call.target.query: call.outcome or TimeoutError() for call in batch.calls}
        self._abandon(unfinished)
        # Break the cycle between calls and batch, so that the garbage collector is not needed.
        batch.calls.clear()
        not_made = ApiError(batch.reason)
        return {**{target.query: not_made for target in batch.waiting}, **batch.failed, **outcomes}

    def _start_waiting(self, batch: _Batch) -> None:
        """Start the calls for which permits are free. A batch that still waits is in the queue of its account."""
        still: list[_Target] = []
        busy: set[str] = set()
        with self._lock:
            for index, target in enumerate(batch.waiting):
                if self._running[batch.account_id] >= _MAX_PER_ACCOUNT:
                    batch.reason = _ACCOUNT_IS_BUSY
                    still += batch.waiting[index:]
                    break
                if target.server in busy or not self._start(target, batch):
                    busy.add(target.server)
                    still.append(target)
            batch.waiting = still
            following = self._leave_queue(batch)
            if still:
                self._queues.setdefault(batch.account_id, []).insert(following, batch)
            # A permit that this batch cannot use may be for the next one.
            queue = self._queues.get(batch.account_id, [])[following + bool(still) :]
            if queue and self._running[batch.account_id] < _MAX_PER_ACCOUNT:
                queue[0].wake.set()

    def _leave_queue(self, batch: _Batch) -> int:
        """Remove a batch from its account's queue; the position where it was, or the end. The caller has locked."""
        queue = self._queues.get(batch.account_id, [])
        if batch not in queue:
            return len(queue)
        position = queue.index(batch)
        queue.remove(batch)
        if not queue:
            del self._queues[batch.account_id]
        return position

    def _start(self, target: _Target, batch: _Batch) -> bool:
        """Start a call, or record why it was not made; False while no permit is free. The caller has locked."""
        account_id = batch.account_id
        try:
            permit = self._circuit_breakers.acquire(account_id, target.server, target.name)
        except Deferred as exc:
            batch.reason = str(exc).replace(target.name, target.server)
            if exc.error_class == "busy":
                return False
            batch.failed[target.query] = ApiError(batch.reason)
            return True
        connection = self._take_idle(target.url)
        connection = connection or GuardedConnection(
            target.url, enrichment_budget.API_SECONDS, self._allowed, tls_context
        )
        call = _Call(target, batch, connection, permit)
        try:
            call.future = self._threads.submit(self._make, call)
        except RuntimeError as exc:
            self._circuit_breakers.release(account_id, target.server, permit)
            batch.failed[target.query] = exc
        else:
            batch.calls.append(call)
            self._running[account_id] += 1
        return True

    def _make(self, call: _Call) -> None:
        """Make a call, in a thread of its own."""
        url, body = call.target.url, call.target.query.body
        outcome: Outcome
        # Many calls begin at the same time, and each writes a request.
        pause_if_due()
        try:
            if body is None:
                outcome = call.connection.get(url, _HEADERS, MAX_BODY_BYTES)
            else:
                outcome = call.connection.post(url, _HEADERS, body, MAX_BODY_BYTES)
        except Exception as exc:
            call.connection.close()
            outcome = exc
            if isinstance(exc, _FAILURES):
                # The frames of the traceback refer to the exception: only the garbage collector would free them.
                exc.__traceback__ = exc.__context__ = None
        call.permit.is_connected = call.connection.is_connected
        if not call.had_little_time:
            call.permit.succeeded = not isinstance(outcome, Exception) and outcome[0] < 500
        self._end(call, outcome)

    def _end(self, call: _Call, outcome: Outcome) -> None:
        account_id = call.batch.account_id
        with self._lock:
            self._circuit_breakers.release(account_id, call.target.server, call.permit)
            self._running[account_id] -= 1
            if not self._running[account_id]:
                del self._running[account_id]
            call.outcome = outcome
            if not isinstance(outcome, Exception) and call.connection.is_reusable():
                self._idle.append(call.connection)
            for batch in (call.batch, *self._queues.get(account_id, ())[:1]):
                batch.wake.set()

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


def _target(query: ApiQuery) -> _Target:
    return _Target(query, *_parts(query.url, is_post=query.body is not None))


@lru_cache(4_096)
def _parts(text: str, *, is_post: bool) -> tuple[URL, str, str]:
    url = URL(text)
    return url, f"{url.host}:{url.port}", f"{'POST' if is_post else 'GET'} {url.with_query(None)}"


def _answer(query: ApiQuery, outcome: Outcome, budget: ApiBudget) -> ExactObject | ApiError:
    if isinstance(outcome, ApiError):
        return outcome
    server = _target(query).server
    if isinstance(outcome, RefusedTarget):
        return ApiError(str(outcome))
    if isinstance(outcome, TimeoutError):
        return ApiError(f"{server} did not answer within {enrichment_budget.API_SECONDS:g} seconds")
    if isinstance(outcome, Exception):
        if not isinstance(outcome, _FAILURES):
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
