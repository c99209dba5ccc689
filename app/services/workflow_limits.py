"""Checks whether an account may enable one more workflow."""

from __future__ import annotations

from uuid import UUID

import sqlalchemy as sa

from app.db import workflows
from app.workflows.account_limits import MAX_EVALUATED, check_evaluated, check_size, find_indexed_path
from app.workflows.matching.pattern_ast import ANY_NAME
from app.workflows.validate import check_together, trigger_names
from app.workflows.yaml_loader import Document, Mistake


def check_limits(connection: sa.Connection, account_id: int, workflow_id: UUID, document: Document) -> list[Mistake]:
    """Why a document without mistakes may not be enabled together with the account's other workflows; empty when it may."""
    measured = workflows.measure_enabled(connection, account_id, workflow_id)
    return (
        check_size(document, *measured)
        or check_together(document, lambda: workflows.find_enabled_patterns(connection, account_id, workflow_id))
        or _check_evaluated(connection, account_id, workflow_id, document)
    )


def _check_evaluated(
    connection: sa.Connection, account_id: int, workflow_id: UUID, document: Document
) -> list[Mistake]:
    if find_indexed_path(document.value["on"], document.value.get("again")) is not None:
        return []
    counts = workflows.count_triggers(connection, account_id, workflow_id)
    on_any = counts.pop(ANY_NAME, 0)
    own = trigger_names(document.value)
    names = [ANY_NAME, *counts] if ANY_NAME in own else own
    for name in names:
        # Only those that may exceed the limit are read.
        if counts.get(name, 0) + on_any >= MAX_EVALUATED:
            found = workflows.find_enabled_by_event(connection, account_id, workflow_id, [name, ANY_NAME])
            if mistakes := check_evaluated(document, name, found):
                return mistakes
    return []
