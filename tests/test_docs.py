"""The documentation: links lead somewhere, everything that exists is described. (tests/sql/ has the queries.)"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import Counter as MetricCounter
from prometheus_client import Gauge, Histogram

from app.actions import ACTIONS
from app.core import metrics
from app.workflows.json_schema import workflow_schema

ROOT = Path(__file__).resolve().parents[1]
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
    broken = []
    for link in _LINK.findall(_text(page)):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if not target.exists() or (anchor and anchor not in _anchors(target)):
            broken.append(link)
    assert broken == []


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
