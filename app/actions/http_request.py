"""Requests as they go out, and what is kept of them; an `http` action's fields become one: rendered and signed.

Headers that are ours (or belong to one connection) cannot be set by authors. Signed by Standard Webhooks; `webhook-id` is
the idempotency key, so that a receiver sees the same one in all attempts.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import msgspec
from standardwebhooks import Webhook
from yarl import URL

from app.actions.context import ActionContext, ActionError
from app.actions.integration_kinds import MASK
from app.actions.templates.render import render, render_scalar, render_value
from app.core.timestamps import utc_text
from app.core.unstorable import replace_unstorable

BODILESS = ("GET", "HEAD")
SENDING_THE_EVENT = ("POST", "PUT", "PATCH")
METHODS = (*BODILESS, *SENDING_THE_EVENT, "DELETE")

LONGEST_URL = 8_000
LONGEST_HEADER = 8_000
LONGEST_TARGET = 1_000
KEPT = 4_096

_OURS = frozenset(
    (
        *("idempotency-key", "webhook-id", "webhook-timestamp", "webhook-signature", "user-agent", "host"),
        *("content-length", "content-encoding", "accept-encoding", "transfer-encoding", "expect"),
        *("connection", "keep-alive", "te", "trailer", "upgrade"),
    )
)
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")
_HEADER_VALUE = re.compile(r"[^\x00-\x08\x0a-\x1f\x7f]*")
_SECRET_NAME = re.compile(
    r"token|secret|passw|pwd|api[-_]?key|^key$|auth|signature|^sig$|credential|session|cookie|^code$|jwt", re.IGNORECASE
)
EXACT_JSON = msgspec.json.Encoder(decimal_format="number")


def _version() -> str:
    try:
        return version("signalbox")
    except PackageNotFoundError:
        return "dev"


# Who calls, and that answers are wanted as they are.
PLAIN: Mapping[str, str] = {"User-Agent": f"Signalbox/{_version()}", "Accept-Encoding": "identity"}


@dataclass(frozen=True, slots=True)
class Request:
    """What is about to be sent; `secrets` are texts that must be kept nowhere, wherever they turn up."""

    method: str
    url: URL
    headers: Mapping[str, str]
    body: bytes
    secrets: tuple[str, ...] = field(default=(), repr=False)

    def kept(self) -> dict[str, Any]:
        """What is kept with the attempt: secrets masked, the body cut."""
        shown = {
            name: MASK if _SECRET_NAME.search(name) else replace_unstorable(value)
            for name, value in self.headers.items()
        }
        return {
            "method": self.method,
            "url": mask_url(self.url)[:KEPT],
            "headers": shown,
            "body": replace_unstorable(self.body[:KEPT].decode("utf-8", "ignore")),
        }


def read_url(text: str) -> URL:
    """A URL that can be called; raises ActionError with what is wrong with it."""
    text = text.strip()
    if len(text) > LONGEST_URL:
        raise ActionError("bad_url", f"the URL has {len(text)} characters; {LONGEST_URL} are allowed")
    if any(letter <= " " or letter == "\x7f" for letter in text):
        raise ActionError("bad_url", "the URL contains spaces or control characters; the filter url_encode helps")
    try:
        url = URL(text)
        scheme, host, _ = url.scheme, url.host, url.port
    except ValueError as exc:
        raise ActionError("bad_url", f"the URL cannot be read: {exc}"[:300]) from None
    if scheme not in ("http", "https"):
        raise ActionError("bad_url", "the URL has to begin with https:// or http://")
    if not host or len(host) > 253 or any(len(label) > 63 for label in host.split(".")):
        raise ActionError("bad_url", "the URL names no host, or one that is too long")
    if url.user is not None or url.password is not None:
        raise ActionError("bad_url", "credentials do not belong into a URL; send them in the header Authorization")
    return url


def target_of(url: URL) -> str:
    """What a destination means that says it is gone: scheme, host and path, without the query."""
    text = str(url.with_query(None).with_fragment(None))
    if len(text) <= LONGEST_TARGET:
        return text
    return f"{text[: LONGEST_TARGET - 65]}#{hashlib.sha256(text.encode()).hexdigest()}"


def mask_url(url: URL) -> str:
    """The URL with the values of query members masked that look like secrets."""
    if not any(_SECRET_NAME.search(name) for name in url.query):
        return str(url)
    return str(
        url.with_query([(name, MASK if _SECRET_NAME.search(name) else value) for name, value in url.query.items()])
    )


def header_mistake(name: Any, *, with_body: bool) -> str | None:
    """Why an author cannot set a header of this name, or None."""
    if not isinstance(name, str) or not _HEADER_NAME.fullmatch(name):
        return "is not a header name"
    if name.lower() in _OURS or name.lower().startswith("proxy-"):
        return "is set by Signalbox and cannot be set here"
    if name.lower() == "content-type" and not with_body:
        return "is application/json unless the request has a body of your own (body)"
    return None


def make_request(fields: Mapping[str, Any], context: ActionContext) -> Request:
    """Render and sign; raises ActionError and TemplateError."""
    method = fields.get("method", "POST")
    url = read_url(render(fields["url"], context.names))
    body, kind = _make_body(fields, method, context)
    headers = {} if kind is None else {"Content-Type": kind}
    for name, value in _rendered_headers(fields.get("headers", {}), context.names):
        headers["Content-Type" if name.lower() == "content-type" else name] = value
    return Request(method, url, {**headers, **PLAIN, **_signed(body, context)}, body.encode())


def _make_body(fields: Mapping[str, Any], method: str, context: ActionContext) -> tuple[str, str | None]:
    """The body, and its type if there is one."""
    if "json" in fields:
        return EXACT_JSON.encode(sendable(render_value(fields["json"], context.names))).decode(), "application/json"
    if "body" in fields:
        return str(sendable(render(fields["body"], context.names))), "text/plain; charset=utf-8"
    if method in SENDING_THE_EVENT:
        return _the_event(context), "application/json"
    return "", None


def _the_event(context: ActionContext) -> str:
    """The event as JSON; its data go out as the text that came in."""
    run, event = context.run, context.run.event
    return EXACT_JSON.encode(
        {
            "event": event.event,
            "distinct_id": event.distinct_id,
            "phone": event.phone,
            "data": msgspec.Raw(event.data_json.encode()),
            "received_at": utc_text(event.received_at),
            "run": {"id": str(run.id), "workflow": run.workflow, "version": run.version},
        }
    ).decode()


def _rendered_headers(headers: Mapping[str, Any], names: Mapping[str, Any]) -> list[tuple[str, str]]:
    made = []
    for name, template in headers.items():
        value = str(sendable(render_scalar(template, names))).strip()
        if len(value) > LONGEST_HEADER or not _HEADER_VALUE.fullmatch(value):
            raise ActionError("bad_header", f"the header {name} is too long or contains line breaks")
        made.append((name, value))
    return made


def _signed(body: str, context: ActionContext) -> dict[str, str]:
    """The headers that are ours."""
    message_id = f"msg_{context.idempotency_key}"
    moment = context.now.astimezone(UTC)
    return {
        "Idempotency-Key": context.idempotency_key,
        "webhook-id": message_id,
        "webhook-timestamp": str(int(moment.timestamp())),
        "webhook-signature": Webhook(context.signing_secret).sign(message_id, moment, body),
    }


def sendable(value: Any) -> Any:
    """`value` with `?` for lone surrogates, which have no bytes in UTF-8."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, Mapping):
        return {sendable(name): sendable(member) for name, member in value.items()}
    return [sendable(member) for member in value] if isinstance(value, list) else value
