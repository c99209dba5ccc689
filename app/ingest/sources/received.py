"""A delivery as it was received, and what of it is stored: headers and query without secrets."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from urllib.parse import unquote_plus
from uuid import UUID

from msgspec import Struct

from app.actions.integration_kinds import MASK
from app.actions.masking import is_secret_name
from app.core.api_keys import source_prefix_of
from app.core.exact_json import is_storable, replace_unstorable
from app.db.deliveries import DeliveryProblem, DeliveryRow, NewDelivery
from app.ingest.sources.compiled import Source
from app.ingest.sources.delivery_values import DeliveryRequest, unpack_body

# A shorter secret is not masked inside values: it may be a part of any text.
_MIN_SECRET = 6
_MAX_PROBLEMS, _MAX_MESSAGE = 50, 500


class ReceivedDelivery(Struct, frozen=True):
    """A delivery to a source: its id, what was sent, and when. `replayed_at`: when a stored delivery is mapped again."""

    id: UUID
    source_id: UUID
    received_at: datetime
    request: DeliveryRequest
    query: str
    content_encoding: str | None
    request_id: str
    replayed_at: datetime | None = None


def new_delivery(
    received: ReceivedDelivery,
    account_id: int,
    source: Source,
    *,
    verified: bool,
    result: str,
    problems: Sequence[DeliveryProblem] = (),
) -> NewDelivery:
    """The row of a delivery, without its events."""
    request = received.request
    return NewDelivery(
        account_id=account_id,
        id=received.id,
        source_id=received.source_id,
        source_version=source.snapshot.version,
        received_at=received.received_at,
        method=request.method,
        headers=_without_secrets(request, source),
        body=request.raw_body,
        verified=verified,
        result=result,
        request_id=received.request_id,
        query=_query_without_secrets(received.query, source) or None,
        content_encoding=received.content_encoding,
        problems=tuple(map(_bounded, problems[:_MAX_PROBLEMS])) or None,
        replayed_at=received.replayed_at,
    )


def request_of(row: DeliveryRow, body: bytes, max_unpacked: int) -> DeliveryRequest:
    """A stored delivery as a request, without the host and the token of its URL. What is masked is missing: as a value, it would
    be the same in all deliveries."""
    unpacked, fault = unpack_body(body, row.content_encoding or "", max_unpacked)
    headers = {name: value for name, value in row.headers.items() if value != MASK}
    query = "&".join(part for part in (row.query or "").split("&") if part.partition("=")[2] != MASK)
    return DeliveryRequest(row.method, f"https://localhost/hooks/?{query}", headers, body, unpacked, fault)


def _bounded(problem: DeliveryProblem) -> DeliveryProblem:
    path, message = (replace_unstorable(text[:_MAX_MESSAGE]) for text in (problem.path, problem.message))
    return DeliveryProblem(problem.item, path, message)


def _without_secrets(request: DeliveryRequest, source: Source) -> dict[str, str]:
    """The headers with *** for values that are secret by their name, or that contain a secret or the token of the source.

    A header that the mapping reads is a part of events, whatever its name, and is needed when the delivery is mapped again.
    """
    found = dict(request.headers)
    found.update(dict.fromkeys(set(filter(_is_secret, found)) - source.compiled.mapping.headers_read, MASK))
    found.update(dict.fromkeys(_own_locations(source, "header") & found.keys(), MASK))
    secrets = [secret for secret in source.secrets if len(secret) >= _MIN_SECRET]
    # Some proxies add the URL, such as in X-Original-URI.
    token = request.url.partition("?")[0].rpartition("/")[2]
    if source_prefix_of(token):
        secrets.append(token)
    # Matches are rare, so all values are searched at once first.
    joined = "\n".join(found.values())
    if not is_storable(joined) or any(secret in joined for secret in secrets):
        for name, value in found.items():
            found[name] = MASK if any(secret in value for secret in secrets) else replace_unstorable(value)
    return found


def _query_without_secrets(query: str, source: Source) -> str:
    if not query:
        return ""
    own, mapped = _own_locations(source, "query"), source.compiled.mapping.parameters_read
    secrets = [secret for secret in source.secrets if len(secret) >= _MIN_SECRET]
    parts = []
    for part in query.split("&"):
        name, _, value = part.partition("=")
        # Any character may be written as %xx.
        plain_name, plain = unquote_plus(name), unquote_plus(value)
        is_found = any(secret in value or secret in plain for secret in secrets)
        is_secret = is_found or plain_name in own or (_is_secret(plain_name) and plain_name not in mapped)
        parts.append(f"{name}={MASK}" if is_secret else part)
    return replace_unstorable("&".join(parts))


def _own_locations(source: Source, kind: str) -> frozenset[str]:
    """The names of headers or query parameters in which the source expects a shared secret."""
    return frozenset(location.name for location in source.compiled.secret_locations if location.kind == kind)


@lru_cache(maxsize=4_096)
def _is_secret(name: str) -> bool:
    """Whether a value of this name is secret; a signature, and the name of an event in X-Event-Key, are not."""
    return is_secret_name(name) and "signature" not in name.lower() and name.lower() != "x-event-key"
