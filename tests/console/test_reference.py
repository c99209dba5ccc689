"""The reference of the API in the console: open, made from the document, and small."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import pytest
from flask import Flask

from app.console import reference
from tests.api.management.test_document import DOCUMENT
from tests.console.test_budgets import MAX_HTML
from tests.support.console import Browser
from tests.support.management import operations

TAGS = [tag["name"] for tag in DOCUMENT["tags"]]


@pytest.fixture
def nobody(app: Flask) -> Browser:
    return Browser(app.test_client(), "")


def test_the_reference_lists_every_operation_for_everybody(nobody: Browser) -> None:
    page = nobody.get("/api")
    assert page.status_code == 200
    for operation in operations(DOCUMENT, ""):
        assert f"#{operation.name}" in page.text
    assert len(page.data) <= MAX_HTML


@pytest.mark.parametrize("tag", TAGS)
def test_a_part_shows_each_of_its_operations_with_their_schemas(nobody: Browser, tag: str) -> None:
    page = nobody.get(f"/api?part={tag}")
    assert page.status_code == 200
    for operation in operations(DOCUMENT, ""):
        assert (f'id="{operation.name}"' in page.text) == (tag in operation.spec["tags"])
    ids = re.findall(r'id="([^"]+)"', page.text)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#(schema-[^"]+)"', page.text)) <= set(ids)
    assert len(page.data) <= MAX_HTML


def test_a_part_shows_limits_access_and_examples(nobody: Browser) -> None:
    page = nobody.get("/api?part=limechat").text
    for text in ("at most 255 characters", "x-limechat-uat: KEY, scope events:write", "product_view", "429 Too Many"):
        assert text in page


def test_both_paths_of_cxengage_are_shown(nobody: Browser) -> None:
    page = nobody.get("/api?part=cxengage").text
    assert "POST /1.0/tenants/{tenant}/event<" in page
    assert "POST /tenants/{tenant}/event<" in page


@pytest.mark.parametrize("path", ["/api", f"/api?part={TAGS[0]}"])
def test_what_a_page_shows_of_the_document_is_rendered_once(
    nobody: Browser, owner: Browser, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    rendered: list[int] = []
    first = nobody.get(path).text
    operations_of = reference._operations

    def operations_counted(document: Mapping[str, Any]) -> Any:
        rendered.append(1)
        return operations_of(document)

    monkeypatch.setattr(reference, "_operations", operations_counted)
    assert nobody.get(path).text == first
    assert "Sign out" in owner.get(path).text
    assert not rendered


def test_an_unknown_part_does_not_exist(nobody: Browser) -> None:
    assert nobody.get("/api?part=nothing").status_code == 404


def test_each_page_leads_to_the_reference(nobody: Browser, owner: Browser, acme: Any) -> None:
    for page in (nobody.get("/sign-in"), owner.get(f"/{acme.slug}/"), owner.get(f"/{acme.slug}/keys")):
        assert 'href="/console/api"' in page.text
