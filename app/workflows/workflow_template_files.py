"""The templates of workflows that people begin from: a commented document for each in the folder `workflow_templates`.

The first line of a document is its title, its `description` says what it is for. A new template is two new files: KEY.yaml, and
KEY.ndjson with the events on which it is tried.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from app.workflows.yaml_loader import read_document

_FOLDER = files("app") / "workflows" / "workflow_templates"
_SUFFIX = ".yaml"


@dataclass(frozen=True, slots=True)
class WorkflowTemplate:
    """A document to begin from, and events on which it starts, one JSON object in each line."""

    key: str
    title: str
    description: str
    source: str
    sample: str


@cache
def workflow_templates() -> Mapping[str, WorkflowTemplate]:
    """All templates by their keys, in the order of the keys."""
    keys = sorted(file.name.removesuffix(_SUFFIX) for file in _FOLDER.iterdir() if file.name.endswith(_SUFFIX))
    return {key: _read(key) for key in keys}


def _read(key: str) -> WorkflowTemplate:
    source = (_FOLDER / f"{key}{_SUFFIX}").read_text("utf-8")
    title = source.split("\n", 1)[0].removeprefix("# ")
    sample = (_FOLDER / f"{key}.ndjson").read_text("utf-8")
    return WorkflowTemplate(key, title, read_document(source).value["description"], source, sample)
