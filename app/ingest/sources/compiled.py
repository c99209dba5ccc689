"""The sources of an account snapshot, compiled, with their secrets decrypted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from uuid import UUID

import structlog

from app.core.config import SettingsError
from app.core.encryption import Secrets
from app.core.log_config import describe_exception
from app.core.pacing import pause_if_due
from app.db.accounts import AccountSnapshot, SourceSnapshot
from app.workflows.sources.document import SECRET, CompiledSource, compile_source

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Source:
    """A source that takes deliveries. `missing`: the names of its secrets that the account does not have or that cannot be
    decrypted; `secrets` are the others."""

    snapshot: SourceSnapshot
    compiled: CompiledSource
    secrets: tuple[str, ...]
    verify_token: str | None
    missing: tuple[str, ...]


def compile_sources(snapshot: AccountSnapshot, secrets: Secrets, known: Mapping[UUID, Source]) -> Mapping[UUID, Source]:
    """The sources of an account by id. Unchanged ones are taken from `known`.

    A version that an older release saved and this one cannot compile is logged and left out.
    """
    if not snapshot.sources:
        return {}
    values, sources = dict[str, str | None](), {}
    for row in snapshot.sources:
        pause_if_due()
        before = known.get(row.id)
        try:
            is_known = before is not None and before.snapshot.version == row.version
            compiled = before.compiled if before is not None and is_known else compile_source(row.document)
        except Exception as exc:
            _log.error("a source cannot be compiled", source=row.name, error=describe_exception(exc))
            continue
        for name in compiled.secret_names - values.keys():
            values[name] = _decrypt(snapshot, secrets, name)
        texts = [resolve_secrets(text, values) for text in compiled.secrets]
        token = None if compiled.verify_token is None else resolve_secrets(compiled.verify_token, values)
        sources[row.id] = Source(
            row,
            compiled,
            tuple(text for text in texts if text is not None),
            token,
            tuple(sorted(name for name in compiled.secret_names if values[name] is None)),
        )
    return sources


def _decrypt(snapshot: AccountSnapshot, secrets: Secrets, name: str) -> str | None:
    """The value of a secret; None when the account does not have it or no key decrypts it."""
    try:
        return secrets.decrypt(snapshot.secrets[name]) if name in snapshot.secrets else None
    except SettingsError as exc:
        _log.error("a secret cannot be decrypted", account=snapshot.id, secret=name, error=str(exc))
        return None


def resolve_secrets(template: str, values: Mapping[str, str | None]) -> str | None:
    """A text with the values of its secrets; None when one of them is missing."""
    found = [values.get(name) for name in SECRET.findall(template)]
    if None in found:
        return None
    return SECRET.sub(lambda match: values[match[1]] or "", template)
