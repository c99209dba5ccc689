"""What people change and look up beside events: accounts, keys, workflows. Each function is one transaction.

Comes in: the house and plain values. Goes out: rows as frozen values. A mistake is a Problem whose text is for people.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timedelta

from app.documents import Document, Mistake, read_document
from app.identifiers import uuid7
from app.journey import Journey
from app.receive.keys import make_key
from app.secrets import make_signing_secret
from app.store import accounts, workflows
from app.store.accounts import AccountRow, KeyRow
from app.store.workflows import NewVersion, WorkflowRow
from app.words import Key, Plan, Problem
from app.workflows import awaited_names, check_workflow

_SLUG = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")


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
    """What applying a document did: `change` is "created", "changed" or "unchanged"; `differences` are changed paths."""

    name: str
    version: int
    change: str
    enabled: bool
    differences: tuple[str, ...] = ()


class WrongDocument(Exception):
    """A document with mistakes."""

    def __init__(self, mistakes: list[Mistake]) -> None:
        super().__init__("; ".join(map(str, mistakes)))
        self.mistakes = mistakes


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
    document = checked_document(source).value
    with house.database.transaction() as connection:
        accounts.grow_version(connection, account_id)
        known = workflows.find_workflow(connection, account_id, document["name"])
        if known is not None and known.document == document:
            enabled = known.enabled_version is not None
            if known.enabled_version in (None, known.latest_version):
                return Applied(known.name, known.latest_version, "unchanged", enabled)
        moment = house.clock()
        new = NewVersion(
            workflow_id=known.id if known else uuid7(moment),
            name=document["name"],
            version=known.latest_version + 1 if known else 1,
            source=source,
            document=document,
            awaits=awaited_names(document),
        )
        workflows.save_version(connection, account_id, new, moment)
        enable = known is None or known.enabled_version is not None
        if enable:
            workflows.set_enabled(connection, account_id, new.workflow_id, new.version, moment)
    differences = tuple(sorted(_differences(known.document, document))) if known else ()
    return Applied(new.name, new.version, "changed" if known else "created", enable, differences)


def _differences(old: object, new: object, path: str = "") -> set[str]:
    """The paths at which two documents differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        return {
            found
            for name in old.keys() | new.keys()
            for found in _differences(old.get(name), new.get(name), f"{path}.{name}" if path else name)
        }
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = enumerate(zip(old, new, strict=True))
        return {found for index, (one, other) in pairs for found in _differences(one, other, f"{path}[{index}]")}
    return set() if old == new and isinstance(old, bool) == isinstance(new, bool) else {path}


def list_workflows(house: Journey, account_id: int) -> list[WorkflowRow]:
    """All workflows of an account by name."""
    with house.database.transaction() as connection:
        return workflows.list_workflows(connection, account_id)


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
    """Let a workflow look at events with `version` (default: its latest); that version."""
    workflow = find_workflow(house, account_id, name)
    version = version or workflow.latest_version
    checked_document(find_version(house, account_id, name, version))
    with house.database.transaction() as connection:
        workflows.set_enabled(connection, account_id, workflow.id, version, house.clock())
    return version


def disable_workflow(house: Journey, account_id: int, name: str) -> None:
    """Let a workflow look at no further event; its runs go on."""
    workflow = find_workflow(house, account_id, name)
    with house.database.transaction() as connection:
        workflows.set_enabled(connection, account_id, workflow.id, None, house.clock())
