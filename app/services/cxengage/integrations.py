"""The integrations of `signalbox integration`, with CxEngage's names for their fields.

`echo` and `generic` have no fields and always exist.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from app.actions.integration_kinds import KINDS, MASK
from app.core.errors import Problem, ProblemType
from app.services import integrations
from app.services.context import AppContext

BUILT_IN = ("echo", "generic")
# For each kind, CxEngage's field names that differ from ours.
_FIELD_NAMES: Mapping[str, Mapping[str, str]] = {
    "twilio": {"account": "account_sid", "password": "auth_token"},
    "sendgrid": {"account": "account", "password": "api_key"},
}


@dataclass(frozen=True, slots=True)
class MaskedIntegration:
    """An integration with masked secrets."""

    id: str
    fields: Mapping[str, str]


def list_integrations(context: AppContext, account_id: int) -> list[MaskedIntegration]:
    """All integrations of an account."""
    found = [MaskedIntegration(name, {}) for name in BUILT_IN]
    for integration in integrations.list_integrations(context, account_id):
        names = {ours: theirs for theirs, ours in _FIELD_NAMES.get(integration.kind, {}).items()}
        fields = {names.get(name, name): text for name, text in (integration.fields or {}).items()}
        found.append(MaskedIntegration(integration.kind, fields))
    return sorted(found, key=lambda shown: shown.id)


def find_integration(context: AppContext, account_id: int, name: str) -> MaskedIntegration:
    """One integration; raises Problem 404."""
    for shown in list_integrations(context, account_id):
        if shown.id == name:
            return shown
    raise Problem(ProblemType.NOT_FOUND, f"there is no integration {name[:40]}")


def set_integration(context: AppContext, account_id: int, name: str, fields: Mapping[str, str]) -> MaskedIntegration:
    """Create an integration, or change the given fields. An empty text removes a field; a masked secret stays unchanged.

    Raises Problem 404 or 422.
    """
    if name in BUILT_IN:
        if fields:
            raise Problem(ProblemType.VALIDATION_FAILED, f"{', '.join(fields)}: is unknown; {name} has no fields")
        return MaskedIntegration(name, {})
    if name not in KINDS:
        known = sorted([*BUILT_IN, *KINDS])
        raise Problem(ProblemType.NOT_FOUND, f"there is no integration {name[:40]}; known are {', '.join(known)}")
    names = _FIELD_NAMES.get(name, {})
    if unknown := [field for field in fields if field in names.values() and field not in names]:
        raise Problem(ProblemType.VALIDATION_FAILED, f"{', '.join(unknown)}: is unknown; use {', '.join(names)}")
    try:
        integrations.set_integration(
            context,
            account_id,
            KINDS[name],
            {names.get(field, field): text for field, text in fields.items() if text != MASK},
        )
    except Problem as exc:
        raise Problem(exc.type, _with_their_names(name, exc.detail)) from None
    return find_integration(context, account_id, name)


def _with_their_names(kind: str, text: str) -> str:
    for theirs, ours in _FIELD_NAMES.get(kind, {}).items():
        text = text.replace(ours, theirs)
    return text
