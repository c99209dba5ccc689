"""One HTTP call of an action: a request goes out to a place that may take it, an Outcome comes back.

What actions do not share is how they make the request and how they judge the answer. What is kept of both has its secrets
masked and is cut.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from app.actions.context import ActionContext
from app.actions.http_request import Request
from app.actions.http_response import read_answer
from app.actions.integration_kinds import MASK
from app.core.durations import write_duration
from app.core.models import Outcome
from app.core.unstorable import replace_unstorable

if TYPE_CHECKING:
    import aiohttp

KEPT_OF_ANSWER = 2_048

# Status, headers, the body (parsed if it is JSON) and the moment of the call.
Judge = Callable[[int, Mapping[str, str], Any, datetime], Outcome]


async def call(request: Request, context: ActionContext, judge: Judge) -> Outcome:
    """Make the call once; raises Deferred when the destination is to be left alone now."""
    async with context.circuit_breakers.permit(context.run.account_id, _place(request)) as permit:
        outcome = await _exchange(request, context, judge)
        permit.succeeded = _has_answered(outcome)
    return outcome


def _place(request: Request) -> str:
    return f"{request.url.host}:{request.url.port}"


def _has_answered(outcome: Outcome) -> bool | None:
    """Whether the destination works: True it gave an answer, False it could not; None: it was not asked."""
    status = (outcome.response or {}).get("status")
    if status is None:
        return False if outcome.kind == "retry" else None
    return outcome.error_class != "timeout" and status < 500


async def _exchange(request: Request, context: ActionContext, judge: Judge) -> Outcome:
    # Here and below: commands that only check documents start without aiohttp.
    import aiohttp

    from app.actions.http_session import read_body

    answer: dict[str, Any] | None = None
    began = time.perf_counter()
    try:
        async with asyncio.timeout(context.timeout), _send(context.session, request) as response:
            answer = {"status": response.status}
            raw = await read_body(response)
    except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as exc:
        return replace(_trouble(exc, request, context.timeout), request=request.kept(), response=answer)
    spent = round((time.perf_counter() - began) * 1000)
    text = _without(request.secrets, replace_unstorable(raw.decode("utf-8", "replace")))
    output = read_answer(response.status, response.headers, text)
    outcome = judge(response.status, response.headers, output["body"], context.now)
    return replace(
        outcome,
        output=output if outcome.kind == "done" else {},
        request=request.kept(),
        response={"status": response.status, "body": text[:KEPT_OF_ANSWER], "ms": spent},
    )


def _without(secrets: tuple[str, ...], text: str) -> str:
    """The text without the secrets that went out with the request: some services repeat them in their complaints."""
    for secret in secrets:
        text = text.replace(secret, MASK)
    return text


def _send(session: aiohttp.ClientSession, request: Request) -> Any:
    import aiohttp

    return session.request(
        request.method,
        request.url,
        data=request.body or None,
        headers=request.headers,
        allow_redirects=False,
        auto_decompress=False,
        timeout=aiohttp.ClientTimeout(total=None),
    )


def _trouble(wrong: Exception, request: Request, timeout: float) -> Outcome:
    """What an attempt without a (whole) answer means."""
    import aiohttp

    from app.actions.http_session import RefusedTarget

    place = _place(request)
    refused = getattr(wrong, "os_error", wrong)
    if isinstance(refused, RefusedTarget):
        return Outcome("failed", error=str(refused), error_class="refused_target")
    if isinstance(wrong, TimeoutError):
        error = f"no whole answer from {place} within {write_duration(timeout)}"
        return Outcome("retry", error=error, error_class="timeout")
    # Before ValueError, which a certificate error is as well.
    if isinstance(wrong, aiohttp.ClientSSLError):
        return Outcome("retry", error=f"no trust in {place}: {detail(wrong)}", error_class="tls")
    if isinstance(wrong, ValueError):
        return Outcome("failed", error=f"the URL cannot be called: {wrong}"[:300], error_class="bad_url")
    if isinstance(wrong, aiohttp.ClientConnectorDNSError):
        return Outcome("retry", error=f"the name {request.url.host} cannot be resolved", error_class="dns")
    if isinstance(wrong, aiohttp.ClientConnectorError):
        return Outcome("retry", error=f"no connection to {place}: {detail(wrong)}", error_class="connection")
    return Outcome("retry", error=f"{place} broke off or answered nonsense: {detail(wrong)}", error_class="connection")


def detail(wrong: BaseException) -> str:
    """What the system says about trouble, in one line."""
    cause = getattr(wrong, "os_error", None) or getattr(wrong, "certificate_error", None) or wrong
    return (getattr(cause, "strerror", None) or str(cause) or type(cause).__name__)[:200]
