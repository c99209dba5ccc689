"""The action `log`: its text, a template, goes to the worker's log and into the step's output as `text`."""

from __future__ import annotations

from typing import Any

import structlog

from app.actions.context import ActionContext
from app.actions.field_checks import text_schema
from app.actions.templates.render import check_texts, is_text, render
from app.core.models import Outcome

SCHEMA = text_schema("write a line, a template, to the worker's log", least=0)
_MOST_LOGGED = 4_096
_log = structlog.get_logger()


def check(fields: Any, path: str) -> list[tuple[str, str]]:
    """What is wrong with the text."""
    if not is_text(fields):
        return [(path, "has to be the text to log")]
    return check_texts(fields, path)


async def act(fields: Any, context: ActionContext) -> Outcome:
    """Log the text; it is always done."""
    text = render(fields, context.names)
    run = context.run
    shown = "".join(letter if letter.isprintable() or letter in "\n\t" else "\ufffd" for letter in text[:_MOST_LOGGED])
    _log.info("workflow log", run=str(run.id), account=run.account_id, workflow=run.workflow, text=shown)
    return Outcome("done", output={"text": text})
