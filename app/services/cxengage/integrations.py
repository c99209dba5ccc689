"""Integrations as CxEngage names them: the same that `flask integration` sets up, by the names of CxEngage's fields.

`echo` and `generic` need no account anywhere and are there for everybody.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from app.actions.integration_kinds import KINDS, MASK
from app.core.errors import Problem, ProblemType
from app.services import integrations
from app.services.context import AppContext

ALWAYS_THERE = ("echo", "generic")
# What CxEngage calls the fields of a kind; the others have the names that we give them.
NAMES: Mapping[str, Mapping[str, str]] = {
    "twilio": {"account": "account_sid", "password": "auth_token"},
    "sendgrid": {"account": "account", "password": "api_key"},
}


@dataclass(frozen=True, slots=True)
class Shown:
    """An integration as it may be shown: its id and fields, secrets masked."""

    id: str
    fields: Mapping[str, str]


def list_integrations(context: AppContext, account_id: int) -> list[Shown]:
    """All that an account may use."""
    found = [Shown(name, {}) for name in ALWAYS_THERE]
    for integration in integrations.list_integrations(context, account_id):
        names = {ours: theirs for theirs, ours in NAMES.get(integration.kind, {}).items()}
        fields = {names.get(name, name): text for name, text in (integration.fields or {}).items()}
        found.append(Shown(integration.kind, fields))
    return sorted(found, key=lambda shown: shown.id)


def find_integration(context: AppContext, account_id: int, name: str) -> Shown:
    """One of them; raises Problem 404."""
    for shown in list_integrations(context, account_id):
        if shown.id == name:
            return shown
    raise Problem(ProblemType.NOT_FOUND, f"there is no integration {name[:40]}")


def set_integration(context: AppContext, account_id: int, name: str, fields: Mapping[str, str]) -> Shown:
    """Set one up, or change the named fields of the one there is; an empty text takes a field away, and a secret that comes
    back masked stays what it is.

    Raises Problem 404, or 400 with all that is wrong.
    """
    if name in ALWAYS_THERE:
        if fields:
            raise Problem(ProblemType.VALIDATION_FAILED, f"{', '.join(fields)}: is unknown; {name} has no fields")
        return Shown(name, {})
    if name not in KINDS:
        known = sorted([*ALWAYS_THERE, *KINDS])
        raise Problem(ProblemType.NOT_FOUND, f"there is no integration {name[:40]}; there are {', '.join(known)}")
    names = NAMES.get(name, {})
    if unknown := [field for field in fields if field in names.values() and field not in names]:
        raise Problem(ProblemType.VALIDATION_FAILED, f"{', '.join(unknown)}: is unknown; say {', '.join(names)}")
    try:
        integrations.set_integration(
            context,
            account_id,
            KINDS[name],
            {names.get(field, field): text for field, text in fields.items() if text != MASK},
        )
    except Problem as wrong:
        raise Problem(wrong.type, _in_their_words(name, wrong.detail)) from None
    return find_integration(context, account_id, name)


def _in_their_words(kind: str, text: str) -> str:
    for theirs, ours in NAMES.get(kind, {}).items():
        text = text.replace(ours, theirs)
    return text
