"""The action `http`: calls a URL, signed by Standard Webhooks, and hands on what it answered.

Fields: `url`, `method` (POST), `headers`, and `json` (any value) or `body` (text); all texts are templates. With neither
of the last two a POST, PUT or PATCH carries the event itself. Goes out as an Outcome with the output `status`, `headers`
and `body` for later steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from app.actions.context import ActionContext, ActionError
from app.actions.field_checks import is_blank, is_scalar, text_schema
from app.actions.http_call import call
from app.actions.http_request import BODILESS, METHODS, header_mistake, make_request, read_url, target_of
from app.actions.retry_policy import judge
from app.actions.templates.render import check_texts, is_text
from app.core.models import Outcome

FIELDS = ("url", "method", "headers", "json", "body")
SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "url": text_schema("whom to call; a template"),
        "method": {"enum": list(METHODS), "default": "POST", "description": "how"},
        "headers": {
            "type": "object",
            "additionalProperties": {"anyOf": [{"type": ["string", "number"]}, {"$ref": "#/definitions/mustache"}]},
            "description": "further headers; templates",
        },
        "json": {
            "description": "what to send, as JSON; every text in it is a template. Without it and body: the event"
        },
        "body": text_schema("what to send, as text; a template", least=0),
    },
    "required": ["url"],
    "not": {"required": ["json", "body"]},
    "additionalProperties": False,
    "description": "call the outside world; signed by Standard Webhooks",
}


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
    if "body" in fields and not is_text(fields["body"]):
        errors.append((f"{path}.body", "has to be text; for anything else there is json"))
    return errors + check_texts(fields.get("body"), f"{path}.body")


def _check_url(text: Any, path: str) -> list[tuple[str, str]]:
    if not is_text(text) or is_blank(text):
        return [(path, "is missing: the URL to call" if text is None else "has to be a URL (text)")]
    errors = check_texts(text, path)
    if not errors and isinstance(text, str) and "{" not in text:
        try:
            read_url(text)
        except ActionError as exc:
            errors.append((path, str(exc)))
    return errors


def _check_headers(headers: Any, path: str, *, with_body: bool) -> list[tuple[str, str]]:
    if not isinstance(headers, Mapping):
        return [(path, "has to be an object such as {Authorization: Bearer abc}")]
    errors = []
    for name, value in headers.items():
        here = f"{path}.{name}"
        if (mistake := header_mistake(name, with_body=with_body)) is not None:
            errors.append((here, mistake))
        elif not is_scalar(value):
            errors.append((here, "has to be text"))
        errors += check_texts(value, here)
    return errors


async def act(fields: Any, context: ActionContext) -> Outcome:
    """Make the call once, unless its target has been disabled. A 410 disables it."""
    request = make_request(fields, context)
    target = target_of(request.url)
    if (reason := context.disabled.get(target)) is not None:
        error = f"{target} is disabled ({reason}); `flask target enable` lets it be called again"
        return Outcome("failed", request=request.kept(), error=error, error_class="target_disabled")
    outcome = await call(request, context, lambda status, headers, body, now: judge(status, headers, now))
    return replace(outcome, gone=target) if outcome.error_class == "http_410" else outcome
