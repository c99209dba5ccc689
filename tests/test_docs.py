"""What the documents print works when it is pasted: the ten questions to Postgres."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from app import manage
from app.journey import Journey
from tests.builders import a_sender, a_workflow, an_event

ROOT = Path(__file__).resolve().parents[1]
QUESTIONS = re.findall(
    r"^## (\d+\. .+?)\n.*?```sql\n(.*?)```", (ROOT / "docs/sql.md").read_text(), re.DOTALL | re.MULTILINE
)


@pytest.fixture(scope="module")
def known(house: Journey, client: FlaskClient) -> dict[str, Any]:
    """An account in which there is something to ask about: values for all the names in the queries."""
    sender = a_sender(house, client)
    manage.apply_workflow(house, sender.account_id, a_workflow())
    manage.apply_workflow(
        house, sender.account_id, a_workflow(name="rich", on={"event": "product_view", "where": "data.price > 1000"})
    )
    answer = sender.post(an_event()).get_json()
    return {
        "account": sender.account_id,
        "subject": "915673412780",
        "event": answer["id"],
        "run": answer["runs"][0],
        "workflow": "rich",
    }


def test_there_are_ten_questions() -> None:
    assert len(QUESTIONS) == 10


@pytest.mark.parametrize(("title", "query"), QUESTIONS, ids=[title for title, _ in QUESTIONS])
def test_the_query_answers_the_question(title: str, query: str, known: dict[str, Any], house: Journey) -> None:
    prepared = re.sub(r"(?<![:\w]):(\w+)\b", lambda name: f"%({name[1]})s", query.replace("%", "%%"))
    with house.database.transaction() as connection:
        rows = connection.exec_driver_sql(prepared, known).mappings().all()
    answers: dict[str, Any] = {
        "1": lambda: rows[0]["data"]["product_id"] == "65432",
        "2": lambda: (
            {(row["workflow"], row["started"], row["reason"]) for row in rows}
            == {("watch", True, "matched"), ("rich", False, "data.price is missing")}
        ),
        "3": lambda: (
            [(str(row["id"]), row["status"], row["at"]) for row in rows] == [(known["run"], "running", "steps[0]")]
        ),
        "4": lambda: [row["name"] for row in rows] == ["watch"],
        "5": lambda: rows == [],
        "6": lambda: rows == [],
        "7": lambda: any(known["run"] in row["job"] for row in rows),
        "8": lambda: rows == [],
        "9": lambda: (
            [(row["event"], row["count"], row["started_something"]) for row in rows] == [("product_view", 1, 1)]
        ),
        "10": lambda: [(row["reason"], row["count"]) for row in rows] == [("data.price is missing", 1)],
    }
    assert answers[title.split(".")[0]]()
