"""HTTP requests of actions: how the fields of an `http` action become one, and what is stored of it.

Requests are signed by Standard Webhooks. `webhook-id` contains the idempotency key, so a receiver sees the same id in all
attempts. Authors cannot set the headers that Signalbox sets, nor those of the connection.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC
from decimal import Decimal
from importlib.metadata import PackageNotFoundError, version
from typing import Any
from urllib.parse import unquote

import msgspec
from standardwebhooks import Webhook
from yarl import URL

from app.actions.action_context import ActionContext, ActionError
from app.actions.call_target import http_target
from app.actions.integration_kinds import MASK
from app.actions.masking import Secrets, add_form, is_secret_name, mask_members, mask_written_members
from app.actions.templates.render import render, render_scalar, render_value, secrets_read
from app.core.exact_json import replace_unstorable
from app.core.ids import utc_text

BODYLESS_METHODS = ("GET", "HEAD")
EVENT_METHODS = ("POST", "PUT", "PATCH")
METHODS = (*BODYLESS_METHODS, *EVENT_METHODS, "DELETE")

MAX_URL = 8_000
MAX_HEADER = 8_000
MAX_TARGET = 1_000
MAX_STORED_BODY = 4_096
_DIGEST_LENGTH = 16

_RESERVED_HEADERS = frozenset(
    (
        *("idempotency-key", "webhook-id", "webhook-timestamp", "webhook-signature", "user-agent", "host"),
        *("content-length", "content-encoding", "accept-encoding", "transfer-encoding", "expect"),
        *("connection", "keep-alive", "te", "trailer", "upgrade"),
    )
)
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")
_HEADER_VALUE = re.compile(r"[^\x00-\x08\x0a-\x1f\x7f]*")
EXACT_JSON = msgspec.json.Encoder(decimal_format="number")


def _version() -> str:
    try:
        return version("signalbox")
    except PackageNotFoundError:
        return "dev"


DEFAULT_HEADERS: Mapping[str, str] = {"User-Agent": f"Signalbox/{_version()}", "Accept-Encoding": "identity"}


@dataclass(frozen=True, slots=True)
class Request:
    """A request to send. The circuit breaker counts the answers of all calls with one `target` together."""

    method: str
    url: URL
    headers: Mapping[str, str]
    body: bytes
    target: str


def describe(request: Request, secrets: Secrets) -> dict[str, Any]:
    """What is stored of a request with the attempt: its secrets masked, its body truncated. `secrets` keeps what it carries."""
    for name, value in request.headers.items():
        secrets.add_header(name, value)
    secrets.add(*(value for name, value in request.url.query.items() if is_secret_name(name)))
    body = _describe_body(request, secrets)
    headers = {
        name: MASK if is_secret_name(name) else secrets.mask(replace_unstorable(value))
        for name, value in request.headers.items()
    }
    return {
        "method": request.method,
        "url": secrets.mask(mask_url(request.url))[:MAX_STORED_BODY],
        "headers": headers,
        "body": secrets.mask(body)[:MAX_STORED_BODY],
    }


def _describe_body(request: Request, secrets: Secrets) -> str:
    """The body as text, with the members of JSON masked that have a secret name."""
    text = replace_unstorable(request.body.decode("utf-8", "replace"))
    content_type = request.headers.get("Content-Type", "").lower()
    if "form-urlencoded" in content_type:
        add_form(text, secrets)
    if text.lstrip()[:1] in ("{", "["):
        try:
            value = json.loads(text, parse_float=Decimal, parse_int=Decimal)
            masked, is_changed = mask_members(value, secrets)
        except (ValueError, RecursionError):
            return mask_written_members(text, secrets)
        return EXACT_JSON.encode(encodable(masked)).decode() if is_changed else text
    return text


def parse_url(text: str) -> URL:
    """A URL that can be called; raises ActionError."""
    text = text.strip()
    if len(text) > MAX_URL:
        raise ActionError("bad_url", f"the URL has {len(text)} characters; {MAX_URL} are allowed")
    if any(letter <= " " or letter == "\x7f" for letter in text):
        raise ActionError("bad_url", "the URL contains spaces or control characters; use the filter url_encode")
    try:
        url = URL(text)
        scheme, host, _ = url.scheme, url.host, url.port
        if host:
            # Brackets around something else than an address of IPv6 are lost here.
            str(url.origin())
    except ValueError as exc:
        raise ActionError("bad_url", f"the URL cannot be parsed: {exc}"[:300]) from None
    if scheme not in ("http", "https"):
        raise ActionError("bad_url", "the URL must begin with https:// or http://")
    if not host or len(host) > 253 or any(len(label) > 63 for label in host.split(".")):
        raise ActionError("bad_url", "the URL has no host, or one that is too long")
    if url.user is not None or url.password is not None:
        raise ActionError("bad_url", "the URL contains credentials; send them in the header Authorization")
    return url


def target_of(request: Request, context: ActionContext) -> str:
    """What a 410 disables: scheme, host and path, without the query. Targets that differ in the secrets in their paths have these
    masked, and differ in a suffix."""
    text = str(request.url.with_query(None).with_fragment(None))
    if (masked := context.secrets.mask(text)) != text:
        digest = hmac.digest(context.signing_secret.encode(), text.encode(), "sha256").hex()[:_DIGEST_LENGTH]
        text = f"{masked[: MAX_TARGET - 1 - _DIGEST_LENGTH]}#{digest}"
    if len(text) <= MAX_TARGET:
        return text
    return f"{text[: MAX_TARGET - 65]}#{hashlib.sha256(text.encode()).hexdigest()}"


def mask_url(url: URL) -> str:
    """The URL with masked values of query parameters that look like secrets."""
    if not any(map(is_secret_name, url.query)):
        return str(url)
    return str(url.with_query([(name, MASK if is_secret_name(name) else value) for name, value in url.query.items()]))


def header_error(name: Any, *, with_body: bool) -> str | None:
    """Why an author cannot set a header of this name; None when it is allowed."""
    if not isinstance(name, str) or not _HEADER_NAME.fullmatch(name):
        return "is not a header name"
    if name.lower() in _RESERVED_HEADERS or name.lower().startswith("proxy-"):
        return "is set by Signalbox and cannot be set here"
    if name.lower() == "content-type" and not with_body:
        return "is application/json unless the request has a body"
    return None


def value_error(value: str) -> str | None:
    """Why a text cannot be the value of a header; None when it can. White space around it is left out."""
    value = value.strip()
    if len(value) > MAX_HEADER:
        return f"has {len(value)} characters; {MAX_HEADER} are allowed"
    return None if _HEADER_VALUE.fullmatch(value) else "contains a line break or another control character"


def make_request(fields: Mapping[str, Any], context: ActionContext) -> Request:
    """Render and sign a request; raises ActionError and TemplateError."""
    method = fields.get("method", "POST")
    url = parse_url(render(fields["url"], context.names))
    if read := secrets_read(fields["url"]):
        context.secrets.add(*_secret_parts(url, context.secret_values(read).values()))
    context.secrets.add_path(url.path)
    body, content_type = _make_body(fields, method, context)
    headers = {} if content_type is None else {"Content-Type": content_type}
    for name, value in _rendered_headers(fields.get("headers", {}), context.names):
        headers["Content-Type" if name.lower() == "content-type" else name] = value
    all_headers = {**headers, **DEFAULT_HEADERS, **_signature_headers(body, context)}
    target = context.secrets.mask(http_target(method, fields["url"], url))
    return Request(method, url, all_headers, body.encode(), target)


def _secret_parts(url: URL, values: Iterable[str]) -> list[str]:
    """The parts of a URL that come from secrets. `URL` encodes some characters in a way that no filter does."""
    query = [part.partition("=")[2] for part in url.raw_query_string.split("&")]
    texts = [text for value in values for text in (value, unquote(value))]
    # Secrets in a part, and parts of a secret that is the URL or several of its parts.
    parts = [
        part for part in (*url.raw_parts, *query, url.raw_fragment) if any(text in unquote(part) for text in texts)
    ]
    parts += [
        part for part in (url.raw_path, *url.raw_parts) if any("/" in text and unquote(part) in text for text in texts)
    ]
    # A host is written in small letters.
    hosts = [text.lower() for text in texts if text and text.lower() in (url.host or "")]
    return [*hosts, *(form for part in parts for form in (part, unquote(part)))]


def _make_body(fields: Mapping[str, Any], method: str, context: ActionContext) -> tuple[str, str | None]:
    """The body and its content type; no type without a body."""
    if "json" in fields:
        return EXACT_JSON.encode(encodable(render_value(fields["json"], context.names))).decode(), "application/json"
    if "body" in fields:
        return str(encodable(render(fields["body"], context.names))), "text/plain; charset=utf-8"
    if method in EVENT_METHODS:
        return _event_json(context), "application/json"
    return "", None


def _event_json(context: ActionContext) -> str:
    """The event as JSON; `data` is the text that Postgres makes of it: the same values, numbers with all digits."""
    run, event = context.run, context.run.event
    return EXACT_JSON.encode(
        {
            "event": event.event,
            "distinct_id": event.distinct_id,
            "phone": event.phone,
            "data": msgspec.Raw(event.data_json.encode()),
            "received_at": utc_text(event.received_at),
            # Only if there is one, since receivers may not expect it.
            **({} if event.occurred_at is None else {"occurred_at": utc_text(event.occurred_at)}),
            "run": {"id": str(run.id), "workflow": run.workflow, "version": run.version},
        }
    ).decode()


def _rendered_headers(headers: Mapping[str, Any], names: Mapping[str, Any]) -> list[tuple[str, str]]:
    rendered = []
    for name, template in headers.items():
        value = str(encodable(render_scalar(template, names))).strip()
        if error := value_error(value):
            raise ActionError("bad_header", f"the header {name} {error}")
        rendered.append((name, value))
    return rendered


def _signature_headers(body: str, context: ActionContext) -> dict[str, str]:
    message_id = f"msg_{context.idempotency_key}"
    now = context.now.astimezone(UTC)
    return {
        "Idempotency-Key": context.idempotency_key,
        "webhook-id": message_id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": Webhook(context.signing_secret).sign(message_id, now, body),
    }


def encodable(value: Any) -> Any:
    """`value` with `?` in place of lone surrogates, which UTF-8 cannot encode."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, Mapping):
        return {encodable(name): encodable(member) for name, member in value.items()}
    return [encodable(member) for member in value] if isinstance(value, list) else value
