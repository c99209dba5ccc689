"""Fixtures and helpers for the tests of `POST /api/v1/cvf-events` over real sockets."""

from __future__ import annotations

from typing import Any

import pytest
from flask.testing import FlaskClient

from app.services.context import AppContext
from tests.api.conftest import Rows
from tests.support.builders import Sender, a_sender
from tests.support.server import Answer, Server

LIMIT = 512 * 1024


@pytest.fixture(scope="module")
def shared(context: AppContext, server: Server) -> Sender:
    """A sender for tests that look only at the answer, or at the one row that it names."""
    return a_sender(context, server, "acme")


def stored(rows: Rows, answer: Answer) -> dict[str, Any]:
    """The row that an answer speaks of."""
    assert answer.status_code == 200, answer.text
    question = "SELECT to_jsonb(events) FROM events WHERE id = %s"
    ((row,),) = rows(question, answer.json["id"])
    assert isinstance(row, dict)
    return row


def assert_problem(answer: Answer, status: int) -> dict[str, Any]:
    """The problem document that an answer is; RFC 9457."""
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    problem: dict[str, Any] = answer.json
    assert {"type", "title", "status", "detail"} <= problem.keys() <= {"type", "title", "status", "detail", "errors"}
    assert problem["status"] == status
    assert all(isinstance(problem[name], str) and problem[name] for name in ("type", "title", "detail"))
    assert answer.headers["X-Request-Id"]
    return problem


@pytest.fixture
def local(context: AppContext, client: FlaskClient) -> Sender:
    """A new account that is posted to without a network."""
    return a_sender(context, client)


def counts(rows: Rows, sender: Sender) -> tuple[object, ...]:
    """How many events, runs, jobs and idempotency keys a sender's account has."""
    return rows(
        "SELECT (SELECT count(*) FROM events WHERE account_id = %(id)s), "
        "(SELECT count(*) FROM runs WHERE account_id = %(id)s), "
        "(SELECT count(*) FROM idempotency_keys WHERE account_id = %(id)s)".replace("%(id)s", str(sender.account_id))
    )[0]
