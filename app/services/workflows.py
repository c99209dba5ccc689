"""Checks and saves workflows, lists, enables, disables and deletes them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from app.core.errors import Problem, ProblemType
from app.core.ids import uuid7
from app.core.models import EnabledWorkflow
from app.db import accounts, erasure, inspection, run_trees, workflows
from app.db.audit import Change
from app.db.document_versions import WORKFLOW_VERSIONS, NewVersion
from app.db.erasure import Erased
from app.db.workflows import WorkflowRow
from app.services import audit
from app.services.context import AppContext
from app.services.document_versions import MAX_RECORDED, find_differences, find_text
from app.services.runs import cancel_runs_of_workflow
from app.services.secrets import find_missing
from app.services.workflow_activity import MAX_CANCELLED, MAX_DELETED, count_runs_in
from app.services.workflow_limits import check_limits
from app.workflows.matching.pattern_parser import PatternError
from app.workflows.secret_names import find_secret_names
from app.workflows.validate import NAME, awaited_names, check_workflow, to_stored, trigger_names
from app.workflows.yaml_loader import Document, InvalidDocument, Mistake, read_document


@dataclass(frozen=True, slots=True)
class Applied:
    """What applying a document did.

    `change`: "created", "changed" (a new version), "enabled" (the newest version, which existed) or "unchanged".
    `differences`: the changed paths. `mistakes`: those of a draft.
    """

    name: str
    version: int
    change: str
    enabled_version: int | None
    differences: tuple[str, ...] = ()
    mistakes: tuple[Mistake, ...] = ()


class SavedMeanwhile(Problem):
    """Another version of the workflow `name` was saved: `version` is its latest one now (0: it does not exist)."""

    def __init__(self, name: str, version: int) -> None:
        found = (
            f"there is a workflow {name!r} already, with version {version}"
            if version
            else f"there is no workflow {name!r}"
        )
        super().__init__(ProblemType.CONFLICT, found)
        self.name, self.version = name, version


def checked_document(source: str) -> Document:
    """Read and check the text of a workflow. Raises InvalidDocument with all mistakes."""
    document = read_document(source)
    mistakes = check_workflow(document)
    if mistakes:
        raise InvalidDocument(mistakes)
    return document


def check_in_account(context: AppContext, account_id: int, source: str) -> tuple[str, list[Mistake]]:
    """The name in a document ("" without a valid one), and all its mistakes, secrets that the account lacks included."""
    document = read_document(source)
    mistakes = check_workflow(document)
    if not mistakes and (read := list(find_secret_names(document.value))):
        with context.database.transaction() as connection:
            mistakes = find_missing(connection, account_id, document, read)
    name = document.value.get("name") if isinstance(document.value, dict) else None
    return (name if isinstance(name, str) and NAME.fullmatch(name) else ""), mistakes


def apply_workflow(context: AppContext, account_id: int, source: str) -> Applied:
    """Save a document as a new workflow, which is enabled, or as the next version of a workflow.

    The new version of an enabled workflow is enabled; a disabled workflow stays disabled. Runs stay on the version that
    started them. An unchanged document changes nothing. Raises InvalidDocument.
    """
    document = checked_document(source)
    with context.database.transaction() as connection:
        known = _known_workflow(connection, account_id, document)
        if mistakes := find_missing(connection, account_id, document, find_secret_names(document.value)):
            raise InvalidDocument(mistakes)
        is_enabled = known is None or known.enabled_version is not None
        return _apply(connection, context, account_id, known, document, source, enable=is_enabled)


def apply_in_transaction(connection: sa.Connection, account_id: int, source: str, now: datetime) -> UUID:
    """Save and enable a document, as a new workflow or the next version of one, in the caller's transaction; the workflow's id.
    Changes nothing when that document is enabled. Raises InvalidDocument."""
    document = checked_document(source)
    known = _known_workflow(connection, account_id, document)
    new, _, _ = _save(connection, known, account_id, document, source, now)
    if known is None or known.enabled_version != new.version:
        _enable(connection, account_id, new.owner_id, new.version, document, now)
    return new.owner_id


def save_draft(context: AppContext, account_id: int, source: str) -> Applied:
    """Save a document as a new version that is not enabled, even with mistakes.

    Raises InvalidDocument when it cannot be read or has no valid name.
    """
    document, mistakes = _read_named(source)
    with context.database.transaction() as connection:
        known = _known_workflow(connection, account_id, document)
        if not mistakes:
            mistakes = find_missing(connection, account_id, document, find_secret_names(document.value))
        return _apply(connection, context, account_id, known, document, source, mistakes, enable=False)


def save_edited(
    context: AppContext, account_id: int, source: str, after: int, *, enable: bool, name: str | None = None
) -> Applied:
    """Save a text as the version after `after` (0: as a new workflow), also if only comments differ. `enable`: enable it; else
    what is enabled stays so, and the text may have mistakes. `name`: that the document has to have.

    Raises InvalidDocument, and SavedMeanwhile when the latest version is not `after`.
    """
    document, mistakes = _read_named(source)
    if name is not None and document.value["name"] != name:
        raise InvalidDocument([document.mistake("name", f"must stay {name}: another name is another workflow")])
    if enable and mistakes:
        raise InvalidDocument(mistakes)
    with context.database.transaction() as connection:
        known = _known_workflow(connection, account_id, document)
        latest = known.latest_version if known else 0
        if latest != after:
            raise SavedMeanwhile(document.value["name"], latest)
        return _apply(
            connection, context, account_id, known, document, source, mistakes, enable=enable, with_comments=True
        )


def _read_named(source: str) -> tuple[Document, list[Mistake]]:
    """A document with its mistakes. Raises InvalidDocument when it cannot be read or has no valid name."""
    document = read_document(source)
    mistakes = check_workflow(document)
    if not isinstance(document.value, dict):
        raise InvalidDocument(mistakes)
    if about_name := [mistake for mistake in mistakes if mistake.path == "name"]:
        raise InvalidDocument(about_name)
    return document, mistakes


def _apply(
    connection: sa.Connection,
    context: AppContext,
    account_id: int,
    known: WorkflowRow | None,
    document: Document,
    source: str,
    mistakes: Sequence[Mistake] = (),
    *,
    enable: bool,
    with_comments: bool = False,
) -> Applied:
    """Save the document, enable the version on request, and record both."""
    new, change, differences = _save(
        connection, known, account_id, document, source, context.clock(), with_comments=with_comments
    )
    enabled_version = known.enabled_version if known else None
    if enable and enabled_version != new.version:
        _enable(connection, account_id, new.owner_id, new.version, document, context.clock())
        change = "enabled" if change == "unchanged" else change
        enabled_version = new.version
    applied = Applied(new.name, new.version, change, enabled_version, differences, tuple(mistakes))
    _record_applied(connection, context, account_id, known, applied)
    return applied


def _record_applied(
    connection: sa.Connection, context: AppContext, account_id: int, known: WorkflowRow | None, applied: Applied
) -> None:
    """Record a new version, or that the newest one was enabled. The document is in workflow_versions."""
    if applied.change == "unchanged":
        return
    action = {"created": "create", "changed": "change", "enabled": "enable"}[applied.change]
    before = None if known is None else _versions(known.latest_version, known.enabled_version)
    after = _versions(applied.version, applied.enabled_version)
    if applied.differences:
        after["changed"] = applied.differences[:MAX_RECORDED]
    audit.record(connection, context, Change(f"workflow.{action}", account_id, applied.name, before, after))


def _versions(latest: int, enabled: int | None) -> dict[str, Any]:
    """What the audit log says of a workflow."""
    return {"version": latest, "enabled_version": enabled}


def _known_workflow(connection: sa.Connection, account_id: int, document: Document) -> WorkflowRow | None:
    """The workflow with the document's name. Locks the account until the transaction ends."""
    accounts.increment_version(connection, account_id)
    return workflows.find_workflow(connection, account_id, document.value["name"])


def _save(
    connection: sa.Connection,
    known: WorkflowRow | None,
    account_id: int,
    document: Document,
    source: str,
    now: datetime,
    *,
    with_comments: bool = False,
) -> tuple[NewVersion, str, tuple[str, ...]]:
    """Save the document as the next version unless it is the newest: (version, change, differences). `with_comments`: the text
    has to be the same, too."""
    stored = to_stored(document.value)
    differences = tuple(sorted(find_differences(known.document, stored))) if known else ()
    is_newest = known is not None and not differences and not (with_comments and known.source != source)
    version = NewVersion(
        owner_id=known.id if known else uuid7(now),
        name=document.value["name"],
        version=(known.latest_version if is_newest else known.latest_version + 1) if known else 1,
        source=source,
        document=stored,
    )
    if is_newest:
        return version, "unchanged", ()
    WORKFLOW_VERSIONS.save(connection, account_id, version, now)
    return version, "changed" if known else "created", differences


def _enable(
    connection: sa.Connection, account_id: int, workflow_id: UUID, version: int, document: Document, now: datetime
) -> None:
    """Enable a version without mistakes. The events that its runs may wait for are stored now, since an earlier release may
    have saved the draft. Raises InvalidDocument when all enabled patterns together exceed a bound, or when the account lacks a
    secret."""
    mistakes = check_limits(connection, account_id, workflow_id, document)
    mistakes += find_missing(connection, account_id, document, find_secret_names(document.value))
    if mistakes:
        raise InvalidDocument(mistakes)
    workflows.write_awaits(connection, account_id, workflow_id, version, awaited_names(document.value))
    workflows.enable_version(connection, account_id, workflow_id, version, trigger_names(document.value), now)


def write_missing_triggers(connection: sa.Connection, account_id: int, enabled: Iterable[EnabledWorkflow]) -> None:
    """Store the triggers of enabled workflows that have none: a process of a release without this table enabled them."""
    for workflow in enabled:
        with suppress(PatternError):
            triggers = trigger_names(workflow.document)
            workflows.write_triggers(connection, account_id, workflow.id, workflow.version, triggers)


def list_workflows(
    context: AppContext, account_id: int, *, after: str = "", limit: int | None = None
) -> list[WorkflowRow]:
    """Workflows of an account by name: those after `after`, at most `limit` (None: all)."""
    with context.database.transaction() as connection:
        return workflows.list_workflows(connection, account_id, after, limit)


def find_workflow(context: AppContext, account_id: int, name: str) -> WorkflowRow:
    """A workflow by its name. Raises Problem 404."""
    with context.database.transaction() as connection:
        found = workflows.find_workflow(connection, account_id, name)
    return _existing(found, name)


def delete_workflow(context: AppContext, account_id: int, name: str, *, at_once: bool = False) -> Erased:
    """Delete a workflow with its versions, progress and runs; returns the number of runs. Decisions stay in the events.
    `at_once`: within one request. Raises Problem 409 for more runs or progress than that allows.

    Many transactions of bounded size: a deletion that was interrupted can be repeated. The first one disables the workflow,
    so that no new run starts; then its running runs are cancelled. Raises Problem 404, and 409 when it is enabled again during
    the deletion.
    """
    workflow_id = _disable_for_deletion(context, account_id, name, at_once=at_once)
    cancel_runs_of_workflow(context, account_id, workflow_id, "its workflow is being deleted")
    runs = _erase_in_batches(context, erasure.erase_runs_of_workflow, account_id, workflow_id)
    progress = _erase_in_batches(context, erasure.erase_progress_of_workflow, account_id, workflow_id)
    with context.database.transaction() as connection:
        inspection.allow_slow_statements(connection)
        accounts.increment_version(connection, account_id)
        found = _existing(workflows.find_workflow(connection, account_id, name), name)
        if found.enabled_version is not None:
            raise Problem(ProblemType.CONFLICT, f"{name} was enabled while its runs were being deleted; it stays")
        rest = erasure.erase_workflow(connection, account_id, found.id)
        erased = Erased(0, runs + rest.runs, progress + rest.progress)
        before = {"version": found.latest_version, "source": audit.digest(found.source), "runs": erased.runs}
        audit.record(connection, context, Change("workflow.delete", account_id, name, before))
    return erased


def _disable_for_deletion(context: AppContext, account_id: int, name: str, *, at_once: bool) -> UUID:
    with context.database.transaction() as connection:
        known = _lock_workflow(connection, account_id, name)
        if at_once and not count_runs_in(connection, account_id, known.id).can_be_deleted:
            too_many = f"{name} has more than {MAX_DELETED:,} runs, or subjects with progress"
            detail = f"{too_many}; `signalbox workflow delete {name}` deletes it"
            raise Problem(ProblemType.CONFLICT, detail)
        workflows.disable_workflow(connection, account_id, known.id, context.clock())
        before, after = {"enabled_version": known.enabled_version}, {"enabled_version": None, "to_be_deleted": True}
        audit.record(connection, context, Change("workflow.disable", account_id, name, before, after))
    return known.id


def _erase_in_batches(
    context: AppContext,
    erase: Callable[[sa.Connection, int, UUID, str], tuple[int, str | None]],
    account_id: int,
    workflow_id: UUID,
) -> int:
    """Erase each batch in a transaction; how many rows."""
    erased = 0
    last: str | None = ""
    while last is not None:
        with context.database.transaction() as connection:
            inspection.allow_slow_statements(connection)
            count, last = erase(connection, account_id, workflow_id, last)
        erased += count
    return erased


def _existing(found: WorkflowRow | None, name: str) -> WorkflowRow:
    if found is None:
        raise Problem(ProblemType.NOT_FOUND, f"there is no workflow {name!r}")
    return found


def find_version(context: AppContext, account_id: int, name: str, version: int) -> str:
    """The source of one version of a workflow. Raises Problem 404."""
    with context.database.transaction() as connection:
        workflow = _existing(workflows.find_workflow(connection, account_id, name), name)
        return find_text(connection, WORKFLOW_VERSIONS, workflow, version)


def enable_workflow(context: AppContext, account_id: int, name: str, version: int | None = None) -> int:
    """Enable a version of a workflow (default: the latest); returns it. Changes nothing, and loses no match state, when it is
    enabled already. Raises InvalidDocument."""
    workflow = find_workflow(context, account_id, name)
    version = version or workflow.latest_version
    document = checked_document(find_version(context, account_id, name, version))
    with context.database.transaction() as connection:
        known = _lock_workflow(connection, account_id, name)
        if known.enabled_version == version:
            return version
        _enable(connection, account_id, known.id, version, document, context.clock())
        before, after = {"enabled_version": known.enabled_version}, {"enabled_version": version}
        audit.record(connection, context, Change("workflow.enable", account_id, name, before, after))
    return version


def disable_workflow(
    context: AppContext, account_id: int, name: str, *, cancel_runs: bool = False, at_once: bool = False
) -> int:
    """Disable a workflow; returns how many runs were cancelled. Runs continue, unless `cancel_runs` ends them at their next step.
    `at_once`: within one request. Raises Problem 404, and 409 for more running runs than that allows."""
    with context.database.transaction() as connection:
        known = _lock_workflow(connection, account_id, name)
        if cancel_runs and at_once and not count_runs_in(connection, account_id, known.id).can_be_cancelled:
            command = f"`signalbox workflow disable {name} --cancel-runs`"
            raise Problem(
                ProblemType.CONFLICT, f"more than {MAX_CANCELLED:,} runs of {name} are running; {command} cancels them"
            )
        if known.enabled_version is None and not cancel_runs:
            return 0
        workflows.disable_workflow(connection, account_id, known.id, context.clock())
        before: dict[str, Any] = {"enabled_version": known.enabled_version}
        after: dict[str, Any] = {"enabled_version": None}
        if cancel_runs:
            # They are cancelled by further transactions.
            after["cancel_runs"] = run_trees.count_running_roots(connection, account_id, known.id)
        audit.record(connection, context, Change("workflow.disable", account_id, name, before, after))
    if not cancel_runs:
        return 0
    return cancel_runs_of_workflow(context, account_id, known.id, "its workflow was disabled and its runs cancelled")


def _lock_workflow(connection: sa.Connection, account_id: int, name: str) -> WorkflowRow:
    """A workflow, locked with its account until the transaction ends. Raises Problem 404."""
    accounts.lock_account(connection, account_id)
    return _existing(workflows.find_workflow(connection, account_id, name), name)
