"""Validation of the action `message`. tests/services/test_message_stream.py tests the message stream."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

import pytest

from app.actions import message
from tests.support.action_contexts import perform

ID = UUID("01a20154-90e0-75eb-90e3-fa42b2109aca")


@pytest.mark.parametrize(
    ("fields", "path", "expected"),
    [
        ("hello", "message", "must be an object"),
        ({}, "message.text", "is required"),
        ({"text": " "}, "message.text", "is empty"),
        ({"text": "{{ nope }}"}, "message.text", "nope is unknown"),
        ({"text": "x", "data": "y"}, "message.data", "must be an object"),
        ({"text": "x", "data": {"a": [{"b": "{{"}]}}, "message.data.a[0].b", "is not closed"),
        ({"text": "x", "data": {"a": {"mustache": "{{#a}}"}}}, "message.data.a.mustache", "is not closed"),
        ({"text": "x", "to": "y"}, "message.to", "is unknown"),
    ],
)
def test_an_error_has_its_path(fields: Any, path: str, expected: str) -> None:
    ((found_path, found_message),) = message.check(fields, "message")
    assert found_path == path
    assert expected in found_message


def test_a_member_named_mustache_is_data() -> None:
    sent: list[tuple[str, Mapping[str, Any]]] = []

    async def keep(text: str, data: Mapping[str, Any]) -> UUID:
        sent.append((text, data))
        return ID

    fields = {"text": "{{ event }}\0", "data": {"mustache": "{{ phone }}", "n": 1, "no": None, "deep": [{"\0": "\0"}]}}
    assert message.check(fields, "message") == []
    outcome = perform({"message": fields}, save_message=keep)
    text, data = "order_placed\ufffd", {"mustache": "+915673412780", "n": 1, "no": None, "deep": [{"\ufffd": "\ufffd"}]}
    assert sent == [(text, data)]
    assert outcome.output == {"id": str(ID), "text": text}
