"""The `handshake` section of a source: how a provider tests a URL before it delivers, described by data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from app.actions.field_checks import FieldErrors
from app.workflows.sources.schemes import Location, check_location, check_text, read_locations

METHODS = ("GET", "OPTIONS", "POST")
FIELDS = ("method", "when", "verify_token", "challenge", "allow_origin")


@dataclass(frozen=True, slots=True)
class Handshake:
    """A compiled `handshake` section.

    A request with the method, and with `equals` at `when` (None: with a challenge), is the handshake. It is answered with its
    `challenge` if the source's own verify token is at `verify_token`; or its origin is allowed (CloudEvents).
    """

    method: str
    challenge: Location | None = None
    verify_token: Location | None = None
    when: Location | None = None
    equals: str = ""
    allow_origin: bool = False


def check_handshake(section: Any, path: str = "handshake") -> FieldErrors:
    """Every mistake in a section as (path, message). `none` is a section, too: GET, HEAD and OPTIONS are answered anyway."""
    if section == "none":
        return []
    if not isinstance(section, Mapping):
        return [(path, "must be none, or have method and challenge")]
    errors = [(f"{path}.{name}", f"is unknown; it has {', '.join(FIELDS)}") for name in section if name not in FIELDS]
    if section.get("method") not in METHODS:
        errors.append((f"{path}.method", f"must be one of {', '.join(METHODS)}"))
    if ("challenge" in section) == (section.get("allow_origin") is True):
        errors.append((path, "must have either challenge, the value to answer with, or allow_origin: true"))
    for name in ("challenge", "verify_token"):
        if name in section:
            errors += check_location(section[name], f"{path}.{name}")
    if "when" in section:
        errors += check_location(section["when"], f"{path}.when", other=("equals",))
        if isinstance(section["when"], Mapping):
            errors += check_text(section["when"].get("equals"), f"{path}.when.equals", "the value in a handshake")
    return errors


def read_handshake(section: Any) -> Handshake | None:
    """Compile a section without mistakes; None for `none` and for no section."""
    if section in (None, "none"):
        return None
    found = {
        name: read_locations(section[name])[0] for name in ("challenge", "verify_token", "when") if name in section
    }
    equals = section["when"]["equals"] if "when" in section else ""
    return Handshake(section["method"], **found, equals=equals, allow_origin=section.get("allow_origin", False))
