"""The documentation: links lead somewhere, everything that exists is described. (tests/sql/ has the queries.)"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from prometheus_client import Counter as MetricCounter
from prometheus_client import Gauge, Histogram

from app.actions import ACTIONS
from app.core import metrics
from app.workflows.json_schema import workflow_schema
from tests.support.command_lines import every_command

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


# Settings, routes and commands


def test_every_setting_is_documented() -> None:
    source = (ROOT / "app" / "core" / "config.py").read_text("utf-8") + (
        ROOT / "deploy" / "gunicorn.conf.py"
    ).read_text("utf-8")
    names = set(re.findall(r'"([A-Z][A-Z_]{3,})"', source))
    documented = (ROOT / "docs" / "settings.md").read_text("utf-8")
    assert {name for name in names if f"`{name}`" not in documented} == set()


def test_every_endpoint_is_documented(app: Flask) -> None:
    documented = "".join(file.read_text("utf-8") for file in (ROOT / "docs").glob("*.md"))
    assert [
        rule.rule
        for rule in app.url_map.iter_rules()
        if f"`{rule.rule}`" not in documented and rule.rule not in documented
    ] == []


def test_every_route_is_in_the_openapi_document(app: Flask) -> None:
    # Pages of the console are for people.
    mounted = {prefix: mount for prefix, mount in app.wsgi_app.mounts.items() if prefix != "/console"}  # type: ignore[attr-defined]
    maps = [app.url_map, *(mount.args[0].url_map for mount in mounted.values())]
    routes = {
        (method.lower(), re.sub(r"<(?:[^<>:]*:)?([a-z_]+)>", r"{\1}", rule.rule))
        for url_map in maps
        for rule in url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    document = app.test_client().get("/openapi.json").json
    documented = {
        (method, server["url"].rstrip("/") + path)
        for path, item in document["paths"].items()
        for server in item.get("servers", document["servers"])
        for method in item
        if method not in ("servers", "parameters")
    }
    assert routes == documented


def test_every_command_is_documented(app: Flask) -> None:
    documented = (ROOT / "docs" / "commands.md").read_text("utf-8")
    commands = [" ".join(("signalbox", *words)) for words in every_command(app.cli)]
    assert "signalbox run retry" in commands
    assert [line for line in commands if line not in documented] == []


def test_commands_are_written_as_people_type_them(app: Flask) -> None:
    groups = "|".join(sorted({words[0] for words in every_command(app.cli)}))
    old = re.compile(rf"flask (?:{groups})\b")
    files = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "app").rglob("*.py")]
    found = [
        f"{file.relative_to(ROOT)}:{number}: write signalbox instead of flask"
        for file in files
        for number, line in enumerate(file.read_text("utf-8").splitlines(), start=1)
        if old.search(line) and "`flask run` is" not in line
    ]
    assert found == []


@pytest.mark.parametrize("name", ["README.md", "CHANGELOG.md", "LICENSE"])
def test_the_files_that_people_look_for_first_are_there(name: str) -> None:
    assert (ROOT / name).read_text("utf-8").strip()
