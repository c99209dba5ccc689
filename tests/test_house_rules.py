"""The rules of the code: which package may import which, names, and what has to be documented."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from flask import Flask

from tests.support.command_lines import every_command

ROOT = Path(__file__).resolve().parents[1]
APP = ROOT / "app"
# Which packages of `app` a package may import, besides itself. docs/architecture.md shows the same table.
MAY_IMPORT: dict[str, set[str]] = {
    "core": set(),
    "db": {"core"},
    "actions": {"core"},
    "workflows": {"actions", "core"},
    "services": {"workflows", "actions", "db", "core"},
    "ingest": {"services", "workflows", "actions", "db", "core"},
    "api": {"ingest", "services", "workflows", "actions", "db", "core"},
    "worker": {"ingest", "services", "workflows", "actions", "db", "core"},
    # The command line starts the web server and the worker.
    "cli": {"api", "worker", "ingest", "services", "workflows", "actions", "db", "core"},
}
# Words that no name contains, with what to write instead (docs/glossary.md).
BANNED_WORDS = {
    "utils": "the noun",
    "helpers": "the noun",
    "common": "the noun",
    "manager": "the noun",
    "dao": "the noun",
    "obj": "the noun",
    "info": "the noun",
    "house": "app context",
    "room": "package",
    "joiner": "service",
    "journey": "app context",
    "gathering": "group commit",
    "portion": "batch",
    "patience": "retry, time-out",
    "trouble": "exc",
    "wrong": "exc, errors",
    "told": "message",
    "moment": "timestamp",
    "chance": "rng",
    "place": "path, position, key",
    "standing": "match state",
    "stand": "match state",
    "strand": "partial match",
    "tangle": "partial matches",
    "stem": "partial match",
    "joker": "wildcard",
    "sift": "predicate index",
    "screen": "predicate index",
    "asked": "candidates",
    "asker": "client",
    "augmenting": "enrichment",
    "augmenter": "enricher",
    "moves": "transitions",
    "stay": "wait",
    "acted": "advanced",
    "families": "fork, join",
    "arrivals": "event correlation",
    "keyed": "correlation key",
    "settlement": "run update",
    "settle": "record",
    "stories": "inspection",
    "interventions": "admin",
    "situation": "action context",
    "destination": "target",
    "destinations": "targets",
    "visit": "permit",
    "outward": "outbound",
    "rehearse": "simulation",
    "rehearsal": "simulation",
    "streaming": "message stream",
    "most": "MAX_",
    "longest": "MAX_",
    "shelf": "resource kind",
    "copy": "snapshot",
}
# A table that keeps its name, and a parameter of WSGI.
ALLOWED_NAMES = {"keyed_events", "exc_info"}
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 40
# Open to all: they tell nothing about any account.
OPEN_ROUTES = {"/health", "/livez", "/metrics", "/readyz", "/version"}


@cache
def _modules() -> list[tuple[Path, ast.Module]]:
    return [(file, ast.parse(file.read_text("utf-8"))) for file in sorted(APP.rglob("*.py"))]


def _part(file: Path) -> str:
    """The package of `app` that a file belongs to."""
    first = file.relative_to(APP).parts[0]
    return first.removesuffix(".py")


def _imports(tree: ast.Module) -> Iterator[str]:
    """The packages of `app` that a module imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "app":
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("app."):
            yield str(node.module).split(".")[1]
        elif isinstance(node, ast.Import):
            yield from (alias.name.split(".")[1] for alias in node.names if alias.name.startswith("app."))


def test_packages_import_only_what_the_table_allows() -> None:
    wrong = [
        f"{file.relative_to(ROOT)} imports app.{part}"
        for file, tree in _modules()
        if (package := _part(file)) != "__init__"
        for part in _imports(tree)
        if part != package and part not in MAY_IMPORT[package]
    ]
    assert wrong == []


def test_nothing_lies_beside_the_packages() -> None:
    found = {entry.name for entry in APP.iterdir() if entry.name != "__pycache__"}
    assert found == {"__init__.py", *MAY_IMPORT}


def test_no_module_is_in_an_import_cycle() -> None:
    names = {
        ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file for file, _ in _modules()
    }
    reaches: dict[str, set[str]] = {}
    for name, file in names.items():
        tree = ast.parse(file.read_text("utf-8"))
        top_level = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
        found = set()
        for node in top_level:
            if isinstance(node, ast.ImportFrom):
                found |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
            else:
                found |= {alias.name for alias in node.names}
        reaches[name] = {target for target in found if target in names and target != name and target != "app"}
    for start in names:
        seen: set[str] = set()
        ahead = set(reaches[start])
        while ahead:
            current = ahead.pop()
            assert current != start, f"{start} imports itself in a circle"
            seen.add(current)
            ahead |= reaches[current] - seen


def test_only_db_speaks_sql() -> None:
    sql = re.compile(r"\b(SELECT\s.+\sFROM|INSERT INTO|UPDATE\s+\w+\s+SET|DELETE FROM|CREATE TABLE)\b", re.DOTALL)
    wrong = [
        f"{file.relative_to(ROOT)}:{node.lineno}"
        for file, tree in _modules()
        if _part(file) != "db"
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and sql.search(node.value)
    ]
    assert wrong == []


def test_only_the_connection_module_begins_and_ends_transactions_in_sql() -> None:
    words = re.compile(r"\b(BEGIN|COMMIT|ROLLBACK)\b")
    wrong = [
        f"{file.relative_to(ROOT)}:{node.lineno}"
        for file, tree in _modules()
        if file != APP / "db" / "connection.py"
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and words.search(node.value)
    ]
    assert wrong == []


def test_only_use_cases_open_transactions() -> None:
    wrong = [
        f"{file.relative_to(ROOT)}:{node.lineno}"
        for file, tree in _modules()
        if _part(file) not in ("services", "ingest", "worker")
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("transaction", "commit")
        and file.name != "migrate.py"
    ]
    assert wrong == []


def _names(tree: ast.Module) -> Iterator[str]:
    """The names that a module defines: functions, classes, parameters, variables, attributes, import aliases."""
    for node in ast.walk(tree):
        match node:
            case ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
                yield node.name
            case ast.arg():
                yield node.arg
            case ast.Name(ctx=ast.Store()):
                yield node.id
            case ast.Attribute(ctx=ast.Store()):
                yield node.attr
            case ast.ExceptHandler(name=str(name)):
                yield name
            case ast.alias(asname=str(name)):
                yield name


def _words(name: str) -> set[str]:
    return {part.lower() for part in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)}


def test_names_follow_the_glossary() -> None:
    wrong = [
        f"{file.relative_to(ROOT)}: {name}"
        for file, tree in _modules()
        for name in sorted({file.stem, *_names(tree)} - ALLOWED_NAMES)
        if _words(name) & BANNED_WORDS.keys() or ("tenant" in _words(name) and "cxengage" not in file.parts)
    ]
    assert wrong == []


def test_files_and_functions_are_short() -> None:
    long = [
        f"{file.relative_to(ROOT)}: {lines} lines"
        for file, _ in _modules()
        if (lines := len(file.read_text("utf-8").splitlines())) > MAX_FILE_LINES
    ]
    long += [
        f"{file.relative_to(ROOT)}: {node.name} has {lines} lines"
        for file, tree in _modules()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (lines := (node.end_lineno or 0) - node.lineno + 1) > MAX_FUNCTION_LINES
    ]
    assert long == []


def test_no_datetime_is_naive() -> None:
    wrong = [
        f"{file.relative_to(ROOT)}:{node.lineno}"
        for file, tree in _modules()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and (
            node.func.attr == "utcnow"
            or (node.func.attr == "now" and ast.unparse(node.func.value).endswith("datetime") and not node.args)
            or (node.func.attr == "fromtimestamp" and len(node.args) + len(node.keywords) < 2)
        )
    ]
    assert wrong == []


def test_every_module_has_a_docstring() -> None:
    silent = [
        str(file.relative_to(ROOT)) for file, tree in _modules() if file.stat().st_size and not ast.get_docstring(tree)
    ]
    assert silent == []


def test_public_functions_and_classes_have_a_docstring() -> None:
    used = {
        alias.name
        for _, tree in _modules()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("app")
        for alias in node.names
    }
    silent = [
        f"{file.relative_to(ROOT)}: {node.name}"
        for file, tree in _modules()
        for node in tree.body
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.name in used or (_part(file) != "workflows" and not node.name.startswith("_")))
        and not ast.get_docstring(node)
    ]
    assert silent == []


def test_every_route_is_authenticated_or_listed_as_open(app: Flask) -> None:
    for rule in app.url_map.iter_rules():
        if rule.rule in OPEN_ROUTES:
            continue
        for method in sorted((rule.methods or set()) - {"OPTIONS", "HEAD"}):
            answer = app.test_client().open(rule.rule, method=method, json={})
            assert answer.status_code == 401, f"{method} {rule.rule} answered {answer.status} without a key"


def test_every_setting_is_documented() -> None:
    source = (APP / "core" / "config.py").read_text("utf-8") + (ROOT / "deploy" / "gunicorn.conf.py").read_text("utf-8")
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


def test_every_command_is_documented(app: Flask) -> None:
    documented = (ROOT / "docs" / "commands.md").read_text("utf-8")
    commands = [" ".join(("signalbox", *words)) for words in every_command(app.cli)]
    assert "signalbox run retry" in commands
    assert [line for line in commands if line not in documented] == []


def test_commands_are_written_as_people_type_them(app: Flask) -> None:
    groups = "|".join(sorted({words[0] for words in every_command(app.cli)}))
    old = re.compile(rf"flask (?:{groups})\b")
    files = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md"), *APP.rglob("*.py")]
    wrong = [
        f"{file.relative_to(ROOT)}:{number}: write signalbox instead of flask"
        for file in files
        for number, line in enumerate(file.read_text("utf-8").splitlines(), start=1)
        if old.search(line) and "`flask run` is" not in line
    ]
    assert wrong == []


@pytest.mark.parametrize("name", ["README.md", "CHANGELOG.md", "LICENSE"])
def test_the_files_that_people_look_for_first_are_there(name: str) -> None:
    assert (ROOT / name).read_text("utf-8").strip()


def test_no_test_is_skipped() -> None:
    wrong = [
        f"{file.relative_to(ROOT)}:{node.lineno}"
        for file in (ROOT / "tests").rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text("utf-8")))
        if isinstance(node, ast.Attribute) and node.attr in ("skip", "skipif", "importorskip", "xfail")
    ]
    assert wrong == []
