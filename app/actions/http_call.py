"""One HTTP call of an action: sends a request under a permit of its host and target and turns the response into an Outcome.

Actions differ in how they make the request and how they classify the response. The stored request and response are truncated
and have their secrets masked.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from app.actions.action_context import ActionContext
from app.actions.circuit_breaker import Permit
from app.actions.http_request import Request, describe
from app.actions.http_response import MAX_BODY_BYTES, parse_response
from app.core.durations import write_duration
from app.core.exact_json import replace_unstorable
from app.core.models import Outcome

MAX_STORED_RESPONSE = 2_048
# Of the time that a call may take, connecting (DNS and TLS included) may take this much.
_CONNECT_SHARE = 0.9
# Characters of a target that tell it from others.
_MAX_TARGET = 300

# Takes the status, the headers, the body (parsed if it is JSON) and the time of the call.
ClassifyResponse = Callable[[int, Mapping[str, str], Any, datetime], Outcome]


async def call(request: Request, context: ActionContext, classify: ClassifyResponse) -> Outcome:
    """Make the call once; raises Deferred when the host or the target takes no call now."""
    host, target = _host_of(request), name_target(request)
    described = await context.compose(describe, request, context.secrets)
    async with context.circuit_breakers.permit(context.run.account_id, host, target) as permit:
        outcome = await _exchange(request, context, classify, permit)
        permit.succeeded = _is_good_answer(outcome)
    return replace(outcome, request=described, target=target)


def name_target(request: Request) -> str:
    """The target of a request, as circuit breakers and failed runs name it."""
    return request.target[:_MAX_TARGET]


def preview_call(request: Request, context: ActionContext) -> Outcome:
    """What `call` would send, and what an answer of 200 with `{}` would be. Sends nothing."""
    output = {"status": 200, "headers": {}, "body": {}}
    return Outcome("done", output=output, request=describe(request, context.secrets))


def _host_of(request: Request) -> str:
    return f"{request.url.host}:{request.url.port}"


def _is_good_answer(outcome: Outcome) -> bool | None:
    """True if the answer was below 500, False if it was not or there was none, None if no call was made."""
    status = (outcome.response or {}).get("status")
    if status is None:
        return False if outcome.kind == "retry" else None
    return outcome.error_class != "timeout" and status < 500


async def _exchange(request: Request, context: ActionContext, classify: ClassifyResponse, permit: Permit) -> Outcome:
    # Imported here and below, so that commands which only check documents start without aiohttp.
    import aiohttp

    from app.actions.http_session import read_body

    received: dict[str, Any] | None = None
    started_at = time.perf_counter()
    try:
        async with asyncio.timeout(context.timeout), _send(context, request) as response:
            received = {"status": response.status}
            raw = await read_body(response)
    except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as exc:
        permit.is_connected = not isinstance(exc, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError)
        return replace(_failure(exc, request, context.timeout), response=received)
    duration = round((time.perf_counter() - started_at) * 1000)
    is_cut = len(raw) >= MAX_BODY_BYTES
    text = context.secrets.mask(replace_unstorable(raw.decode("utf-8", "replace")), is_cut=is_cut)
    output = parse_response(response.status, response.headers, text)
    outcome = classify(response.status, response.headers, output["body"], context.now)
    return replace(
        outcome,
        output=output if outcome.kind == "done" else {},
        response={"status": response.status, "body": text[:MAX_STORED_RESPONSE], "ms": duration},
    )


def _send(context: ActionContext, request: Request) -> Any:
    import aiohttp

    return context.session.request(
        request.method,
        request.url,
        data=request.body or None,
        headers=request.headers,
        allow_redirects=False,
        auto_decompress=False,
        # Shorter than the whole, so that a host that does not connect differs from one that does not respond.
        timeout=aiohttp.ClientTimeout(total=None, connect=context.timeout * _CONNECT_SHARE),
    )


def _failure(exc: Exception, request: Request, timeout: float) -> Outcome:
    """The outcome of a call without a complete response."""
    import aiohttp

    from app.actions.address_guard import RefusedTarget

    host = _host_of(request)
    refused = getattr(exc, "os_error", exc)
    if isinstance(refused, RefusedTarget):
        return Outcome("failed", error=str(refused), error_class="refused_target")
    if isinstance(exc, aiohttp.ConnectionTimeoutError):
        error = f"{host} did not accept a connection within {write_duration(timeout * _CONNECT_SHARE)}"
        return Outcome("retry", error=error, error_class="timeout")
    if isinstance(exc, TimeoutError):
        error = f"{host} did not respond completely within {write_duration(timeout)}"
        return Outcome("retry", error=error, error_class="timeout")
    # Before ValueError, since a certificate error is one as well.
    if isinstance(exc, aiohttp.ClientSSLError):
        error = f"TLS with {host} failed: {error_detail(exc)}"
        return Outcome("retry", error=error, error_class="tls")
    if isinstance(exc, ValueError):
        return Outcome("failed", error=f"the URL cannot be called: {exc}"[:300], error_class="bad_url")
    if isinstance(exc, aiohttp.ClientConnectorDNSError):
        return Outcome("retry", error=f"the host name {request.url.host} cannot be resolved", error_class="dns")
    if isinstance(exc, aiohttp.ClientConnectorError):
        error = f"cannot connect to {host}: {error_detail(exc)}"
        return Outcome("retry", error=error, error_class="connection")
    error = f"{host} closed the connection or sent an invalid response: {error_detail(exc)}"
    return Outcome("retry", error=error, error_class="connection")


def error_detail(exc: BaseException) -> str:
    """The system's or the library's message, in one line."""
    cause = getattr(exc, "os_error", None) or getattr(exc, "certificate_error", None) or exc
    return (getattr(cause, "strerror", None) or str(cause) or type(cause).__name__)[:200]
