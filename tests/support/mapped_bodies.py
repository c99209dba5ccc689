"""What sources make of bodies, for tests of mapping."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from app.workflows.sources.document import check_source, compile_source
from app.workflows.sources.mapping import DeliveryView, MappedEvent, MappingProblem, map_delivery
from app.workflows.yaml_loader import read_document

FORM = "application/x-www-form-urlencoded"
JSON = "application/json"
# The values of an event of which only the rest is tested.
NAMED = {"event": "'x'", "distinct_id": "'p'"}


def map_body(
    body: Any,
    *,
    headers: Mapping[str, str] | None = None,
    query: Mapping[str, str] | None = None,
    media_type: str = JSON,
    **document: Any,
) -> tuple[list[MappedEvent], list[MappingProblem]]:
    """What a source makes of a body: of bytes and text as they are, of anything else as JSON."""
    source = {"name": "s", "verify": "none", "map": {"event": "body.type", "distinct_id": "body.who"}, **document}
    assert list(map(str, check_source(read_document(json.dumps(source))))) == []
    if isinstance(body, str):
        body = body.encode()
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    view = DeliveryView("POST", query or {}, headers or {}, raw, media_type)
    return map_delivery(compile_source(source).mapping, view)


def one_event(body: Any, **document: Any) -> MappedEvent:
    """The only event of a body; there are no problems."""
    events, problems = map_body(body, **document)
    assert problems == []
    (event,) = events
    return event
