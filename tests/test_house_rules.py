"""The rules of the code: which package may import which, transactions, names, sizes, and access to routes."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from flask import Flask

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
    # The console shares request ids, limits and addresses of clients with the other routes.
    "console": {"api", "ingest", "services", "workflows", "actions", "db", "core"},
    # The command line starts the web server and the worker.
    "cli": {"api", "worker", "ingest", "services", "workflows", "actions", "db", "core"},
}
# Words that say too little for a name of the application; write the noun instead.
VAGUE_WORDS = {"utils", "helpers", "common", "manager", "dao", "obj", "info"}
# Words that no name contains, with what to write instead (docs/glossary.md).
BANNED_WORDS = {
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
    "copies": "snapshots",
    "turn": "permit, slot, lock, time slice",
    "turns": "permits, slots",
    "ask": "the verb: call, query, confirm",
    "asks": "the verb",
    "asking": "retry",
    "bench": "candidates",
    "places": "positions, messages",
    "stands": "match states",
    "surroundings": "context",
    "anew": "again",
}
# Several words in a row that no name contains.
BANNED_PHRASES = {
    "held_back": "deferred",
    "way_out": "outbound configuration",
    "short_way": "fast path",
    "beyond_doubt": "fast path",
    "ground_floor": "core",
}
# What keeps its name: a table, a parameter of WSGI, the column `runs.turn`, the option `--anew`, the folder of benchmarks, and a
# method of difflib.
ALLOWED_NAMES = {"keyed_events", "exc_info", "turn", "anew", "bench", "find_longest_match"}
# What a module name that occurs in several packages stands for, in each of them.
MEANINGS = {
    "__init__": "the package",
    "access": "who is calling, and what they may do",
    "accounts": "accounts",
    "api_keys": "API keys",
    "application": "a Flask application",
    "audit": "the audit log",
    "augments": "augments of CxEngage",
    "clients": "OAuth clients",
    "cxengage_resources": "patterns, templates, listeners and augments of CxEngage",
    "data_subjects": "data subjects",
    "deliveries": "deliveries of sources",
    "document_versions": "versions of workflows and sources",
    "erasure_jobs": "erasures that workers do",
    "errors": "errors as exceptions, as problem documents, and as pages",
    "event_search": "the search for events",
    "events": "events",
    "explanations": "why workflows did or did not start",
    "export": "the export of an account",
    "failures": "failed runs, grouped",
    "handshakes": "how a provider tests the URL of a source",
    "inspection": "what people look up about events and runs",
    "integrations": "integrations",
    "json_schema": "the JSON Schema of a document",
    "listeners": "listeners of CxEngage",
    "lists": "lists for people, a page at a time",
    "members": "members of an account",
    "message_templates": "message templates of CxEngage",
    "overview": "the state of an account in the last hour",
    "partitions": "partitions of `events`",
    "patterns": "patterns in CxEngage's notation",
    "refusals": "refused requests",
    "request_body": "the body of a request",
    "resources": "resources of CxEngage",
    "retention": "how long an account keeps what is stored",
    "roles": "roles of the database",
    "runs": "runs",
    "schemas": "marshmallow schemas",
    "secrets": "secrets of accounts",
    "settings": "settings, retention and usage of an account",
    "simulation": "what a workflow would do with events",
    "sources": "sources",
    "subjects": "subjects",
    "targets": "targets",
    "upcoming": "what will start or continue by itself",
    "users": "users of the console",
    "workflow_activity": "what workflows do now",
    "workflow_trial": "a trial of a workflow",
    "workflows": "workflows",
}
MAX_FILE_LINES = 400
# Without and with decorators: those of a command declare its options, a line or two each.
MAX_FUNCTION_LINES, MAX_DECORATED_LINES = 40, 60
# How often the same docstring may occur.
MAX_REPEATED = 3
# Open to all: they tell nothing about any account.
OPEN_ROUTES = {"/health", "/livez", "/metrics", "/readyz", "/version"}
# Authenticated by a secret in the URL: without one there is no such page.
SECRET_ROUTES = {"/hooks/<token>"}


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
    found = [
        f"{file.relative_to(ROOT)} imports app.{part}"
        for file, tree in _modules()
        if (package := _part(file)) != "__init__"
        for part in _imports(tree)
        if part != package and part not in MAY_IMPORT[package]
    ]
    assert found == []


def test_the_architecture_page_shows_the_table_of_imports() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    section = page.partition("\n## Imports\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \| (.+) \|$", section, re.MULTILINE)
    assert {package: set(re.findall(r"`(\w+)`", cell)) for package, cell in rows} == MAY_IMPORT


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
    found = [
        f"{file.relative_to(ROOT)}:{node.lineno}"
        for file, tree in _modules()
        if _part(file) != "db"
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and sql.search(node.value)
    ]
    assert found == []


def test_only_the_connection_module_begins_and_ends_transactions_and_savepoints() -> None:
    words = re.compile(r"\b(BEGIN|COMMIT|ROLLBACK|SAVEPOINT)\b")
    found = [
        f"{file.relative_to(ROOT)}:{node.lineno}"
        for file, tree in _modules()
        if file != APP / "db" / "connection.py"
        for node in ast.walk(tree)
        if (isinstance(node, ast.Constant) and isinstance(node.value, str) and words.search(node.value))
        or (isinstance(node, ast.Attribute) and node.attr == "begin_nested")
    ]
    assert found == []


def test_only_use_cases_open_transactions() -> None:
    found = [
        f"{file.relative_to(ROOT)}:{node.lineno}"
        for file, tree in _modules()
        if _part(file) not in ("services", "ingest", "worker")
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("transaction", "commit")
        and file.name != "migrate.py"
    ]
    assert found == []


def test_a_module_name_in_several_packages_has_one_meaning() -> None:
    names = Counter(file.stem for file in APP.rglob("*.py"))
    assert {name for name, count in names.items() if count > 1} == MEANINGS.keys()


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
            case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
                yield name
            case ast.alias(asname=str(name)):
                yield name


def _words(name: str) -> set[str]:
    return {part.lower() for part in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)}


def _has_banned_word(name: str) -> bool:
    return bool(_words(name) & BANNED_WORDS.keys()) or any(phrase in name.lower() for phrase in BANNED_PHRASES)


def test_names_follow_the_glossary() -> None:
    found = [
        f"{file.relative_to(ROOT)}: {name}"
        for file, tree in _modules()
        for name in sorted({file.stem, *_names(tree)} - ALLOWED_NAMES)
        if _has_banned_word(name)
        or _words(name) & VAGUE_WORDS
        or (_words(name) & {"tenant", "tenants"} and "cxengage" not in file.parts)
    ]
    assert found == []


def test_the_former_words_of_the_glossary_are_banned() -> None:
    glossary = (ROOT / "docs" / "glossary.md").read_text("utf-8")
    cells = re.findall(r"^\|[^|]*\|.*\| ([^|]+) \|$", glossary, re.MULTILINE)[1:]
    words = {word.replace(" ", "_") for cell in cells for word in cell.split(", ") if "(" not in word}
    assert len(words) > 40
    assert words - {"---"} - BANNED_WORDS.keys() - BANNED_PHRASES.keys() == set()


def test_names_of_tests_and_benchmarks_follow_the_glossary() -> None:
    """The names of the tests themselves are sentences."""
    files = [*(ROOT / "tests").rglob("*.py"), *(ROOT / "bench").rglob("*.py")]
    found = [
        f"{file.relative_to(ROOT)}: {name}"
        for file in sorted(files)
        for name in sorted({file.stem, *_names(ast.parse(file.read_text("utf-8")))} - ALLOWED_NAMES)
        if not name.startswith("test_") and _has_banned_word(name)
    ]
    assert found == []


def _first_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[tuple[int, int]]:
    """The lines with which a function begins, without and with its decorators, each with the limit that holds from there."""
    yield node.lineno, MAX_FUNCTION_LINES
    yield min([node.lineno, *(each.lineno for each in node.decorator_list)]), MAX_DECORATED_LINES


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
        for first, limit in _first_lines(node)
        if (lines := (node.end_lineno or 0) - first + 1) > limit
    ]
    assert long == []


def test_no_datetime_is_naive() -> None:
    found = [
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
    assert found == []


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


def test_no_docstring_is_a_template() -> None:
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = Counter(
        docstring
        for _, tree in _modules()
        for node in ast.walk(tree)
        if isinstance(node, documented) and (docstring := ast.get_docstring(node))
    )
    assert [docstring for docstring, count in docstrings.items() if count > MAX_REPEATED] == []


def test_every_route_is_authenticated_or_listed_as_open(app: Flask) -> None:
    for rule in app.url_map.iter_rules():
        if rule.rule in OPEN_ROUTES:
            continue
        for method in sorted((rule.methods or set()) - {"OPTIONS", "HEAD"}):
            answer = app.test_client().open(rule.rule, method=method, json={})
            expected = 404 if rule.rule in SECRET_ROUTES else 401
            assert answer.status_code == expected, f"{method} {rule.rule} answered {answer.status} without a key"


def test_no_test_is_skipped() -> None:
    found = [
        f"{file.relative_to(ROOT)}:{node.lineno}"
        for file in (ROOT / "tests").rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text("utf-8")))
        if isinstance(node, ast.Attribute) and node.attr in ("skip", "skipif", "importorskip", "xfail")
    ]
    assert found == []
