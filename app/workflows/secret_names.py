"""Which secrets a workflow reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from app.actions import ACTIONS
from app.actions.templates.render import find_texts, members_read
from app.core.template_names import SECRETS
from app.workflows.step_graph import blocks_in


def find_secret_names(document: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(path, name) of each secret that a text of a valid document reads, in the order of the steps."""
    yield from _in_block(document.get("steps"), "steps")


def _in_block(steps: Any, path: str) -> Iterator[tuple[str, str]]:
    for index, step in enumerate(steps or ()):
        here = f"{path}[{index}]"
        for verb in ACTIONS.keys() & step.keys():
            for text_path, text in find_texts(step[verb], f"{here}.{verb}"):
                yield from ((text_path, name) for name in sorted(members_read(text, SECRETS)))
        for below, block in blocks_in(step):
            yield from _in_block(block, f"{here}.{below}")
