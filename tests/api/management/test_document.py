"""The OpenAPI document: it is valid, has every route, and its examples work."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from flask import Flask
from openapi_spec_validator import validate

from app.core.models import ACCOUNT_MANAGE, OPERATOR, SCOPES
from app.services.context import AppContext
from tests.support.management import PREFIX, Manager, Operation, a_key, operations, request_of


def _document() -> dict[str, Any]:
    """The document without a database, for the names of the tests."""
    from app import create_app
    from app.core.config import from_environment

    app = create_app(from_environment({"DATABASE_URL": "postgresql://nobody@127.0.0.1/none"}))
    found: dict[str, Any] = app.test_client().get("/openapi.json").get_json()
    return found


DOCUMENT = _document()
OPERATIONS = list(operations(DOCUMENT))


def _name(operation: Operation) -> str:
    return operation.name


def _paths(app: Flask) -> set[tuple[str, str]]:
    """(method, path) of the routes of an application, as the document writes them."""
    from flask_smorest.spec.plugins import FlaskPlugin

    return {
        (method.lower(), FlaskPlugin.flaskpath2openapi(rule.rule))
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }


def test_the_document_is_valid_openapi() -> None:
    assert DOCUMENT["openapi"].startswith("3.1.")
    validate(DOCUMENT)


def test_every_operation_has_a_name_of_its_own_and_a_summary() -> None:
    every = list(operations(DOCUMENT, ""))
    assert len({one.name for one in every}) == len(every)
    assert [one.name for one in every if not one.spec.get("summary")] == []


def test_every_operation_names_its_scopes() -> None:
    for operation in OPERATIONS:
        (scopes,) = [next(iter(found.values())) for found in operation.spec["security"]]
        assert scopes and set(scopes) <= set(SCOPES)


def test_every_error_is_a_problem_document() -> None:
    for name, response in DOCUMENT["components"]["responses"].items():
        if name != "NOT_MODIFIED":
            assert list(response["content"]) == ["application/problem+json"]


@pytest.mark.parametrize("operation", OPERATIONS, ids=_name)
def test_the_example_of_an_operation_works(
    context: AppContext, manager: Manager, values: dict[str, str], operation: Operation
) -> None:
    if operation.is_of_operator:
        manager = replace(manager, token=a_key(context, manager.sender, ACCOUNT_MANAGE, OPERATOR))
    whole, body = request_of(operation, DOCUMENT, values)
    path = whole.removeprefix(PREFIX)
    headers = {}
    if operation.method in ("put", "patch", "delete"):
        # A plan has the ETag of its account.
        headers["If_Match"] = manager.tag(path.replace("/plan?", "?"))
    answer = manager.call(operation.method.upper(), path, body, **headers)
    assert str(answer.status_code) in operation.spec["responses"], answer.text
    assert answer.status_code < 300, answer.text
