"""Templates: texts in Mustache that patterns refer to as `+TM1`.

A template counts from its change on for new runs of the patterns that use it; runs go on with what they began with.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.core.errors import Problem, ProblemType
from app.db import accounts, cxengage_resources
from app.db.cxengage_resources import TEMPLATES, TemplateRow
from app.services.context import AppContext
from app.services.cxengage import crud, patterns


def create_template(context: AppContext, account_id: int, values: Mapping[str, Any]) -> TemplateRow:
    """Make a template; raises Problem 400 with the place where it cannot be read."""
    _check(values)
    with context.database.transaction() as connection:
        accounts.lock_account(connection, account_id)
        crud.check_room(connection, account_id, TEMPLATES)
        number = cxengage_resources.add(connection, TEMPLATES, account_id, values, context.clock())
        return crud.find_on(connection, account_id, TEMPLATES, f"TM{number}")


def change_template(context: AppContext, account_id: int, name: str, changes: Mapping[str, Any]) -> TemplateRow:
    """Put other values into a template, and have the patterns that use it compiled anew; raises Problem 404 or 400."""
    _check(changes)
    moment = context.clock()
    with context.database.transaction() as connection:
        accounts.lock_account(connection, account_id)
        row = crud.find_on(connection, account_id, TEMPLATES, name)
        if changes:
            cxengage_resources.change(connection, TEMPLATES, account_id, row.number, changes, moment)
        if changes.get("template", row.template) != row.template:
            patterns.compile_anew(connection, account_id, row.number, moment)
        return crud.find_on(connection, account_id, TEMPLATES, name)


def remove_template(context: AppContext, account_id: int, name: str) -> None:
    """Delete a template; raises Problem 404, and 409 while a pattern uses it that is switched on."""
    with context.database.transaction() as connection:
        accounts.lock_account(connection, account_id)
        row = crud.find_on(connection, account_id, TEMPLATES, name)
        if users := patterns.users_of(connection, account_id, row.number):
            told = ", ".join(f"PT{user.number}" for user in users)
            raise Problem(ProblemType.CONFLICT, f"{name} is used by {told}; switch that off first")
        cxengage_resources.remove(connection, TEMPLATES, account_id, row.number)


def _check(values: Mapping[str, Any]) -> None:
    if "template" not in values:
        return
    # Mustache is loaded by those who need it.
    from app.actions.templates import mustache

    text: str = values["template"]
    try:
        mustache.parse(text)
    except mustache.MustacheError as wrong:
        told = f"template: {wrong}"
        if wrong.index is not None:
            line, column = text.count("\n", 0, wrong.index) + 1, wrong.index - text.rfind("\n", 0, wrong.index)
            told = f"template, line {line}, column {column}: {wrong}"
        raise Problem(ProblemType.VALIDATION_FAILED, told) from None
