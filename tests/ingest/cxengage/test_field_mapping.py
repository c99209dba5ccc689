"""The body of a third party is mapped to fields by dotted paths, with exact values."""

from __future__ import annotations

import pytest

from app.core.errors import Problem
from app.ingest.cxengage.event_builder import map_body

BODY = b"""{"interaction": {"author": {"username": "ian", "name": "\\u00fc"}, "null": null},
 "items": [{"id": 1}, {"id": 12345678901234567890123, "price": 5.10}], "a.b": 1, "0": "zero"}"""


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("interaction.author.username", '"ian"'),
        ("interaction.author.name", '"\\u00fc"'),
        ("interaction.author", '{"username": "ian", "name": "\\u00fc"}'),
        ("interaction.null", "null"),
        ("items.0.id", "1"),
        ("items.1.id", "12345678901234567890123"),
        ("items.1.price", "5.10"),
        ("items", '[{"id": 1}, {"id": 12345678901234567890123, "price": 5.10}]'),
        ("0", '"zero"'),
    ],
)
def test_a_value_is_taken_from_its_path(path: str, text: str) -> None:
    mapped = map_body(BODY, {"field": path})
    assert (dict(mapped.fields.raw), mapped.warnings) == ({"field": text}, ())
    assert set(mapped.fields.value) == {"field"}


@pytest.mark.parametrize(
    "path", ["nothing", "items.2", "items.x", "items.-1", "items.0.id.x", "interaction.null.x", "a.b"]
)
def test_a_missing_value_is_left_out_with_a_warning(path: str) -> None:
    mapped = map_body(BODY, {"field": path, "user": "interaction.author.username"})
    assert dict(mapped.fields.raw) == {"user": '"ian"'}
    assert mapped.warnings == (f"field: nothing at {path}; the field was left out",)


def test_the_body_may_be_an_array() -> None:
    assert dict(map_body(b'[{"id": 7}]', {"id": "0.id"}).fields.raw) == {"id": "7"}


@pytest.mark.parametrize("body", [b"5", b'"text"', b"{", b"", b'{"a": 1, "a": 2}', b'{"a": NaN}', b'{"a": 1e999999}'])
def test_an_invalid_body_is_refused(body: bytes) -> None:
    with pytest.raises(Problem) as error:
        map_body(body, {"a": "a"})
    assert error.value.status in (400, 422)
