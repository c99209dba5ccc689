"""Forms as bodies of deliveries: fields are members of `body`, files are without their contents."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from app.workflows.sources.document import compile_source
from app.workflows.sources.mapping import DeliveryView, MappedEvent, MappingProblem, map_delivery
from tests.core.test_forms import TYPE, a_form, a_part

MAP = {"event": "body.event", "distinct_id": "body.from", "data": "body"}


def map_form(body: bytes, content_type: str = TYPE, values: Mapping[str, Any] = MAP) -> tuple[list[Any], list[Any]]:
    """Events and problems of a body."""
    compiled = compile_source({"name": "s", "verify": "none", "map": values})
    media_type = content_type.partition(";")[0].lower()
    return map_delivery(compiled.mapping, DeliveryView("POST", {}, {"content-type": content_type}, body, media_type))


def one_event(*arguments: Any) -> MappedEvent:
    (event,), problems = map_form(*arguments)
    assert problems == []
    assert isinstance(event, MappedEvent)
    return event


def test_the_parts_of_a_form_are_members_of_the_body() -> None:
    event = one_event(
        a_form(
            a_part("event", b"mail"),
            a_part("from", b"asha@example.com"),
            a_part("to", b"a@example.com"),
            a_part("to", b"b@example.com"),
            a_part("attachment", b"\x00\xff", "Content-Type: application/pdf", filename="a.pdf"),
        )
    )
    assert (event.event, event.distinct_id) == ("mail", "asha@example.com")
    assert json.loads(event.data_json) == {
        "event": "mail",
        "from": "asha@example.com",
        "to": ["a@example.com", "b@example.com"],
        "attachment": {"filename": "a.pdf", "content_type": "application/pdf", "size": 2},
    }


@pytest.mark.parametrize("content_type", ["Multipart/Form-Data; Boundary=xx", 'multipart/form-data; boundary="xx"'])
def test_the_boundary_may_be_written_in_any_way(content_type: str) -> None:
    assert one_event(a_form(a_part("event", b"e"), a_part("from", b"f")), content_type).event == "e"


def test_a_part_with_the_name_payload_alone_is_json() -> None:
    body = a_form(a_part("payload", b'{"event": "e", "from": "f", "price": 10.50}'))
    assert one_event(body).data_json == '{"event": "e", "from": "f", "price": 10.50}'


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"--xx\r\n", "the body is a form, and it ends before its last boundary"),
        (a_form(a_part("event", b"\x00"), a_part("from", b"f")), "event: contains a NUL character"),
    ],
    ids=["cut off", "unstorable"],
)
def test_a_form_that_cannot_be_read_is_a_problem(body: bytes, message: str) -> None:
    events, (problem,) = map_form(body)
    assert (events, problem.path) == ([], "body")
    assert isinstance(problem, MappingProblem)
    assert problem.message.startswith(message)


def test_a_body_with_very_many_lists_is_a_problem() -> None:
    events, (problem,) = map_form(b"[" + b"[]," * 100_000 + b"[]]", "application/json")
    assert (events, problem.message) == ([], "the body has more than 100,000 lists")
