"""The action `http`: calls a URL, signed by Standard Webhooks, and hands on what it answered.

Fields: `url`, `method` (POST), `headers`, and `json` (any value) or `body` (text); all texts are templates. With neither
of the last two a POST, PUT or PATCH carries the event itself. Goes out as an Outcome with the output `status`, `headers`
and `body` for later steps; what is kept of request and answer has its secrets masked and is cut.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import aiohttp

from app.act.answers import read_answer, storable
from app.act.outbound import RefusedTarget, read_body
from app.act.requests import BODILESS, METHODS, Request, Unfit, header_mistake, make_request, read_url
from app.act.retry import judge
from app.act.situation import Situation
from app.act.template import check_texts
from app.durations import write_duration
from app.words import Outcome

FIELDS = ("url", "method", "headers", "json", "body")
SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "url": {"type": "string", "minLength": 1, "description": "whom to call; a template"},
        "method": {"enum": list(METHODS), "default": "POST", "description": "how"},
        "headers": {
            "type": "object",
            "additionalProperties": {"type": ["string", "number"]},
            "description": "further headers; templates",
        },
        "json": {
            "description": "what to send, as JSON; every text in it is a template. Without it and body: the event"
        },
        "body": {"type": "string", "description": "what to send, as text; a template"},
    },
    "required": ["url"],
    "not": {"required": ["json", "body"]},
    "additionalProperties": False,
    "description": "call the outside world; signed by Standard Webhooks",
}
KEPT_OF_ANSWER = 2_048


def check(fields: Any, path: str) -> list[tuple[str, str]]:
    """All that is wrong with the fields."""
    if not isinstance(fields, Mapping):
        return [(path, "has to be an object such as {url: https://example.com/hook}")]
    errors = [(f"{path}.{name}", f"is unknown; http has {', '.join(FIELDS)}") for name in fields if name not in FIELDS]
    errors += _check_url(fields.get("url"), f"{path}.url")
    method = fields.get("method", "POST")
    if method not in METHODS:
        errors.append((f"{path}.method", f"has to be one of {', '.join(METHODS)}"))
    if "json" in fields and "body" in fields:
        errors.append((f"{path}.body", "json and body exclude each other"))
    for name in ("json", "body"):
        if name in fields and method in BODILESS:
            errors.append((f"{path}.{name}", f"a {method} request has no body"))
    errors += _check_headers(fields.get("headers", {}), f"{path}.headers", with_body="body" in fields)
    errors += check_texts(fields.get("json"), f"{path}.json")
    if "body" in fields and not isinstance(fields["body"], str):
        errors.append((f"{path}.body", "has to be text; for anything else there is json"))
    return errors + check_texts(fields.get("body"), f"{path}.body")


def _check_url(text: Any, path: str) -> list[tuple[str, str]]:
    if not isinstance(text, str) or not text.strip():
        return [(path, "is missing: the URL to call" if text is None else "has to be a URL (text)")]
    errors = check_texts(text, path)
    if not errors and "{" not in text:
        try:
            read_url(text)
        except Unfit as wrong:
            errors.append((path, str(wrong)))
    return errors


def _check_headers(headers: Any, path: str, *, with_body: bool) -> list[tuple[str, str]]:
    if not isinstance(headers, Mapping):
        return [(path, "has to be an object such as {Authorization: Bearer abc}")]
    errors = []
    for name, value in headers.items():
        here = f"{path}.{name}"
        if (mistake := header_mistake(name, with_body=with_body)) is not None:
            errors.append((here, mistake))
        elif isinstance(value, bool) or not isinstance(value, str | int | float):
            errors.append((here, "has to be text"))
        errors += check_texts(value, here)
    return errors


async def act(fields: Any, situation: Situation) -> Outcome:
    """Make the call once."""
    try:
        request = make_request(fields, situation)
    except Unfit as wrong:
        return Outcome("failed", error=str(wrong), error_class=wrong.error_class)
    answer: dict[str, Any] | None = None
    began = time.perf_counter()
    try:
        async with asyncio.timeout(situation.timeout), _call(situation.session, request) as response:
            answer = {"status": response.status}
            raw = await read_body(response)
    except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as wrong:
        return replace(_trouble(wrong, request, situation.timeout), request=request.kept(), response=answer)
    spent = round((time.perf_counter() - began) * 1000)
    text = storable(raw.decode("utf-8", "replace"))
    outcome = judge(response.status, response.headers, situation.now)
    return replace(
        outcome,
        output=read_answer(response.status, response.headers, text) if outcome.kind == "done" else {},
        request=request.kept(),
        response={"status": response.status, "body": text[:KEPT_OF_ANSWER], "ms": spent},
    )


def _call(session: aiohttp.ClientSession, request: Request) -> Any:
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
    place = f"{request.url.host}:{request.url.port}"
    refused = getattr(wrong, "os_error", wrong)
    if isinstance(refused, RefusedTarget):
        return Outcome("failed", error=str(refused), error_class="refused_target")
    if isinstance(wrong, TimeoutError):
        error = f"no whole answer from {place} within {write_duration(timeout)}"
        return Outcome("retry", error=error, error_class="timeout")
    # Before ValueError, which a certificate error is as well.
    if isinstance(wrong, aiohttp.ClientSSLError):
        return Outcome("retry", error=f"no trust in {place}: {_detail(wrong)}", error_class="tls")
    if isinstance(wrong, ValueError):
        return Outcome("failed", error=f"the URL cannot be called: {wrong}"[:300], error_class="bad_url")
    if isinstance(wrong, aiohttp.ClientConnectorDNSError):
        return Outcome("retry", error=f"the name {request.url.host} cannot be resolved", error_class="dns")
    if isinstance(wrong, aiohttp.ClientConnectorError):
        return Outcome("retry", error=f"no connection to {place}: {_detail(wrong)}", error_class="connection")
    return Outcome("retry", error=f"{place} broke off or answered nonsense: {_detail(wrong)}", error_class="connection")


def _detail(wrong: Exception) -> str:
    cause = getattr(wrong, "os_error", None) or getattr(wrong, "certificate_error", None) or wrong
    return (getattr(cause, "strerror", None) or str(cause) or type(cause).__name__)[:200]
