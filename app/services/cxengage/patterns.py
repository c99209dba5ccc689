"""Patterns in CxEngage's notation. One that is switched on is a workflow as well, of the name `PT1`, and nothing else says
whether it is on.

1. Made or changed while it is to be off, a pattern is only kept, whatever is wrong with it.
2. While it is to be on it is compiled, with the templates that it refers to, and what comes out is put into force as the
   workflow's next version, in the transaction that changes the pattern. What cannot be compiled or carried out changes nothing.
3. Switched off, the workflow is disabled and its runs go on; deleted, it is deleted with its progress and runs.
4. A template that changes has the patterns that use it, and are on, compiled anew in its own transaction.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from app.core.errors import Problem, ProblemType
from app.db import accounts, cxengage_resources, erasure, integrations
from app.db import workflows as db_workflows
from app.db.cxengage_resources import PATTERNS, TEMPLATES, PatternRow
from app.services.context import AppContext
from app.services.cxengage import crud

# The integrations that actions need; in the notation their endpoints have the same names.
_NEEDED = {"sms": "twilio", "call": "twilio", "sendgrid": "sendgrid", "whatsapp": "whatsapp", "email": "smtp"}
_TEXTS = {"when": "when_text", "then": "then_text", "code": "code"}
_TEMPLATE = re.compile(r"\+TM([1-9][0-9]{0,8})(?![0-9A-Za-z_-])")
_ASIDE = re.compile(r'"(?:\\.|[^"\\])*"|;[^\n]*', re.DOTALL)


def create_pattern(context: AppContext, account_id: int, values: Mapping[str, Any]) -> PatternRow:
    """Make a pattern, and switch it on if its `status` says so; raises Problem 400 or 409."""
    moment = context.clock()
    kept = {name: value for name, value in values.items() if name != "status"}
    with context.database.transaction() as connection:
        accounts.lock_account(connection, account_id)
        crud.check_room(connection, account_id, PATTERNS)
        number = cxengage_resources.add(connection, PATTERNS, account_id, kept, moment)
        return _settle(connection, account_id, number, moment, on=values["status"])


def change_pattern(context: AppContext, account_id: int, name: str, changes: Mapping[str, Any]) -> PatternRow:
    """Put other values into a pattern, switch it on or off; raises Problem 404, 400 or 409."""
    moment = context.clock()
    kept = {name: value for name, value in changes.items() if name != "status"}
    with context.database.transaction() as connection:
        accounts.lock_account(connection, account_id)
        row = crud.find_on(connection, account_id, PATTERNS, name)
        if kept:
            cxengage_resources.change(connection, PATTERNS, account_id, row.number, kept, moment)
        return _settle(connection, account_id, row.number, moment, on=changes.get("status", row.status))


def remove_pattern(context: AppContext, account_id: int, name: str) -> None:
    """Delete a pattern with its workflow; raises Problem 404."""
    with context.database.transaction() as connection:
        accounts.increment_version(connection, account_id)
        row = crud.find_on(connection, account_id, PATTERNS, name)
        cxengage_resources.remove(connection, PATTERNS, account_id, row.number)
        if row.workflow_id is not None:
            erasure.erase_workflow(connection, account_id, row.workflow_id)


def users_of(connection: sa.Connection, account_id: int, template: int) -> list[PatternRow]:
    """The patterns that are switched on and use a template."""
    rows = cxengage_resources.list_all(connection, PATTERNS, account_id)
    return [row for row in rows if row.status and template in _templates_in(row)]


def compile_anew(connection: sa.Connection, account_id: int, template: int, moment: datetime) -> None:
    """Put the patterns that use a template, and are on, into force as they are with it now; raises Problem 400 where one of
    them cannot be compiled any more. Lock the account first."""
    for row in users_of(connection, account_id, template):
        try:
            _switch_on(connection, account_id, row, moment)
        except Problem as wrong:
            raise Problem(wrong.type, f"PT{row.number} uses it and is switched on: {wrong.detail}") from None


def _settle(connection: sa.Connection, account_id: int, number: int, moment: datetime, *, on: bool) -> PatternRow:
    """Bring a pattern's workflow to where its row says; the row as it is then."""
    row = crud.find_on(connection, account_id, PATTERNS, f"PT{number}")
    if row.code is not None and (row.when_text is not None or row.then_text is not None):
        raise Problem(
            ProblemType.VALIDATION_FAILED, "code: stands beside when and then; it has to be the one or the others"
        )
    if on:
        _switch_on(connection, account_id, row, moment)
    elif row.status and row.workflow_id is not None:
        db_workflows.set_enabled(connection, account_id, row.workflow_id, None, moment)
    return crud.find_on(connection, account_id, PATTERNS, f"PT{number}")


def _switch_on(connection: sa.Connection, account_id: int, row: PatternRow, moment: datetime) -> None:
    # The compiler and the checks of steps are loaded by those who need them.
    from app.services import workflows

    name = f"PT{row.number}"
    known = db_workflows.find_workflow(connection, account_id, name)
    if known is not None and known.id != row.workflow_id:
        raise Problem(
            ProblemType.CONFLICT, f"there is a workflow {name} already that is not this pattern's; delete it first"
        )
    document = _compile(connection, account_id, row)
    _check_integrations(connection, account_id, row, document)
    source = json.dumps(document, ensure_ascii=False, indent=2)
    try:
        workflow_id = workflows.put_into_force(connection, account_id, source, moment)
    except workflows.WrongDocument as wrong:
        # Their lines would be those of the document that it was compiled into, which the author has not seen.
        told = "; ".join(f"{mistake.path}: {mistake.message}" for mistake in wrong.mistakes)
        raise Problem(ProblemType.VALIDATION_FAILED, f"the pattern cannot be carried out: {told}") from None
    if workflow_id != row.workflow_id:
        cxengage_resources.change(connection, PATTERNS, account_id, row.number, {"workflow_id": workflow_id}, moment)


def _compile(connection: sa.Connection, account_id: int, row: PatternRow) -> Mapping[str, Any]:
    from app.workflows import cxengage

    texts = {f"TM{one.number}": one.template for one in cxengage_resources.list_all(connection, TEMPLATES, account_id)}
    name = f"PT{row.number}"
    try:
        if row.code is not None:
            return cxengage.compile_script(row.code, key=row.key, templates=texts, name=name, title=row.name)
        if row.when_text is None or row.then_text is None:
            missing = "when" if row.when_text is None else "then"
            raise Problem(
                ProblemType.VALIDATION_FAILED,
                f"{missing}: is missing; to be switched on it needs when and then, or code",
            )
        return cxengage.compile_pattern(
            when=row.when_text, then=row.then_text, templates=texts, name=name, title=row.name
        )
    except cxengage.NotationError as wrong:
        raise Problem(ProblemType.VALIDATION_FAILED, str(wrong)) from None


def _check_integrations(
    connection: sa.Connection, account_id: int, row: PatternRow, document: Mapping[str, Any]
) -> None:
    """Raise Problem 400 with the word and its place where an action needs an integration that is not set up."""
    set_up = {one.kind for one in integrations.list_integrations(connection, account_id)}
    for kind in dict.fromkeys(_NEEDED[verb] for verb in _verbs(document.get("steps"))):
        if kind not in set_up:
            told = f"{kind} is not set up; POST …/integrations/{kind} does that"
            raise Problem(ProblemType.VALIDATION_FAILED, f"{_place(row, kind)}{told}")


def _verbs(value: Any) -> Iterator[str]:
    """The actions in a document's steps that need an integration."""
    if isinstance(value, list):
        for member in value:
            yield from _verbs(member)
    elif isinstance(value, Mapping):
        for name, member in value.items():
            if name in _NEEDED and isinstance(member, Mapping):
                yield name
            else:
                yield from _verbs(member)


def _place(row: PatternRow, word: str) -> str:
    """Where a word stands in a pattern: `then, line 1, column 7: `."""
    for field, text in _texts(row):
        found = re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", text)
        if found is not None:
            line, column = text.count("\n", 0, found.start()) + 1, found.start() - text.rfind("\n", 0, found.start())
            return f"{field}, line {line}, column {column}: "
    return ""


def _templates_in(row: PatternRow) -> set[int]:
    return {int(number) for _, text in _texts(row) for number in _TEMPLATE.findall(text)}


def _texts(row: PatternRow) -> Iterator[tuple[str, str]]:
    """The texts of a pattern, with blanks in the place of what is quoted or commented out."""
    for field, column in _TEXTS.items():
        text: str | None = getattr(row, column)
        if text is not None:
            yield field, _ASIDE.sub(lambda aside: re.sub(r"[^\n]", " ", aside[0]), text)
