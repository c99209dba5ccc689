"""What people change and look up beside events: accounts, keys, workflows, and what becomes of runs. Each function is
one transaction.

Comes in: the house and plain values. Goes out: rows as frozen values. A mistake is a Problem whose text is for people.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

import sqlalchemy as sa

from app.core.api_keys import make_key
from app.core.encryption import make_signing_secret
from app.core.ids import uuid7
from app.core.models import Key, Plan, Problem
from app.db import accounts, inspection, run_admin, run_blocks, workflows
from app.db.accounts import AccountRow, KeyRow
from app.db.workflows import NewVersion, WorkflowRow
from app.ingest.accept import Journey
from app.workflows.validate import as_kept, awaited_names, check_together, check_workflow
from app.workflows.yaml_loader import Document, Mistake, read_bytes, read_document

_SLUG = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_ABSENT = object()


# Accounts


def create_account(house: Journey, slug: str, plan: Plan) -> int:
    """Make an account; its id. A slug is unique, and no number, so that it is never taken for an id."""
    if not _SLUG.fullmatch(slug) or slug.isdigit():
        raise Problem(
            422, "Slug that cannot be used", f"{slug!r} has to be 1 to 63 of a-z, 0-9 and -, and more than a number"
        )
    secret = house.secrets.encrypt(make_signing_secret())
    with house.database.transaction() as connection:
        account_id = accounts.create_account(connection, slug, plan, secret, house.clock())
    if account_id is None:
        raise Problem(409, "Slug taken", f"there is an account {slug!r} already")
    return account_id


def list_accounts(house: Journey) -> list[AccountRow]:
    """All accounts, oldest first."""
    with house.database.transaction() as connection:
        return accounts.list_accounts(connection)


def find_account(house: Journey, name: str) -> AccountRow | None:
    """An account by its slug or id."""
    with house.database.transaction() as connection:
        return accounts.find_account(connection, name)


def change_plan(house: Journey, account_id: int, plan: Plan, events_per_second: int | None) -> None:
    """Put an account on a plan from now on."""
    with house.database.transaction() as connection:
        accounts.change_plan(connection, account_id, plan, events_per_second, house.clock())


def switch_account(house: Journey, account_id: int, *, on: bool) -> None:
    """Disable or enable an account."""
    with house.database.transaction() as connection:
        accounts.disable_account(connection, account_id, None if on else house.clock())


def signing_secret(house: Journey, account_id: int) -> str:
    """The secret (whsec_…) that signs the account's outbound calls."""
    with house.database.transaction() as connection:
        stored = accounts.find_signing_secret(connection, account_id)
    if stored is None:
        raise Problem(404, "No such account", "there is no such account")
    return house.secrets.decrypt(stored)


# Keys


def create_key(
    house: Journey, account_id: int, name: str, scopes: tuple[str, ...], lifetime: timedelta | None = None
) -> str:
    """Make a key; the key itself, which nobody can be told again."""
    moment = house.clock()
    text, prefix, digest = make_key()
    key = Key(prefix, digest, scopes, None if lifetime is None else moment + lifetime, None)
    with house.database.transaction() as connection:
        accounts.insert_key(connection, account_id, key, name, moment)
    return text


def replace_keys_named(house: Journey, account_id: int, name: str, scopes: tuple[str, ...]) -> str:
    """Revoke all keys called `name` and make a new one; the key itself."""
    moment = house.clock()
    text, prefix, digest = make_key()
    with house.database.transaction() as connection:
        accounts.revoke_keys_named(connection, account_id, name, moment)
        accounts.insert_key(connection, account_id, Key(prefix, digest, scopes, None, None), name, moment)
    return text


def list_keys(house: Journey, account_id: int | None) -> list[KeyRow]:
    """All keys of an account, or of all accounts."""
    with house.database.transaction() as connection:
        return accounts.list_keys(connection, account_id)


def revoke_key(house: Journey, prefix: str) -> bool:
    """Revoke a key; False when there is none in force with this prefix."""
    with house.database.transaction() as connection:
        return accounts.revoke_key(connection, prefix, house.clock()) is not None


# Workflows


@dataclass(frozen=True, slots=True)
class Applied:
    """What applying a document did.

    `change`: "created", "changed" (a new version), "enabled" (the newest version, which was there already) or
    "unchanged"; `differences` are changed paths; `enabled_version` is the one that looks at events now (None: none);
    `mistakes` are those of a draft.
    """

    name: str
    version: int
    change: str
    enabled_version: int | None
    differences: tuple[str, ...] = ()
    mistakes: tuple[Mistake, ...] = ()


class WrongDocument(Exception):
    """A document with mistakes."""

    def __init__(self, mistakes: list[Mistake]) -> None:
        super().__init__("; ".join(map(str, mistakes)))
        self.mistakes = mistakes


def mistakes_in(raw: bytes) -> list[Mistake]:
    """All that is wrong with a document as it lies in a file; asks nobody, needs no settings."""
    return check_workflow(read_bytes(raw))


def checked_document(source: str) -> Document:
    """Read and check a workflow's text; raises WrongDocument with all mistakes."""
    document = read_document(source)
    mistakes = check_workflow(document)
    if mistakes:
        raise WrongDocument(mistakes)
    return document


def apply_workflow(house: Journey, account_id: int, source: str) -> Applied:
    """Save a document as a new workflow (enabled at once) or as the next version of one.

    A workflow that is enabled goes on with the new version, a disabled one stays disabled; runs stay on the version
    that started them. The same document again changes nothing. Raises WrongDocument.
    """
    document = checked_document(source)
    with house.database.transaction() as connection:
        known = _known_workflow(connection, account_id, document)
        new, change, differences = _save(connection, known, account_id, document, source, house.clock())
        enabled_version = known.enabled_version if known else None
        if enabled_version not in (None, new.version) or known is None:
            _enable(connection, account_id, new.workflow_id, new.version, document, house.clock())
            change = "enabled" if change == "unchanged" else change
            enabled_version = new.version
    return Applied(new.name, new.version, change, enabled_version, differences)


def put_into_force(connection: sa.Connection, account_id: int, source: str, moment: datetime) -> UUID:
    """Save a document, in a transaction of the caller's, as a new workflow or the next version of one, and let it look at
    events; the workflow's id. Where that very document is in force already nothing changes. Raises WrongDocument."""
    document = checked_document(source)
    known = _known_workflow(connection, account_id, document)
    new, _, _ = _save(connection, known, account_id, document, source, moment)
    if known is None or known.enabled_version != new.version:
        _enable(connection, account_id, new.workflow_id, new.version, document, moment)
    return new.workflow_id


def save_draft(house: Journey, account_id: int, source: str) -> Applied:
    """Save a document as a new version that looks at no event, with whatever mistakes it has.

    Raises WrongDocument when it is too wrong to be kept: not readable, or without a name to keep it under.
    """
    document = read_document(source)
    mistakes = check_workflow(document)
    if not isinstance(document.value, dict):
        raise WrongDocument(mistakes)
    if nameless := [mistake for mistake in mistakes if mistake.path == "name"]:
        raise WrongDocument(nameless)
    with house.database.transaction() as connection:
        known = _known_workflow(connection, account_id, document)
        new, change, differences = _save(connection, known, account_id, document, source, house.clock())
    return Applied(
        new.name, new.version, change, known.enabled_version if known else None, differences, tuple(mistakes)
    )


def _known_workflow(connection: sa.Connection, account_id: int, document: Document) -> WorkflowRow | None:
    """The workflow that the document belongs to; until the end of the transaction nobody else changes it."""
    accounts.grow_version(connection, account_id)
    return workflows.find_workflow(connection, account_id, document.value["name"])


def _save(
    connection: sa.Connection,
    known: WorkflowRow | None,
    account_id: int,
    document: Document,
    source: str,
    moment: datetime,
) -> tuple[NewVersion, str, tuple[str, ...]]:
    """Keep the document as the next version, unless it is the newest already: (version, change, differences)."""
    kept = as_kept(document.value)
    differences = tuple(sorted(_differences(known.document, kept))) if known else ()
    is_newest = known is not None and not differences
    version = NewVersion(
        workflow_id=known.id if known else uuid7(moment),
        name=document.value["name"],
        version=(known.latest_version if is_newest else known.latest_version + 1) if known else 1,
        source=source,
        document=kept,
    )
    if is_newest:
        return version, "unchanged", ()
    workflows.save_version(connection, account_id, version, moment)
    return version, "changed" if known else "created", differences


def _enable(
    connection: sa.Connection, account_id: int, workflow_id: UUID, version: int, document: Document, moment: datetime
) -> None:
    """Let a version without mistakes look at events. Whom its runs may wait for is found out now: a draft may have
    been saved by a release that could not read all of it. Raises WrongDocument when it is too much beside the others."""
    mistakes = check_together(document, lambda: workflows.find_enabled_patterns(connection, account_id, workflow_id))
    if mistakes:
        raise WrongDocument(mistakes)
    workflows.note_awaits(connection, account_id, workflow_id, version, awaited_names(document.value))
    workflows.set_enabled(connection, account_id, workflow_id, version, moment)


def _differences(old: object, new: object, path: str = "") -> set[str]:
    """The paths at which two documents differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        return {
            found
            for name in old.keys() | new.keys()
            for found in _differences(
                old.get(name, _ABSENT), new.get(name, _ABSENT), f"{path}.{name}" if path else name
            )
        }
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = enumerate(zip(old, new, strict=True))
        return {found for index, (one, other) in pairs for found in _differences(one, other, f"{path}[{index}]")}
    return set() if old == new and isinstance(old, bool) == isinstance(new, bool) else {path}


def list_workflows(house: Journey, account_id: int, *, after: str = "", limit: int | None = None) -> list[WorkflowRow]:
    """Workflows of an account by name: those after one, `limit` at most (None: all)."""
    with house.database.transaction() as connection:
        return workflows.list_workflows(connection, account_id, after, limit)


def find_workflow(house: Journey, account_id: int, name: str) -> WorkflowRow:
    """A workflow by its name; raises Problem 404."""
    with house.database.transaction() as connection:
        found = workflows.find_workflow(connection, account_id, name)
    if found is None:
        raise Problem(404, "No such workflow", f"there is no workflow {name!r}; `flask workflow list` shows all")
    return found


def find_version(house: Journey, account_id: int, name: str, version: int) -> str:
    """The source of one version of a workflow; raises Problem 404."""
    workflow = find_workflow(house, account_id, name)
    with house.database.transaction() as connection:
        found = workflows.find_version(connection, account_id, workflow.id, version)
    if found is None:
        raise Problem(404, "No such version", f"{name} has the versions 1 to {workflow.latest_version}")
    source: str = found[0]
    return source


def enable_workflow(house: Journey, account_id: int, name: str, version: int | None = None) -> int:
    """Let a workflow look at events with `version` (default: its latest); that version. Raises WrongDocument."""
    workflow = find_workflow(house, account_id, name)
    version = version or workflow.latest_version
    document = checked_document(find_version(house, account_id, name, version))
    with house.database.transaction() as connection:
        _enable(connection, account_id, workflow.id, version, document, house.clock())
    return version


def disable_workflow(house: Journey, account_id: int, name: str) -> None:
    """Let a workflow look at no further event; its runs go on."""
    workflow = find_workflow(house, account_id, name)
    with house.database.transaction() as connection:
        workflows.set_enabled(connection, account_id, workflow.id, None, house.clock())


# Runs


def retry_runs(house: Journey, account_id: int, run_ids: Collection[UUID]) -> set[UUID]:
    """Let failed runs go on where they failed, with the same idempotency keys; those that had not failed are left out."""
    with house.database.transaction() as connection:
        return run_admin.retry_runs(connection, account_id, run_ids, house.clock())


def cancel_run(house: Journey, account_id: int, run_id: UUID) -> bool:
    """End a running run where it stands, with all its blocks; False when it has ended already (or there is none). The id
    of a block stands for the run that it belongs to."""
    with house.database.transaction() as connection:
        run = inspection.find_run(connection, account_id, run_id)
        if run is None:
            return False
        root = run.root_id or run.id
        return run_blocks.end_family(connection, account_id, root, "cancelled", "cancelled by hand", house.clock()) > 0
