"""Lists of resources are complete up to a size, and have pages; stored documents have a maximum size."""

from __future__ import annotations

import re
from typing import Any

import pytest

from app.services.context import AppContext
from app.services.cxengage import crud
from tests.api.cxengage.conftest import Tenant

BODIES: dict[str, tuple[str, dict[str, Any]]] = {
    "patterns": ("PT", {"name": "x", "when": "(event (= a 1))", "then": "(send echo message {})"}),
    "templates": ("TM", {"name": "x", "template": "Hi"}),
    "listeners": ("LI", {"name": "x", "mapping": {"a": "b"}}),
    "augments": ("AU", {"name": "x", "type": "file"}),
}
each_kind = pytest.mark.parametrize("kind", BODIES)


def make(tenant: Tenant, kind: str, count: int) -> None:
    for _ in range(count):
        assert tenant.post(f"/{kind}", BODIES[kind][1]).status_code == 201


def ids(answer: Any) -> list[str]:
    assert answer.status_code == 200, answer.data
    return [one["id"] for one in answer.json]


def next_page(answer: Any) -> str | None:
    """The path and query of the Link header, below the tenant."""
    link = answer.headers.get("Link")
    if link is None:
        return None
    match = re.fullmatch(r'<(/1\.0)?/tenants/[^/]+(/[^>]+)>; rel="next"', link)
    assert match is not None, link
    return match[2]


@each_kind
def test_a_list_has_pages(tenant: Tenant, kind: str) -> None:
    prefix = BODIES[kind][0]
    make(tenant, kind, 5)
    pages, path = [], f"/{kind}?limit=2"
    while path is not None:
        answer = tenant.get(path)
        pages.append(ids(answer))
        path = next_page(answer)
    assert pages == [[f"{prefix}1", f"{prefix}2"], [f"{prefix}3", f"{prefix}4"], [f"{prefix}5"]]


@each_kind
def test_a_list_without_a_limit_is_complete(tenant: Tenant, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crud, "_BATCH", 2)
    make(tenant, kind, 5)
    answer = tenant.get(f"/{kind}")
    assert [int(id_[2:]) for id_ in ids(answer)] == [1, 2, 3, 4, 5]
    assert "Link" not in answer.headers


def test_a_page_continues_after_a_resource_that_was_deleted(tenant: Tenant) -> None:
    make(tenant, "templates", 3)
    answer = tenant.get("/templates?limit=1")
    tenant.delete("/templates/TM1")
    path = next_page(answer)
    assert path is not None
    assert ids(tenant.get(path)) == ["TM2"]


def test_the_last_page_has_no_link(tenant: Tenant) -> None:
    make(tenant, "templates", 2)
    assert next_page(tenant.get("/templates?limit=2")) is None
    assert ids(tenant.get("/templates?limit=2&after=TM2")) == []


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("limit=0", "limit: must be a whole number from 1 to 1000"),
        ("limit=1001", "limit: must be a whole number from 1 to 1000"),
        ("limit=ten", "limit: must be a whole number from 1 to 1000"),
        ("limit=%C2%B2", "limit: must be a whole number from 1 to 1000"),
        ("after=LI1", "after: must be an id such as TM1"),
        ("after=1", "after: must be an id such as TM1"),
    ],
)
def test_an_invalid_page_is_refused(tenant: Tenant, query: str, message: str) -> None:
    answer = tenant.get(f"/templates?{query}")
    assert (answer.status_code, answer.json) == (400, {"error": message})


def test_a_list_that_is_too_large_has_to_be_read_in_pages(tenant: Tenant, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tenant, "templates", 4)
    size = len(tenant.get("/templates/TM1").data)
    monkeypatch.setattr(crud, "MAX_LIST_BYTES", 2 * size + 3)
    answer = tenant.get("/templates")
    assert answer.status_code == 400
    assert "add ?limit=100 and follow the Link header" in answer.json["error"]
    # A page that would be too large is shorter than its limit.
    first = tenant.get("/templates?limit=100")
    assert ids(first) == ["TM1", "TM2"]
    path = next_page(first)
    assert path == "/templates?limit=100&after=TM2"
    assert ids(tenant.get(path)) == ["TM3", "TM4"]


def test_the_pages_of_another_tenant_are_empty(tenant: Tenant, stranger: Tenant) -> None:
    make(tenant, "templates", 2)
    assert ids(stranger.get("/templates?limit=1")) == []


# Sizes


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("listeners", {"options": {"a": "x" * 70_000}}, "options: has 70009 bytes as JSON; at most 65536 are allowed"),
        ("listeners", {"topic": "x" * 70_000}, "further members: have 70012 bytes as JSON; at most 65536 are allowed"),
        (
            "listeners",
            {"mapping": {f"field{number}": "x" * 900 for number in range(100)}},
            "mapping: has 91291 bytes as JSON; at most 65536 are allowed",
        ),
        ("listeners", {"description": "x" * 10_001}, "description: must have at most 10000 characters"),
        ("patterns", {"when": "x" * 65_537}, "when: must have at most 65536 characters"),
        ("patterns", {"key": "x" * 256}, "key: must have 1 to 255 characters"),
        (
            "augments",
            {"type": "api", "url": "http://crm.example/", "attributes": [f"{number:0200}" for number in range(100)]},
            "attributes: has 20000 characters; at most 16384 are allowed",
        ),
        (
            "augments",
            {"type": "api", "url": "http://crm.example/" + "x" * 2_000},
            "url: must have 1 to 2000 characters",
        ),
    ],
)
def test_a_document_that_is_too_large_is_refused(
    tenant: Tenant, kind: str, change: dict[str, Any], message: str
) -> None:
    prefix, body = BODIES[kind]
    assert tenant.post(f"/{kind}", {**body, **change}).json == {"error": message}
    make(tenant, kind, 1)
    if kind != "augments":
        assert tenant.put(f"/{kind}/{prefix}1", change).json == {"error": message}


def test_further_members_have_a_size_together(tenant: Tenant) -> None:
    make(tenant, "listeners", 1)
    assert tenant.put("/listeners/LI1", {"topic": "x" * 40_000}).status_code == 200
    answer = tenant.put("/listeners/LI1", {"hash": "x" * 40_000})
    assert answer.json["error"].startswith("further members: have 80022 bytes as JSON")
    assert tenant.put("/listeners/LI1", {"topic": None, "hash": "x" * 40_000}).status_code == 200


def test_a_key_attribute_has_a_maximum_length(tenant: Tenant) -> None:
    answer = tenant.post("/key-attribute", {"key": "x" * 256})
    assert (answer.status_code, "1 to 255 printable characters" in answer.json["error"]) == (400, True)


def test_a_field_of_an_integration_has_a_maximum_length(tenant: Tenant) -> None:
    answer = tenant.post("/integrations/sendgrid", {"account": "x" * 70_000, "password": "SG.x"})
    assert answer.status_code == 400
    assert answer.json["error"].startswith("account must be ")


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"id,a\n1," + b"x" * 70_000 + b"\n", "line 2: has 70001 bytes; at most 65536 are allowed"),
        (
            b"id," + b",".join(b"%0100d" % number for number in range(190)) + b"\n",
            "line 1: the names of the columns have 19002 bytes together; at most 16384 are allowed",
        ),
    ],
)
def test_a_row_of_a_file_has_a_maximum_size(tenant: Tenant, raw: bytes, message: str) -> None:
    make(tenant, "augments", 1)
    answer = tenant.post("/augments/AU1/file", raw, headers={"Content-Type": "text/csv"})
    assert (answer.status_code, answer.json) == (400, {"error": message})


def test_a_file_is_read_in_portions(tenant: Tenant, context: AppContext) -> None:
    make(tenant, "augments", 1)
    raw = b"id,a\n" + b"".join(b"%d,x\n" % number for number in range(5_000))
    assert tenant.post("/augments/AU1/file", raw, headers={"Content-Type": "text/csv"}).status_code == 201
    assert tenant.get("/augments/AU1/file").data == raw
