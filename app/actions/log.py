"""The action `log`: writes its text, a template, to the worker's log. Output: `text`."""

from __future__ import annotations

from typing import Any

import structlog

from app.actions.action_context import ActionContext
from app.actions.field_checks import text_schema
from app.actions.templates.render import check_texts, is_text, render
from app.core.models import Outcome
from app.core.printable import is_printable

SCHEMA = text_schema("write a line, a template, to the worker's log", min_length=0)
_MAX_LOGGED = 4_096
_log = structlog.get_logger()


def check(fields: Any, path: str) -> list[tuple[str, str]]:
    """All errors in the text, as (path, message)."""
    if not is_text(fields):
        return [(path, "must be the text to log")]
    return check_texts(fields, path)


async def act(fields: Any, context: ActionContext) -> Outcome:
    """Log the text."""
    text = context.secrets.mask(await context.compose(render, fields, context.names))
    run = context.run
    shown = "".join(letter if is_printable(letter) or letter in "\n\t" else "\ufffd" for letter in text[:_MAX_LOGGED])
    _log.info("workflow log", run=str(run.id), account=run.account_id, workflow=run.workflow, text=shown)
    return Outcome("done", output={"text": text})


def preview(fields: Any, context: ActionContext) -> Outcome:
    """The text, which is not logged."""
    text = render(fields, context.names)
    return Outcome("done", output={"text": text}, request={"text": text})
