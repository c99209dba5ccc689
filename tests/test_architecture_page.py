"""docs/architecture.md names files, functions and classes that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "architecture.md").read_text("utf-8")
FILES = [file for top in ("app", "tests", "migrations") for file in (ROOT / top).rglob("*.py")]


def _defined() -> set[str]:
    nodes = [node for file in FILES for node in ast.walk(ast.parse(file.read_text("utf-8")))]
    definitions = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    return {node.name for node in nodes if isinstance(node, definitions)} | {
        node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }


def test_the_named_files_and_folders_exist() -> None:
    paths = [f"/{file.relative_to(ROOT)}" for file in FILES]
    named = set(re.findall(r"`([a-z_/]+(?:\.py|/))`", PAGE))
    assert {name for name in named if not any(f"/{name}" in path for path in paths)} == set()


def test_the_named_functions_and_classes_exist() -> None:
    packages = {folder.name for folder in (ROOT / "app").iterdir()}
    named = {name.rpartition(".")[2] for name in re.findall(r"`([A-Za-z_][A-Za-z_.]*)`", PAGE) if ".py" not in name}
    assert named - packages - _defined() == set()
