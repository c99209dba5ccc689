"""The source document: checks it, and compiles it together with its preset.

What an account writes replaces the same part of its preset: `verify` and `map` by field, `events`, `handshake` and
`region` as a whole. The stored document is what the account wrote, so that a source uses the preset of the release.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from app.core.phone_numbers import is_region
from app.core.template_names import SECRET_NAME
from app.workflows.sources.event_rules import MAP_FIELDS, check_completeness, check_rules, compile_rules
from app.workflows.sources.handshakes import Handshake, check_handshake, read_handshake
from app.workflows.sources.mapping import CompiledMapping
from app.workflows.sources.preset_files import find_preset, preset_names
from app.workflows.sources.schemes import Location, Scheme, check_scheme, merge_scheme, read_scheme
from app.workflows.validate import NAME
from app.workflows.yaml_loader import Document, Mistake

FIELDS = (
    *("name", "description", "provider", "listener", "secrets", "verify_token", "verify", "handshake"),
    *("region", "events", "map", "unverified"),
)
UNVERIFIED = ("refuse", "store")
# The id of a CxEngage listener.
LISTENER = re.compile("LI[1-9][0-9]{0,8}")
# A delivery with a bad signature costs one HMAC for each secret.
MAX_SECRETS = 5
SECRET = re.compile(rf"\{{\{{\s*secrets\.({SECRET_NAME.pattern})\s*\}}\}}")
_EXAMPLE = '"{{ secrets.SHOPIFY }}"'

Errors = Iterator[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class CompiledSource:
    """A source, ready for deliveries.

    `secrets` and `verify_token` are templates such as `{{ secrets.SHOPIFY }}`, `secret_names` the names in them. `verify` is None
    if the URL is the proof. `listener`: the CxEngage listener whose posts are its deliveries, too.
    """

    name: str
    provider: str | None
    verify: Scheme | None
    handshake: Handshake | None
    secrets: tuple[str, ...]
    verify_token: str | None
    unverified: str
    mapping: CompiledMapping
    secret_names: frozenset[str]
    listener: str | None = None

    @property
    def secret_locations(self) -> tuple[Location, ...]:
        """Where a delivery has a secret itself, which nobody may see later."""
        return () if self.verify is None else self.verify.secret_locations


def check_source(document: Document) -> list[Mistake]:
    """Every mistake in a document, in the order of its lines. A document without mistakes can be compiled."""
    return document.check(_check, otherwise="a source must be an object with the fields name, provider and secrets")


def to_document(value: Mapping[str, Any]) -> dict[str, Any]:
    """A document as it is stored: what the account wrote, without its preset."""
    return dict(value)


def compile_source(document: Mapping[str, Any]) -> CompiledSource:
    """Compile a document without mistakes, together with its preset."""
    preset = find_preset(document.get("provider"))
    scheme = merge_scheme(preset.get("verify"), document.get("verify"))
    texts = (*document.get("secrets", ()), document.get("verify_token", ""))
    return CompiledSource(
        name=document["name"],
        provider=document.get("provider"),
        verify=None if scheme is None else read_scheme(scheme),
        handshake=read_handshake(document.get("handshake", preset.get("handshake"))),
        secrets=tuple(document.get("secrets", ())),
        verify_token=document.get("verify_token"),
        unverified=document.get("unverified", UNVERIFIED[0]),
        mapping=CompiledMapping(compile_rules(document, preset), document.get("region", preset.get("region"))),
        secret_names=frozenset(name for text in texts for name in SECRET.findall(text)),
        listener=document.get("listener"),
    )


def _check(document: Mapping[str, Any]) -> Errors:
    for field in document:
        if field not in FIELDS:
            hint = "; it belongs in map" if field in MAP_FIELDS else ""
            yield field, f"is unknown; a source has the fields {', '.join(FIELDS)}{hint}"
    name = document.get("name")
    if not isinstance(name, str) or not NAME.fullmatch(name):
        yield "name", "must be 1 to 100 letters, digits, - and _" if "name" in document else "is missing"
    if not isinstance(document.get("description", ""), str):
        yield "description", "must be text"
    if "region" in document and not is_region(document["region"]):
        yield "region", "must be the two upper-case letters of a country, such as IN"
    if "listener" in document and not is_listener(document["listener"]):
        yield "listener", "must be the id of a CxEngage listener, such as LI1"
    if document.get("unverified", UNVERIFIED[0]) not in UNVERIFIED:
        yield "unverified", f"must be {' or '.join(UNVERIFIED)}"
    provider = document.get("provider")
    is_known = provider is None or provider in preset_names()
    if not is_known:
        known = ", ".join(preset_names())
        yield "provider", f"is not known; known are {known}; leave it out for a provider that is none of these"
    preset = find_preset(provider) if is_known else {}
    yield from _check_proof(document, preset, is_known=is_known)
    yield from check_rules(document, preset)
    if is_known and isinstance(document.get("events", []), list) and isinstance(document.get("map", {}), dict):
        yield from check_completeness(document, preset)


def _check_proof(document: Mapping[str, Any], preset: Mapping[str, Any], *, is_known: bool) -> Errors:
    """Mistakes of what says who sent a delivery: `verify`, `handshake`, `secrets`, `verify_token`."""
    scheme = merge_scheme(preset.get("verify"), document.get("verify"))
    if "verify" in document:
        yield from check_scheme(scheme, "verify")
    elif scheme is None and is_known:
        yield (
            "verify",
            "is missing: how a delivery proves who sent it; or provider, if there is a preset; or none: the URL is the proof",
        )
    handshake = document.get("handshake", preset.get("handshake"))
    if "handshake" in document:
        yield from check_handshake(handshake)
    yield from _check_secrets(document.get("secrets"), is_needed=is_known and scheme not in (None, "none"))
    if "verify_token" not in document:
        return
    if not _is_secret(document["verify_token"]):
        yield "verify_token", 'must be a secret, such as "{{ secrets.WA_VERIFY }}"'
    elif is_known and not (isinstance(handshake, Mapping) and "verify_token" in handshake):
        yield "verify_token", "has no effect: the handshake has no verify_token"


def _check_secrets(secrets: Any, *, is_needed: bool) -> Errors:
    if secrets is None:
        if is_needed:
            yield "secrets", f"is missing: what deliveries are verified with, such as [{_EXAMPLE}]"
        return
    if not isinstance(secrets, list) or not 1 <= len(secrets) <= MAX_SECRETS:
        yield "secrets", f"must be a list of 1 to {MAX_SECRETS} secrets, such as [{_EXAMPLE}]"
        return
    for index, secret in enumerate(secrets):
        if not _is_secret(secret):
            yield f"secrets[{index}]", f"must be {_EXAMPLE} and nothing else; its value is a secret of the account"


def is_listener(value: Any) -> bool:
    """Whether a value is the id of a CxEngage listener."""
    return isinstance(value, str) and LISTENER.fullmatch(value) is not None


def _is_secret(text: Any) -> bool:
    return isinstance(text, str) and SECRET.fullmatch(text.strip()) is not None
