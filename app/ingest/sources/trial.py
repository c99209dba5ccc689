"""Tries a source on a request: whether it is verified, and which events it becomes. Stores nothing.

The request is a stored delivery, or in a file as HTTP/1.1 writes it: `POST /hooks/x HTTP/1.1`, headers, an empty line, the body.
Line breaks may be LF.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from datetime import datetime

from app.core.exact_json import LARGE
from app.db.deliveries import DeliveryRow
from app.ingest.sources.compiled import resolve_secrets
from app.ingest.sources.delivery_values import DeliveryRequest, unpack_body
from app.ingest.sources.handshakes import HandshakeAnswer, answer_handshake
from app.ingest.sources.verifier import Verdict, verify
from app.services.context import AppContext
from app.services.secrets import find_values
from app.services.sources import checked_source
from app.workflows.sources.document import CompiledSource, compile_source
from app.workflows.sources.mapping import MappedEvent, MappingProblem, map_delivery
from app.workflows.yaml_loader import Document, Mistake

_REQUEST_LINE = re.compile(r"(?P<method>[A-Z]+) (?P<target>\S+)(?: HTTP/\d(?:\.\d)?)?")
_TESTS = ("GET", "HEAD", "OPTIONS")
_URL_PARTS = frozenset({"url", "decoded_url"})


class UnreadableRequest(ValueError):
    """A file that does not contain a request; the message says where."""


@dataclass(frozen=True, slots=True)
class Trial:
    """What a source does with a request. `verdict`: None if the verification cannot be repeated, for the reason `unknown`.
    `handshake`: the answer to a test of the URL, which has no events. `missing`: secrets without a value."""

    verdict: Verdict | None
    unknown: str = ""
    handshake: HandshakeAnswer | None = None
    events: Sequence[MappedEvent] = ()
    problems: Sequence[MappingProblem] = ()
    missing: Sequence[str] = ()


def read_request(raw: bytes, max_unpacked: int) -> DeliveryRequest:
    """The request in a file. Raises UnreadableRequest."""
    head, body = _split(raw)
    lines = head.decode("latin-1").splitlines()
    match = _REQUEST_LINE.fullmatch(lines[0].strip()) if lines else None
    if match is None:
        raise UnreadableRequest("line 1: expected METHOD PATH, such as POST /hooks/x HTTP/1.1")
    headers: dict[str, str] = {}
    for number, line in enumerate(lines[1:], start=2):
        name, colon, value = line.partition(":")
        if not colon or not name.strip() or name != name.strip():
            raise UnreadableRequest(f"line {number}: expected NAME: VALUE; an empty line comes before the body")
        name = name.lower()
        headers[name] = f"{headers[name]},{value.strip()}" if name in headers else value.strip()
    body = _without_last_line_break(body, headers.get("content-length"))
    target = match["target"]
    url = target if "://" in target else f"https://{headers.get('host', 'localhost')}{target}"
    encoding = headers.get("content-encoding", "").strip().lower()
    unpacked, fault = unpack_body(body, "" if encoding == "identity" else encoding, max_unpacked)
    return DeliveryRequest(match["method"], url, headers, body, unpacked, fault)


def _split(raw: bytes) -> tuple[bytes, bytes]:
    """Head and body, which the first empty line separates."""
    parts = re.split(rb"\r?\n\r?\n", raw, maxsplit=1)
    return (parts[0], parts[1]) if len(parts) == 2 else (raw.rstrip(b"\r\n"), b"")


def _without_last_line_break(body: bytes, length: str | None) -> bytes:
    """The body without the line break that editors add to a file, unless Content-Length counts it."""
    if length is not None and length.isdecimal() and not body[int(length) :].strip(b"\r\n"):
        return body[: int(length)]
    return body.removesuffix(b"\n").removesuffix(b"\r")


def try_request(source: CompiledSource, secrets: Mapping[str, str], request: DeliveryRequest, now: datetime) -> Trial:
    """What the source does with a request that arrives at `now`. `secrets`: values by name."""
    values = {name: secrets.get(name) for name in source.secret_names}
    missing = sorted(name for name, value in values.items() if value is None)
    token = None if source.verify_token is None else resolve_secrets(source.verify_token, values)
    if request.method in _TESTS:
        answer = answer_handshake(source.handshake, token, request) or HandshakeAnswer(200, '{"result": "ready"}')
        return Trial(None, "a test of the URL is not a delivery", answer, missing=missing)
    texts = [resolve_secrets(text, values) for text in source.secrets]
    verdict = verify(source.verify, [text for text in texts if text is not None], request, now)
    if verdict.verified and (answered := answer_handshake(source.handshake, token, request)) is not None:
        return Trial(verdict, handshake=answered, missing=missing)
    events, problems = map_delivery(source.mapping, request.view(source.secret_locations))
    return Trial(verdict, events=events, problems=problems, missing=missing)


def try_delivery(
    source: CompiledSource, secrets: Mapping[str, str], row: DeliveryRow, request: DeliveryRequest
) -> Trial:
    """What the source does with a stored delivery, as if it arrived again at the same time."""
    trial = try_request(source, secrets, request, row.received_at)
    reason = _why_not_verifiable(source)
    if reason is None or trial.handshake is not None:
        return trial
    return replace(
        trial, verdict=None, unknown=f"{reason}; it was {'' if row.verified else 'not '}verified when it arrived"
    )


def _why_not_verifiable(source: CompiledSource) -> str | None:
    """Why the verification of a stored delivery cannot be repeated: secrets and the URL are not kept."""
    if source.verify is None:
        return None
    if source.verify.secret_locations:
        return "the secret that was sent is not kept"
    if any(part.kind in _URL_PARTS for part in source.verify.signed):
        return "the URL, which is signed, is not kept"
    return None


@dataclass(frozen=True, slots=True)
class TriedDocument:
    """What a document makes of a request; `document` has the places of its problems."""

    document: Document
    trial: Trial

    @property
    def mistakes(self) -> list[tuple[int | None, Mistake]]:
        """(item, place and reason) of what cannot be mapped."""
        return [(one.item, self.document.mistake(one.path, one.message)) for one in self.trial.problems]


def try_text(
    context: AppContext,
    account_id: int,
    text: str,
    request: DeliveryRequest,
    row: DeliveryRow | None = None,
    *,
    at: datetime | None = None,
) -> TriedDocument:
    """What a document makes of a request that arrives `at` a time (None: now), or of the stored delivery `row`, with the
    account's secrets. Stores nothing. Raises InvalidDocument."""
    document = checked_source(text)
    source = compile_source(document.value)
    values = find_values(context, account_id, sorted(source.secret_names))
    # As when a delivery arrives: of each account, one large body at a time.
    with context.limits.bodies.acquire(account_id) if len(request.body) > LARGE else nullcontext():
        if row is None:
            return TriedDocument(document, try_request(source, values, request, at or context.clock()))
        return TriedDocument(document, try_delivery(source, values, row, request))


def event_members(event: MappedEvent) -> Iterator[tuple[str, object]]:
    """The fields of an event that are set; `data` and `extra` as JSON texts."""
    yield "event", event.event
    yield "distinct_id", event.distinct_id
    optional = {"phone": event.phone, "occurred_at": event.occurred_at, "dedupe": event.dedupe}
    yield from ((name, value) for name, value in optional.items() if value is not None)
    yield "data", event.data_json
    if event.extra_json is not None:
        yield "extra", event.extra_json
