"""Patterns in CxEngage's notation. The pattern PT1 is on while the workflow `PT1` is enabled.

1. A pattern that is off is stored without any check.
2. Switching a pattern on, or changing one that is on, compiles it with its templates and enables the result as the
   workflow's next version, in one transaction. A pattern that cannot be compiled changes nothing.
3. Switching it off disables the workflow; its runs continue. Deleting it deletes the workflow, its match state and its runs.
4. Changing a template recompiles the patterns that use it and are on, in the same transaction.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from app.core.errors import Problem, ProblemType
from app.core.exact_json import line_and_column
from app.db import accounts, cxengage_resources, erasure, integrations
from app.db import workflows as db_workflows
from app.db.cxengage_resources import PATTERNS, PatternRow
from app.services.context import AppContext
from app.services.cxengage import crud
from app.workflows.yaml_loader import InvalidDocument

# The integration of an action; endpoints of the notation have the same names.
_INTEGRATION_OF = {"sms": "twilio", "call": "twilio", "sendgrid": "sendgrid", "whatsapp": "whatsapp", "email": "smtp"}
_TEXTS = {"when": "when_text", "then": "then_text", "code": "code"}
_TEMPLATE = re.compile(r"\+TM([1-9][0-9]{0,8})(?![0-9A-Za-z_-])")
_QUOTED_OR_COMMENT = re.compile(r'"(?:\\.|[^"\\])*"|;[^\n]*', re.DOTALL)


def create_pattern(context: AppContext, account_id: int, values: Mapping[str, Any]) -> PatternRow:
    """Create a pattern, and switch it on if its `status` is true; raises Problem 422 or 409."""
    now = context.clock()
    stored = {name: value for name, value in values.items() if name != "status"}
    with context.limits.changes.acquire(account_id), context.database.transaction() as connection:
        accounts.lock_account(connection, account_id)
        row = crud.insert(connection, account_id, PATTERNS, stored, now)
        created = _update_workflow(connection, account_id, row, now, on=values["status"])
        crud.record(connection, context, account_id, PATTERNS, (None, created))
        return created


def change_pattern(context: AppContext, account_id: int, name: str, changes: Mapping[str, Any]) -> PatternRow:
    """Change a pattern, switch it on or off; raises Problem 404, 422 or 409."""
    now = context.clock()
    stored = {name: value for name, value in changes.items() if name != "status"}
    with context.limits.changes.acquire(account_id), context.database.transaction() as connection:
        accounts.lock_account(connection, account_id)
        before = row = crud.find(connection, account_id, PATTERNS, name)
        if stored:
            cxengage_resources.update(connection, PATTERNS, account_id, row.number, stored, now)
            row = crud.find(connection, account_id, PATTERNS, name)
        changed = _update_workflow(connection, account_id, row, now, on=changes.get("status", row.status))
        crud.record(connection, context, account_id, PATTERNS, (before, changed))
        return changed


def delete_pattern(context: AppContext, account_id: int, name: str) -> None:
    """Delete a pattern with its workflow; raises Problem 404."""
    with context.limits.changes.acquire(account_id), context.database.transaction() as connection:
        accounts.increment_version(connection, account_id)
        row = crud.find(connection, account_id, PATTERNS, name)
        cxengage_resources.delete(connection, PATTERNS, account_id, row.number)
        if row.workflow_id is not None:
            erasure.erase_workflow(connection, account_id, row.workflow_id)
        crud.record(connection, context, account_id, PATTERNS, (row, None))


def users_of(connection: sa.Connection, account_id: int, template: int) -> Iterator[PatternRow]:
    """The patterns that are on and use a template; one at a time, since their texts may be long."""
    for number in cxengage_resources.find_enabled_patterns(connection, account_id, f"+TM{template}"):
        row = crud.find(connection, account_id, PATTERNS, f"PT{number}")
        if template in _templates_in(row):
            yield row


def recompile_users(connection: sa.Connection, account_id: int, template: int, now: datetime) -> None:
    """Compile and enable again the patterns that are on and use a template. The caller has locked the account. Raises
    Problem 422 when one of them does not compile."""
    for row in users_of(connection, account_id, template):
        try:
            _switch_on(connection, account_id, row, now)
        except Problem as exc:
            raise Problem(exc.type, f"PT{row.number} uses it and is switched on: {exc.detail}") from None


def _update_workflow(
    connection: sa.Connection, account_id: int, row: PatternRow, now: datetime, *, on: bool
) -> PatternRow:
    """Enable or disable the workflow of a pattern; returns its row afterwards."""
    if row.code is not None and (row.when_text is not None or row.then_text is not None):
        raise Problem(ProblemType.VALIDATION_FAILED, "code: cannot be combined with when or then")
    if on:
        if row.code is None and row.key is not None:
            reason = "key: belongs to code; a pattern of when and then is matched by the key attribute: leave key out"
            raise Problem(ProblemType.VALIDATION_FAILED, reason)
        _switch_on(connection, account_id, row, now)
    elif row.status and row.workflow_id is not None:
        db_workflows.disable_workflow(connection, account_id, row.workflow_id, now)
    return crud.find(connection, account_id, PATTERNS, f"PT{row.number}")


def _switch_on(connection: sa.Connection, account_id: int, row: PatternRow, now: datetime) -> None:
    # Loads the compiler and the step checks only for tenants that use them.
    from app.services import workflows

    name = f"PT{row.number}"
    existing = db_workflows.find_workflow(connection, account_id, name)
    if existing is not None and existing.id != row.workflow_id:
        raise Problem(ProblemType.CONFLICT, f"the workflow {name} exists and is not this pattern's; delete it first")
    document = _compile(connection, account_id, row)
    _check_integrations(connection, account_id, row, document)
    source = json.dumps(document, ensure_ascii=False, indent=2)
    try:
        workflow_id = workflows.apply_in_transaction(connection, account_id, source, now)
    except InvalidDocument as exc:
        # Line numbers would be those of the compiled document, which the author does not see.
        errors = "; ".join(f"{mistake.path}: {mistake.message}" for mistake in exc.mistakes)
        raise Problem(ProblemType.VALIDATION_FAILED, f"the compiled pattern is invalid: {errors}") from None
    if workflow_id != row.workflow_id:
        cxengage_resources.update(connection, PATTERNS, account_id, row.number, {"workflow_id": workflow_id}, now)


def _compile(connection: sa.Connection, account_id: int, row: PatternRow) -> Mapping[str, Any]:
    from app.workflows import cxengage

    found = cxengage_resources.find_templates(connection, account_id, _templates_in(row))
    # Errors name all templates; only those that the pattern uses have their text.
    templates = {f"TM{number}": text or "" for number, text in found.items()}
    name = f"PT{row.number}"
    try:
        if row.code is not None:
            return cxengage.compile_script(row.code, key=row.key, templates=templates, name=name)
        if row.when_text is None or row.then_text is None:
            missing = "when" if row.when_text is None else "then"
            raise Problem(
                ProblemType.VALIDATION_FAILED,
                f"{missing}: is required; a pattern that is on needs when and then, or code",
            )
        return cxengage.compile_pattern(when=row.when_text, then=row.then_text, templates=templates, name=name)
    except cxengage.NotationError as exc:
        raise Problem(ProblemType.VALIDATION_FAILED, str(exc)) from None


def _check_integrations(
    connection: sa.Connection, account_id: int, row: PatternRow, document: Mapping[str, Any]
) -> None:
    """Raises Problem 422 with the position of an endpoint whose integration is not set up."""
    set_up = {one.kind for one in integrations.list_integrations(connection, account_id)}
    for kind in dict.fromkeys(_INTEGRATION_OF[action] for action in _actions_in(document.get("steps"))):
        if kind not in set_up:
            message = f"{kind} is not set up; use POST …/integrations/{kind}"
            raise Problem(ProblemType.VALIDATION_FAILED, f"{_position(row, kind)}{message}")


def _actions_in(value: Any) -> Iterator[str]:
    """The actions of steps that need an integration."""
    if isinstance(value, list):
        for member in value:
            yield from _actions_in(member)
    elif isinstance(value, Mapping):
        for name, member in value.items():
            if name in _INTEGRATION_OF and isinstance(member, Mapping):
                yield name
            else:
                yield from _actions_in(member)


def _position(row: PatternRow, word: str) -> str:
    """The position of a word in a pattern: `then, line 1, column 7: `."""
    for field, text in _texts(row):
        found = re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", text)
        if found is not None:
            line, column = line_and_column(text, found.start())
            return f"{field}, line {line}, column {column}: "
    return ""


def _templates_in(row: PatternRow) -> set[int]:
    return {int(number) for _, text in _texts(row) for number in _TEMPLATE.findall(text)}


def _texts(row: PatternRow) -> Iterator[tuple[str, str]]:
    """The texts of a pattern; spaces replace quoted texts and comments."""
    for field, column in _TEXTS.items():
        text: str | None = getattr(row, column)
        if text is not None:
            yield field, _QUOTED_OR_COMMENT.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), text)
