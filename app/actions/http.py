"""The action `http`: calls a URL with a request that is signed by Standard Webhooks.

Fields: `url`, `method` (default POST), `headers`, and `json` (any value) or `body` (text); all texts are templates, which can
print secrets of the account as `{{ secrets.NAME }}`. Without `json` and `body`, a POST, PUT or PATCH sends the event. Output:
`status`, `headers` and `body` of the response.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from app.actions.action_context import ActionContext, ActionError
from app.actions.field_checks import FieldErrors, check_names, constant_text, is_blank, is_scalar, text_schema
from app.actions.http_call import call, name_target, preview_call
from app.actions.http_request import (
    BODYLESS_METHODS,
    METHODS,
    describe,
    header_error,
    make_request,
    parse_url,
    target_of,
    value_error,
)
from app.actions.retry_policy import classify_status
from app.actions.templates.render import check_texts, is_text
from app.core.models import Outcome

FIELDS = ("url", "method", "headers", "json", "body")
SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "url": text_schema("the URL to call; a template, which may print secrets: {{ secrets.NAME }}"),
        "method": {"enum": list(METHODS), "default": "POST", "description": "the HTTP method"},
        "headers": {
            "type": "object",
            "additionalProperties": {"anyOf": [{"type": ["string", "number"]}, {"$ref": "#/definitions/mustache"}]},
            "description": "further headers; templates, which may print secrets: Bearer {{ secrets.NAME }}",
        },
        "json": {"description": "the JSON to send; every text in it is a template. Default without body: the event"},
        "body": text_schema("the text to send; a template", min_length=0),
    },
    "required": ["url"],
    "not": {"required": ["json", "body"]},
    "additionalProperties": False,
    "description": "call a URL; signed by Standard Webhooks",
}


def check(fields: Any, path: str) -> FieldErrors:
    """Errors of URL, method, headers and body."""
    if not isinstance(fields, Mapping):
        return [(path, "must be an object such as {url: https://example.com/hook}")]
    errors = check_names(fields, "http", FIELDS, path)
    errors += _check_url(fields.get("url"), f"{path}.url")
    method = fields.get("method", "POST")
    if method not in METHODS:
        errors.append((f"{path}.method", f"must be one of {', '.join(METHODS)}"))
    if "json" in fields and "body" in fields:
        errors.append((f"{path}.body", "cannot be combined with json"))
    for name in ("json", "body"):
        if name in fields and method in BODYLESS_METHODS:
            errors.append((f"{path}.{name}", f"a {method} request has no body"))
    errors += _check_headers(fields.get("headers", {}), f"{path}.headers", with_body="body" in fields)
    errors += check_texts(fields.get("json"), f"{path}.json", with_secrets=True)
    if "body" in fields and not is_text(fields["body"]):
        errors.append((f"{path}.body", "must be text; use json for other values"))
    return errors + check_texts(fields.get("body"), f"{path}.body", with_secrets=True)


def _check_url(text: Any, path: str) -> FieldErrors:
    if not is_text(text) or is_blank(text):
        return [(path, "is required: the URL to call" if text is None else "must be a URL (text)")]
    errors = check_texts(text, path, with_secrets=True)
    if not errors and isinstance(text, str) and "{" not in text:
        try:
            parse_url(text)
        except ActionError as exc:
            errors.append((path, str(exc)))
    return errors


def _check_headers(headers: Any, path: str, *, with_body: bool) -> FieldErrors:
    if not isinstance(headers, Mapping):
        return [(path, "must be an object such as {Authorization: Bearer abc}")]
    errors = []
    for name, value in headers.items():
        header_path = f"{path}.{name}"
        if (error := header_error(name, with_body=with_body)) is not None:
            errors.append((header_path, error))
        elif not is_scalar(value):
            errors.append((header_path, "must be text"))
        elif is_text(value) and (text := constant_text(value)) is not None and (error := value_error(text)):
            errors.append((header_path, error))
        errors += check_texts(value, header_path, with_secrets=True)
    return errors


async def act(fields: Any, context: ActionContext) -> Outcome:
    """Make the call once, unless its target is disabled. A 410 disables it."""
    request = await context.compose(make_request, fields, context)
    target = target_of(request, context)
    if (reason := context.disabled.get(target)) is not None:
        error = disabled_error(target, reason)
        described = await context.compose(describe, request, context.secrets)
        failed = Outcome("failed", request=described, error=error, error_class="target_disabled")
        return replace(failed, target=name_target(request))
    outcome = await call(request, context, lambda status, headers, body, now: classify_status(status, headers, now))
    return replace(outcome, gone=target) if outcome.error_class == "http_410" else outcome


def disabled_error(target: str, reason: str | None) -> str:
    """What is said of a call to a disabled target. It names no command: the console and the API show it, too."""
    return f"{target} is disabled ({reason}): enable this target to send requests to it again"


def preview(fields: Any, context: ActionContext) -> Outcome:
    """The call, which is not made."""
    return preview_call(make_request(fields, context), context)
