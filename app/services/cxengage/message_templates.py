"""Message templates in Mustache, which patterns refer to as `+TM1`.

A change applies to runs that start afterwards; earlier runs keep the previous text.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.core.errors import Problem, ProblemType
from app.core.exact_json import line_and_column
from app.db import accounts, cxengage_resources
from app.db.cxengage_resources import TEMPLATES, TemplateRow
from app.services.context import AppContext
from app.services.cxengage import crud, patterns


def create_template(context: AppContext, account_id: int, values: Mapping[str, Any]) -> TemplateRow:
    """Create a template; raises Problem 422 with the position of a syntax error."""
    _check(values)
    with context.limits.changes.acquire(account_id), context.database.transaction() as connection:
        accounts.lock_account(connection, account_id)
        row = crud.insert(connection, account_id, TEMPLATES, values, context.clock())
        crud.record(connection, context, account_id, TEMPLATES, (None, row))
        return row


def change_template(context: AppContext, account_id: int, name: str, changes: Mapping[str, Any]) -> TemplateRow:
    """Change a template and recompile the enabled patterns that use it; raises Problem 404 or 422."""
    _check(changes)
    now = context.clock()
    with context.limits.changes.acquire(account_id), context.database.transaction() as connection:
        accounts.lock_account(connection, account_id)
        row = crud.find(connection, account_id, TEMPLATES, name)
        if changes:
            cxengage_resources.update(connection, TEMPLATES, account_id, row.number, changes, now)
        if changes.get("template", row.template) != row.template:
            patterns.recompile_users(connection, account_id, row.number, now)
        changed = crud.find(connection, account_id, TEMPLATES, name)
        crud.record(connection, context, account_id, TEMPLATES, (row, changed))
        return changed


def delete_template(context: AppContext, account_id: int, name: str) -> None:
    """Delete a template; raises Problem 404, or 409 while an enabled pattern uses it."""
    with context.limits.changes.acquire(account_id), context.database.transaction() as connection:
        accounts.lock_account(connection, account_id)
        row = crud.find(connection, account_id, TEMPLATES, name)
        if users := list(patterns.users_of(connection, account_id, row.number)):
            names = ", ".join(f"PT{user.number}" for user in users)
            raise Problem(ProblemType.CONFLICT, f"{name} is used by {names}; switch it off first")
        cxengage_resources.delete(connection, TEMPLATES, account_id, row.number)
        crud.record(connection, context, account_id, TEMPLATES, (row, None))


def _check(values: Mapping[str, Any]) -> None:
    if "template" not in values:
        return
    # Loads Mustache only for tenants that use it.
    from app.actions.templates import mustache

    text: str = values["template"]
    try:
        mustache.parse(text)
    except mustache.MustacheError as exc:
        message = f"template: {exc}"
        if exc.index is not None:
            line, column = line_and_column(text, exc.index)
            message = f"template, line {line}, column {column}: {exc}"
        raise Problem(ProblemType.VALIDATION_FAILED, message) from None
