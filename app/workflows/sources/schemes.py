"""The `verify` section of a source: how a delivery proves who sent it, described by data.

`check_scheme` finds the mistakes of a section, `read_scheme` compiles a section without mistakes. The cryptography is in
`app/ingest/sources/verifier.py`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Literal
from urllib.parse import urlsplit

from app.actions.field_checks import FieldErrors
from app.core.durations import read_duration

Section = Mapping[str, Any]
Kind = Literal["hmac", "ecdsa", "shared", "basic"]

ALGORITHMS: Mapping[str, Sequence[str]] = {
    "hmac": ("sha256", "sha512", "sha384", "sha1", "md5"),
    "ecdsa": ("sha256", "sha384", "sha512"),
}
ENCODINGS: Mapping[str, Sequence[str]] = {
    "hmac": ("hex", "base64", "base64url"),
    "ecdsa": ("base64", "base64url", "hex"),
}
SECRET_ENCODINGS = ("text", "base64", "hex")
LOCATIONS = ("header", "query", "body")
# Values besides the signature that a delivery may carry, each at a location of its own or in a field of the signature's header.
VALUES = ("timestamp", "id", "token")
PARTS = ("body", "unpacked_body", "form", "timestamp", "id", "token", "url", "decoded_url", "method")
SIGNED_FIELDS = (
    *("encoding", *LOCATIONS, "prefix", "separator", "fields", *VALUES, "signed", "tolerance"),
    *("secret_encoding", "secret_prefix", "body_hash", "public_url"),
)
FIELDS: Mapping[str, Sequence[str]] = {
    "hmac": ("hmac", *SIGNED_FIELDS),
    "ecdsa": ("ecdsa", *SIGNED_FIELDS),
    "shared": ("shared",),
    "basic": ("basic",),
}
DEFAULT_TOLERANCE = timedelta(minutes=5)
MAX_TEXT = 200
MAX_LOCATIONS = 5
_HEADER = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,100}")
_PART = re.compile(r"\{([^{}]*)\}")


@dataclass(frozen=True, slots=True)
class Location:
    """Where a delivery has a value: a header (its name in lower case), a query parameter, or a path of names in the body.

    What comes before the value, in upper or lower case, is `prefix`.
    """

    kind: str
    name: str
    prefix: str = ""

    def __str__(self) -> str:
        return {"header": "the header ", "query": "the query parameter ", "body": "the body's "}[self.kind] + self.name


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the signed text: one of PARTS, a header, or (kind `text`) the same text in each delivery."""

    kind: str
    value: str = ""


@dataclass(frozen=True, slots=True)
class Scheme:
    """A compiled `verify` section.

    `locations`: of the signature (the first one that a delivery has counts) or of the shared secret (any of them counts).
    `separator`: between several signatures, each with `prefix`, or between the fields named by `field_names`. `values`: the
    locations of timestamp, id and token. `tolerance`: in seconds; None without a limit. `key_encoding`, `key_prefix`: of the
    secrets. `user`: for Basic authentication.
    """

    kind: Kind
    locations: tuple[Location, ...] = ()
    algorithm: str = ""
    encoding: str = ""
    prefix: str = ""
    separator: str | None = None
    field_names: Mapping[str, str] | None = None
    values: Mapping[str, tuple[Location, ...]] | None = None
    signed: tuple[Part, ...] = (Part("body"),)
    tolerance: float | None = None
    key_encoding: str = "text"
    key_prefix: str = ""
    body_hash: str | None = None
    public_url: str | None = None
    user: str = ""

    @property
    def secret_locations(self) -> tuple[Location, ...]:
        """Where a delivery has the secret itself, which nobody may see later."""
        return self.locations if self.kind in ("shared", "basic") else ()


def merge_scheme(preset: Section | None, own: Any) -> Any:
    """The effective section: the preset's with the account's changes, or the account's alone if it names a kind of scheme."""
    if own is None:
        return preset
    if preset is None or not isinstance(own, Mapping) or any(kind in own for kind in FIELDS):
        return own
    return {**preset, **own}


def check_scheme(section: Any, path: str = "verify") -> FieldErrors:
    """Every mistake in a section as (path, message). `none` is a section, too: the URL is the proof."""
    if section == "none":
        return []
    kinds = [kind for kind in FIELDS if kind in section] if isinstance(section, Mapping) else []
    if len(kinds) != 1:
        return [(path, f"must be none, or have one of {', '.join(FIELDS)}")]
    (kind,) = kinds
    errors = [
        (f"{path}.{name}", f"is unknown; a section with {kind} has {', '.join(FIELDS[kind])}")
        for name in section
        if name not in FIELDS[kind]
    ]
    if kind == "basic":
        return errors + check_text(section["basic"], f"{path}.basic", "the user name; the password is the secret")
    if kind == "shared":
        return errors + check_locations(section["shared"], f"{path}.shared")
    return errors + _check_signed(kind, section, path)


def read_scheme(section: Any) -> Scheme | None:
    """Compile a section without mistakes; None for `none`."""
    if section == "none":
        return None
    if "basic" in section:
        return Scheme("basic", (Location("header", "authorization", "Basic "),), user=section["basic"])
    if "shared" in section:
        return Scheme("shared", read_locations(section["shared"]))
    kind: Kind = "hmac" if "hmac" in section else "ecdsa"
    field_names = section.get("fields")
    has_timestamp = "timestamp" in (field_names or ()) or "timestamp" in section
    public_url = section.get("public_url")
    return Scheme(
        kind,
        tuple(replace(location, prefix="") for location in read_locations(section)),
        algorithm=section[kind],
        encoding=section.get("encoding", ENCODINGS[kind][0]),
        prefix=section.get("prefix", ""),
        separator=section.get("separator", "," if field_names else None),
        field_names=field_names,
        values={name: read_locations(section[name]) for name in VALUES if name in section},
        signed=_read_signed(section.get("signed", "{body}")),
        tolerance=_read_tolerance(section.get("tolerance")) if has_timestamp else None,
        key_encoding=section.get("secret_encoding", "text"),
        key_prefix=section.get("secret_prefix", ""),
        body_hash=section.get("body_hash"),
        public_url=public_url.rstrip("/") if public_url else None,
    )


def _check_signed(kind: str, section: Section, path: str) -> FieldErrors:
    errors = _check_choice(section[kind], f"{path}.{kind}", ALGORITHMS[kind])
    errors += _check_choice(section.get("encoding", "hex"), f"{path}.encoding", ENCODINGS[kind])
    errors += _check_choice(section.get("secret_encoding", "text"), f"{path}.secret_encoding", SECRET_ENCODINGS)
    errors += check_location(section, path, other=FIELDS[kind])
    for name in ("separator", "secret_prefix", "body_hash"):
        if name in section:
            errors += check_text(section[name], f"{path}.{name}", "such as ','" if name == "separator" else "a text")
    for name in VALUES:
        if name in section:
            errors += check_locations(section[name], f"{path}.{name}")
    errors += _check_field_names(section, path)
    errors += _check_public_url(section, path)
    return errors or _check_coverage(section, path)


def _check_choice(value: Any, path: str, choices: Sequence[str]) -> FieldErrors:
    return [] if value in choices else [(path, f"must be one of {', '.join(choices)}")]


def check_text(value: Any, path: str, description: str) -> FieldErrors:
    """Mistakes of a required text; the message contains `description`."""
    if isinstance(value, str) and 0 < len(value) <= MAX_TEXT:
        return []
    return [(path, f"must be text of 1 to {MAX_TEXT} characters: {description}")]


def check_locations(value: Any, path: str) -> FieldErrors:
    """Mistakes of one location, or of a list of them."""
    if not isinstance(value, list):
        return check_location(value, path)
    if not 1 <= len(value) <= MAX_LOCATIONS:
        return [(path, f"must have 1 to {MAX_LOCATIONS} members")]
    return [error for index, member in enumerate(value) for error in check_location(member, f"{path}[{index}]")]


def check_location(value: Any, path: str, other: Sequence[str] = ()) -> FieldErrors:
    """Mistakes of one location: a header, query parameter or path in the body. `other`: further fields that may be there."""
    kinds = [kind for kind in LOCATIONS if kind in value] if isinstance(value, Mapping) else []
    if len(kinds) != 1:
        return [(path, f"must have one of {', '.join(LOCATIONS)}, such as header: x-signature")]
    (kind,) = kinds
    known = (*LOCATIONS, "prefix", *other)
    errors = [(f"{path}.{name}", f"is unknown; a {kind} has prefix") for name in value if name not in known]
    if "prefix" in value:
        errors += check_text(value["prefix"], f"{path}.prefix", "what comes before the value")
    names = value[kind] if kind == "header" and isinstance(value[kind], list) else [value[kind]]
    if not 1 <= len(names) <= MAX_LOCATIONS:
        errors.append((f"{path}.{kind}", f"must have 1 to {MAX_LOCATIONS} names"))
    for name in names:
        if kind == "header" and not (isinstance(name, str) and _HEADER.fullmatch(name)):
            errors.append((f"{path}.header", "must be the name of a header, or a list of names"))
        elif kind != "header":
            errors += check_text(
                name, f"{path}.{kind}", "a name" if kind == "query" else "a path such as signature.token"
            )
    return errors


def _check_field_names(section: Section, path: str) -> FieldErrors:
    """Mistakes of `fields`, such as {timestamp: t, signature: v1} for a header `t=…,v1=…`."""
    if "fields" not in section:
        return []
    if "prefix" in section:
        return [(f"{path}.prefix", "cannot be combined with fields")]
    fields, path = section["fields"], f"{path}.fields"
    if not isinstance(fields, Mapping) or "signature" not in fields:
        return [(path, "must name the field of the signature, such as {timestamp: t, signature: v1}")]
    errors: FieldErrors = []
    for name, value in fields.items():
        if name not in ("signature", *VALUES):
            errors.append((f"{path}.{name}", f"is unknown; fields has signature, {', '.join(VALUES)}"))
        elif name in section:
            errors.append((f"{path}.{name}", f"cannot be combined with {name}: a value has one location"))
        errors += check_text(value, f"{path}.{name}", "the name of a field")
    return errors


def _check_public_url(section: Section, path: str) -> FieldErrors:
    url = section.get("public_url")
    if url is None:
        return []
    try:
        parts = urlsplit(url) if isinstance(url, str) else None
        if parts and parts.scheme in ("http", "https") and parts.netloc and parts.path.rstrip("/") == "":
            return []
    except ValueError:
        pass
    return [(f"{path}.public_url", "must be scheme and host, such as https://events.example.com")]


def _check_coverage(section: Section, path: str) -> FieldErrors:
    """Mistakes of what is signed: the signature has to cover each value that is used."""
    signed, at = section.get("signed", "{body}"), f"{path}.signed"
    if errors := check_text(signed, at, "such as '{timestamp}.{body}'"):
        return errors
    present = {name for name in VALUES if name in section or name in section.get("fields", {})}
    errors, parts = [], {part.kind for part in _read_signed(signed)}
    if "{" in _PART.sub("", signed) or "}" in _PART.sub("", signed):
        errors.append((at, "has a brace without its partner"))
    for part in _read_signed(signed):
        if part.kind not in (*PARTS, "text") and not (part.kind == "header" and _HEADER.fullmatch(part.value)):
            errors.append(
                (at, f"{{{part.kind}}} is unknown; use {', '.join(f'{{{name}}}' for name in PARTS)}, {{header:NAME}}")
            )
        elif part.kind in VALUES and part.kind not in present:
            errors.append((at, f"contains {{{part.kind}}}, and {part.kind} has no location"))
    for name in sorted(present - parts):
        errors.append((at, f"does not contain {{{name}}}: {name} could be forged"))
    if not parts & {"body", "unpacked_body", "form", "token"}:
        errors.append(
            (at, "must contain {body}, {unpacked_body} or {form}, else anybody could change the body; or {token}")
        )
    if "body_hash" in section and "url" not in parts:
        errors.append(
            (f"{path}.body_hash", "needs {url} in signed: it is a query parameter with the SHA-256 of the body")
        )
    return errors + _check_tolerance(section, "timestamp" in present, path)


def _check_tolerance(section: Section, has_timestamp: bool, path: str) -> FieldErrors:
    if "tolerance" not in section:
        return []
    if not has_timestamp:
        return [(f"{path}.tolerance", "has no effect without a timestamp")]
    try:
        _read_tolerance(section["tolerance"])
    except ValueError as exc:
        return [(f"{path}.tolerance", f"{exc}; or none")]
    return []


def _read_tolerance(value: Any) -> float | None:
    """Seconds; None for `none`. Raises ValueError."""
    if value == "none":
        return None
    return (DEFAULT_TOLERANCE if value is None else read_duration(value)).total_seconds()


def read_locations(value: Any) -> tuple[Location, ...]:
    """The locations of a part without mistakes: one, or a list."""
    if isinstance(value, list):
        return tuple(location for member in value for location in read_locations(member))
    (kind,) = (kind for kind in LOCATIONS if kind in value)
    names = value[kind] if isinstance(value[kind], list) else [value[kind]]
    prefix = value.get("prefix", "")
    return tuple(Location(kind, name.lower() if kind == "header" else name, prefix) for name in names)


def _read_signed(text: str) -> tuple[Part, ...]:
    # Texts are at the even positions, parts at the odd ones.
    pieces = _PART.split(text)
    return tuple(
        _read_part(piece) if index % 2 else Part("text", piece)
        for index, piece in enumerate(pieces)
        if index % 2 or piece
    )


def _read_part(name: str) -> Part:
    kind, _, value = name.partition(":")
    return Part("header", value.lower()) if kind == "header" else Part(name)
