"""The documentation: queries work as they are printed, links lead somewhere, everything that exists is described."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from itertools import permutations as _permutations
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from prometheus_client import Counter as MetricCounter
from prometheus_client import Gauge, Histogram

from app.actions import ACTIONS
from app.core import metrics
from app.services import workflows
from app.services.context import AppContext
from app.workflows.json_schema import workflow_schema
from tests.support.builders import a_sender, a_workflow, an_event
from tests.support.run_execution import execute_run


def permutations(rows: list[Any]) -> list[list[Any]]:
    """The rows in any order (runs of one event start in the same moment)."""
    return [list(order) for order in _permutations(rows)]


ROOT = Path(__file__).resolve().parents[1]
QUESTIONS = re.findall(
    r"^## (\d+\. .+?)\n.*?```sql\n(.*?)```", (ROOT / "docs/sql.md").read_text(), re.DOTALL | re.MULTILINE
)


@pytest.fixture(scope="module")
def known(context: AppContext, client: FlaskClient) -> dict[str, Any]:
    """An account in which there is something to ask about: values for all the names in the queries."""
    sender = a_sender(context, client)
    account = sender.account_id
    workflows.apply_workflow(context, account, a_workflow(steps=[{"wait": "1h"}, {"log": "later"}]))
    workflows.apply_workflow(
        context, account, a_workflow(name="rich", on={"event": "product_view", "where": "data.price > 1000"})
    )
    refused = {"http": {"url": "http://10.0.0.1/"}}
    workflows.apply_workflow(context, account, a_workflow(name="broken", steps=[refused]))
    answer = sender.post(an_event()).get_json()
    broken, waiting = answer["runs"]
    for run in (broken, waiting):
        execute_run(context, account, run)
    with context.database.transaction() as connection:
        connection.exec_driver_sql(
            "UPDATE jobs SET due_at = due_at - interval '100 days' WHERE payload = %(job)s",
            {"job": f"{account}:{waiting}:1"},
        )
    return {
        "account": account,
        "subject": "915673412780",
        "event": answer["id"],
        "run": broken,
        "waiting": waiting,
        "workflow": "rich",
        "name": "product_view",
    }


def test_there_are_eleven_queries() -> None:
    assert len(QUESTIONS) == 11


@pytest.mark.parametrize(("title", "query"), QUESTIONS, ids=[title for title, _ in QUESTIONS])
def test_the_query_answers_the_question(title: str, query: str, known: dict[str, Any], context: AppContext) -> None:
    prepared = re.sub(r"(?<![:\w]):(\w+)\b", lambda name: f"%({name[1]})s", query.replace("%", "%%"))
    with context.database.transaction() as connection:
        rows = connection.exec_driver_sql(prepared, known).mappings().all()
    refused = "10.0.0.1 is"
    answers: dict[str, Any] = {
        "1": lambda: [row["data"]["product_id"] for row in rows] == ["65432"],
        "2": lambda: (
            {(row["workflow"], row["started"], row["reason"]) for row in rows}
            == {("watch", True, "matched"), ("broken", True, "matched"), ("rich", False, "data.price is missing")}
        ),
        "3": lambda: (
            {(str(row["id"]), row["name"], row["status"]) for row in rows}
            == {(known["run"], "broken", "failed"), (known["waiting"], "watch", "running")}
        ),
        "4": lambda: (
            [(row["name"], row["action"], row["status"]) for row in rows]
            in permutations([("watch", "wait", "waiting"), ("broken", "http", "failed")])
        ),
        "5": lambda: [(row["name"], refused in row["error"]) for row in rows] == [("broken", True)],
        "6": lambda: (
            [(row["attempt"], row["error_class"], row["url"]) for row in rows]
            == [(1, "refused_target", "http://10.0.0.1/")]
        ),
        "7": lambda: rows[0]["job"] == f"{known['account']}:{known['waiting']}:1",
        "8": lambda: [(row["name"], row["at"]) for row in rows] == [("watch", "steps[0]")],
        "9": lambda: (
            [(row["event"], row["count"], row["started_something"]) for row in rows] == [("product_view", 1, 1)]
        ),
        "10": lambda: [(row["reason"], row["count"]) for row in rows] == [("data.price is missing", 1)],
        "11": lambda: (
            [(row["name"], row["version"], row["event"]) for row in rows]
            == [(name, 1, "product_view") for name in ("broken", "rich", "watch")]
        ),
    }
    assert answers[title.split(".")[0]]()


# Links

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
_LINK = re.compile(r"\]\((?![a-z]+:)([^)\s]+)\)")


def _text(page: Path) -> str:
    """A page without its blocks of code."""
    return re.sub(r"^ *```.*?^ *```", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)


def _anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    known: Counter[str] = Counter()
    found = set()
    for heading in re.findall(r"^#+ +(.+?) *$", _text(page), re.MULTILINE):
        anchor = re.sub(r"[^\w -]", "", re.sub(r"\]\(.*?\)", "", heading)).lower().replace(" ", "-")
        found.add(f"{anchor}-{known[anchor]}" if known[anchor] else anchor)
        known[anchor] += 1
    return found


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_every_relative_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    wrong = []
    for link in _LINK.findall(_text(page)):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if not target.exists() or (anchor and anchor not in _anchors(target)):
            wrong.append(link)
    assert wrong == []


def test_headings_have_the_anchors_of_github(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A [link](x.md), `code/v1` & more\n\n## Same\n\n```sh\n# no heading\n```\n\n## Same\n")
    assert _anchors(page) == {"a-link-codev1--more", "same", "same-1"}


# The language


def _fields(schema: Any, *, inside: str = "") -> Iterator[tuple[str, str]]:
    """Every name that a document can have, with the action that it belongs to ("": none)."""
    if isinstance(schema, list):
        for part in schema:
            yield from _fields(part, inside=inside)
    elif isinstance(schema, dict):
        for name, below in schema.get("properties", {}).items():
            yield inside, name
            yield from _fields(below, inside=name if name in ACTIONS else inside)
        for name, below in schema.items():
            if name != "properties":
                yield from _fields(below, inside=inside)


def _code(text: str) -> str:
    """What stands in backticks and code blocks."""
    return "\n".join(re.findall(r"```.*?```|`[^`\n]+`", text, re.DOTALL))


FIELDS = sorted(set(_fields(workflow_schema())))
WORKFLOWS = (ROOT / "docs" / "workflows.md").read_text("utf-8")


@pytest.mark.parametrize(("action", "name"), FIELDS)
def test_every_field_of_the_language_is_documented(action: str, name: str) -> None:
    documented = WORKFLOWS
    if action:
        rows = re.findall(rf"^\| `{action}: .*$", WORKFLOWS, re.MULTILINE)
        sections = re.findall(rf"^### {action}\n(.*?)(?=^##)", WORKFLOWS, re.MULTILINE | re.DOTALL)
        assert len(rows) == 1
        assert action == "log" or len(sections) == 1
        documented = "\n".join(sections)
    assert re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", _code(documented)), f"{action} {name} is not documented"


def test_the_language_has_fields_of_actions_and_others() -> None:
    assert {("", "strict"), ("", "retry"), ("", "attempts"), ("sms", "from"), ("email", "cc")} <= set(FIELDS)
    assert {action for action, _ in FIELDS} == {"", *ACTIONS} - {"log"}


def test_every_metric_is_documented_and_no_other() -> None:
    documented = set(
        re.findall(r"^\| `(signalbox_\w+)", (ROOT / "docs" / "monitoring.md").read_text("utf-8"), re.MULTILINE)
    )
    counters = [value for value in vars(metrics).values() if isinstance(value, MetricCounter)]
    gauges = [value for value in vars(metrics).values() if isinstance(value, Gauge | Histogram)]
    assert documented == {
        *(f"{counter.describe()[0].name}_total" for counter in counters),
        *(gauge.describe()[0].name for gauge in gauges),
    }
