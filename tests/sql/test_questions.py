"""Each query of docs/sql.md gives the rows that answer its question, to the role that people use."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from bench import sql
from tests.sql.conftest import NAMES, Connect, query
from tests.support.builders import Sender

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "sql.md").read_text("utf-8")
QUESTIONS = {int(title.partition(".")[0]): (title, query) for title, query in sql.questions().items()}
ALL = map(sql.as_parameters, re.findall(r"```sql\n(.*?)```", PAGE, re.DOTALL))
OTHERS = [text for text in ALL if text not in dict(QUESTIONS.values()).values()]
Rows = list[dict[str, Any]]
PRODUCT_VIEW = {"product_id": "65432", "product_name": "Cool Sneakers", "category": "Footwear", "currency": "INR"}


@pytest.fixture
def names(connect: Connect, senders: tuple[Sender, Sender]) -> dict[str, Any]:
    """The values of the names in the queries."""
    account = senders[0].account_id
    (event,) = query(
        connect(""), f"SELECT id, received_at FROM events WHERE account_id = {account} AND event = 'product_view'"
    )
    (refused,) = query(connect(""), f"SELECT refused_at FROM refusals WHERE account_id = {account}")
    runs = "SELECT name, runs.id FROM runs JOIN workflows USING (account_id) WHERE workflow_id = workflows.id"
    found = {row["name"]: row["id"] for row in query(connect(""), f"{runs} AND account_id = {account}")}
    return {
        "account": account,
        "subject": "915673412780",
        "event": event["id"],
        "received_at": event["received_at"],
        "run": found["broken"],
        "late": found["late"],
        "workflow": "rich",
        "name": "product_view",
        "slug": senders[0].slug,
        "sender": "test",
        "at": refused["refused_at"] - timedelta(seconds=1),
        "disabled": "paused",
    }


def columns(rows: Rows, *wanted: str) -> list[tuple[Any, ...]]:
    return [tuple(row[name] for name in wanted) for row in rows]


# The question that asks for a day.
TOMORROW = 13
# What the rows of each question are.
ANSWERS: dict[int, Callable[[Rows, dict[str, Any]], bool]] = {
    1: lambda rows, _: columns(rows, "event", "data") == [("product_view", PRODUCT_VIEW)],
    2: lambda rows, _: (
        {(name, started, reason[:10]) for name, started, reason in columns(rows, "workflow", "started", "reason")}
        == {
            ("watch", True, "matched"),
            ("broken", True, "matched"),
            ("notify", True, "matched"),
            ("rich", False, "data.price"),
            ("abandoned", False, "will start"),
        }
    ),
    3: lambda rows, _: (
        set(columns(rows, "name", "status")) == {("watch", "running"), ("broken", "failed"), ("notify", "done")}
    ),
    4: lambda rows, _: (
        set(columns(rows, "name", "action", "status"))
        == {("watch", "wait", "waiting"), ("broken", "http", "failed"), ("notify", "http", "done")}
    ),
    5: lambda rows, known: (
        columns(rows, "workflow", "distinct_id", "at", "error_class", "run_id")
        == [("broken", known["subject"], "steps[0]", "refused_target", known["run"])]
    ),
    6: lambda rows, _: columns(rows, "attempt", "error_class", "url") == [(1, "refused_target", "http://10.0.0.1/")],
    7: lambda rows, known: rows[0]["job"] == f"{known['account']}:{known['late']}:1",
    8: lambda rows, _: columns(rows, "workflow", "at", "action") == [("watch", "steps[0]", "wait")],
    9: lambda rows, _: (
        sorted(columns(rows, "event", "count", "started_something")) == [("product_view", 1, 1), ("signup", 1, 1)]
    ),
    10: lambda rows, _: columns(rows, "reason", "count") == [("data.price is missing", 1)],
    11: lambda rows, _: (
        columns(rows, "name", "version") == [(name, 1) for name in ("abandoned", "broken", "notify", "rich", "watch")]
    ),
    12: lambda rows, _: [len(row["warnings"]) for row in rows] == [1],
    13: lambda rows, known: (
        sorted(columns(rows, "what", "workflow", "subject"))
        == [("a run goes on", "watch", known["subject"]), ("a workflow starts", "abandoned", known["subject"])]
        and {row["at"].date() for row in rows} == {(known["received_at"] + timedelta(days=1)).date()}
    ),
    14: lambda rows, _: (
        sorted(columns(rows, "state", "target", "failures"), key=str)
        == [("disabled", "https://gone.example/hook", None), ("failing", "POST https://slow.example/hook", 7)]
    ),
    15: lambda rows, _: (
        [(re.sub(r"//[\d.:]+", "//…", row["target"]), row["attempts"], row["done"], row["failed"]) for row in rows]
        == [("POST http://…/", 1, 0, 1), ("POST http://…/orders/*", 1, 1, 0)]
    ),
    16: lambda rows, known: (
        (known["slug"], "late", known["late"], "no worker has claimed its job")
        in columns(rows, "account", "workflow", "run_id", "reason")
    ),
    17: lambda rows, _: columns(rows, "workflow", "events") == [("abandoned", 1)] and rows[0]["deadline"] is not None,
    18: lambda rows, _: (
        sorted(columns(rows, "workflow", "runs", "ended"))
        == [("broken", 1, 1), ("late", 1, 0), ("notify", 1, 1), ("watch", 1, 0)]
        and all(row["begin_p50_seconds"] >= 0 for row in rows if row["workflow"] != "late")
    ),
    19: lambda rows, known: (
        (known["slug"], 2, 2, 4, 2)
        in columns(rows, "account", "events_last_hour", "events_last_24_hours", "runs_last_24_hours", "runs_running")
    ),
    20: lambda rows, _: {"events", "runs"} <= {row["table_name"] for row in rows},
    21: lambda rows, _: (
        columns(rows, "route", "status", "type") == [("/api/v1/cvf-events", 422, "validation-failed")]
        and [error["field"] for error in rows[0]["errors"]] == ["distinct_id"]
    ),
    22: lambda rows, _: columns(rows, "change", "actor", "via") == [("disable", "signalbox", "worker")],
    23: lambda rows, _: columns(rows, "host", "state", "jobs") == [("host", "running", 0)],
    24: lambda rows, _: (
        columns(rows, "event") == [("signup",)] and timedelta(hours=2) <= rows[0]["late_by"] < timedelta(hours=3)
    ),
}


def test_there_are_twenty_questions_and_an_answer_for_each() -> None:
    assert QUESTIONS.keys() == ANSWERS.keys() >= set(range(1, 21))


@pytest.mark.parametrize("number", QUESTIONS, ids=[title for title, _ in QUESTIONS.values()])
def test_the_query_answers_the_question(number: int, connect: Connect, names: dict[str, Any]) -> None:
    text = QUESTIONS[number][1]
    if number == TOMORROW:
        # The day may have ended since the rows were written.
        assert "now()" in text
        text = text.replace("now()", "%(received_at)s")
    rows = query(connect(NAMES.read), text, names)
    assert ANSWERS[number](rows, names), rows


@pytest.mark.parametrize("text", OTHERS)
def test_the_other_queries_of_the_page_have_a_row(text: str, connect: Connect, names: dict[str, Any]) -> None:
    assert query(connect(NAMES.read), text, names)


@pytest.mark.parametrize("prefix", ["all-scopes", "one-scope"])
def test_question_21_finds_what_an_oauth_client_sent(prefix: str, connect: Connect, names: dict[str, Any]) -> None:
    written = """
    INSERT INTO clients (account_id, id, digest, name, token_prefix) VALUES (%(account)s, 'cl_1', '', 'cx', 'all-scopes');
    INSERT INTO access_tokens (account_id, client_id, scopes, prefix, digest, expires_at)
    VALUES (%(account)s, 'cl_1', '{events:write}', 'one-scope', '', now());
    UPDATE refusals SET key_prefix = %(prefix)s WHERE account_id = %(account)s;
    """
    rows = query(connect(""), written + QUESTIONS[21][1], names | {"sender": "cx", "prefix": prefix})
    assert columns(rows, "status") == [(422,)]
