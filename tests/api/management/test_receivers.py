"""The receivers' part of the OpenAPI document: its examples work, and the answers are as it says."""

from __future__ import annotations

from typing import Any

import pytest
from flask import Flask
from openapi_schema_validator import OAS31Validator

from app.api.management import receivers
from app.services.context import AppContext
from tests.api.management.test_document import DOCUMENT
from tests.support.builders import a_sender
from tests.support.management import Operation
from tests.support.receivers import Receivers, fill_receivers, receiver_operations

OPERATIONS = receiver_operations(DOCUMENT)


@pytest.fixture
def filled(context: AppContext, app: Flask) -> Receivers:
    """An account in which each operation finds something."""
    return fill_receivers(context, a_sender(context, app.test_client()), DOCUMENT)


def _name(operation: Operation) -> str:
    return operation.name


def faults_of(answer: Any, operation: Operation) -> list[str]:
    """Where an answer differs from its schema."""
    response = operation.spec["responses"][str(answer.status_code)]
    if "content" not in response:
        return [] if not answer.data else ["has a body"]
    content = response["content"][answer.mimetype]
    if not answer.is_json:
        return []
    schema = {**content["schema"], "components": DOCUMENT["components"]}
    return [error.message for error in OAS31Validator(schema).iter_errors(answer.json)]


@pytest.mark.parametrize("operation", OPERATIONS, ids=_name)
def test_the_example_of_a_receiver_works(filled: Receivers, operation: Operation) -> None:
    answer = filled.call(operation)
    assert answer.status_code < 300, answer.text
    assert faults_of(answer, operation) == []


@pytest.mark.parametrize("operation", [one for one in OPERATIONS if any(one.spec["security"])], ids=_name)
def test_a_receiver_refuses_without_a_key_as_the_document_says(filled: Receivers, operation: Operation) -> None:
    nobody = Operation(operation.method, operation.path, {**operation.spec, "security": []})
    answer = filled.call(nobody)
    assert answer.status_code == 401
    if "$ref" not in operation.spec["responses"]["401"]:
        assert faults_of(answer, operation) == []
    else:
        assert answer.content_type == "application/problem+json"


def test_every_body_has_an_example() -> None:
    contents = [
        next(iter(one.spec["requestBody"]["content"].values())) for one in OPERATIONS if "requestBody" in one.spec
    ]
    assert [content for content in contents if "example" not in content] == []


def test_no_schema_has_the_name_of_another() -> None:
    own = receivers.build("3.1.0")["components"]["schemas"]
    assert {name: DOCUMENT["components"]["schemas"][name] for name in own} == own


def test_the_rules_of_an_event_are_those_of_its_schema() -> None:
    event = DOCUMENT["components"]["schemas"]["LimeChatEvent"]
    assert event["required"] == ["event"]
    assert (event["properties"]["event"]["minLength"], event["properties"]["event"]["maxLength"]) == (1, 255)
    assert event["properties"]["distinct_id"]["type"] == ["string", "integer", "null"]
