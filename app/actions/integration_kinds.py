"""The kinds of integrations (the services that an account sends with): their fields, which are all text. Pure."""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from app.core.addresses import read_email, read_phone

MASK = "***"
SECURITIES = ("starttls", "tls", "none")
REGIONS = ("global", "eu")
_PORTS = {"starttls": 587, "tls": 465, "none": 25}
_MAX_FIELD = 64 * 1024
_SENDER_ID = re.compile(r"(?=.*[A-Za-z])[A-Za-z0-9 &_+-]{1,11}")
_SHORT_CODE = re.compile(r"\d{3,8}", re.ASCII)

# Raises ValueError for an invalid text.
Parse = Callable[[str], object]
Fields = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a kind of integration. `is_address`: it says where secrets are sent, and how safely."""

    name: str
    description: str
    parse: Parse
    required: bool = False
    secret: bool = False
    is_address: bool = False


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of integration. `verbs`: of the steps that send with it. `check_together` gives the error of a combination of fields
    that are each valid."""

    name: str
    verbs: tuple[str, ...]
    fields: tuple[Field, ...]
    check_together: Callable[[Fields], str | None] = lambda fields: None

    def field(self, name: str) -> Field | None:
        """The field of this name."""
        return next((field for field in self.fields if field.name == name), None)

    def missing(self, given: Fields) -> list[Field]:
        """The required fields that are not given."""
        return [field for field in self.fields if field.required and not given.get(field.name)]

    def errors(self, given: Fields) -> list[str]:
        """All errors in the fields; no message contains a secret."""
        names = ", ".join(field.name for field in self.fields)
        found = [f"{name} is unknown; {self.name} has {names}" for name in given if self.field(name) is None]
        found += [f"{field.name} is required: {field.description}" for field in self.missing(given)]
        for field in self.fields:
            if field.name in given and (error := _error(field, given[field.name])) is not None:
                found.append(error)
        if not found and (error := self.check_together(given)) is not None:
            found.append(error)
        return found

    def kept_secrets(self, before: Fields, changes: Fields) -> list[str]:
        """The secrets that would be sent to another address than before, without being given again."""
        moved = any(
            field.is_address and changes.get(field.name, "") != before.get(field.name, "")
            for field in self.fields
            if field.name in changes
        )
        return [
            field.name
            for field in self.fields
            if moved and field.secret and field.name in before and field.name not in changes
        ]

    def masked(self, given: Fields) -> dict[str, str]:
        """The fields with masked secrets, and the size of long texts."""
        secret = {field.name for field in self.fields if field.secret}
        return {
            name: MASK if name in secret else value if len(value) <= 100 else f"({len(value)} characters)"
            for name, value in given.items()
        }


def _error(field: Field, value: str) -> str | None:
    try:
        if len(value) > _MAX_FIELD:
            raise ValueError("too long")
        if field.secret and value == MASK:
            # Sent back as it was shown.
            raise ValueError("masked")
        field.parse(value)
    except ValueError as exc:
        return f"{field.name} must be {field.description}" + ("" if field.secret else f": {exc}")
    return None


def _matching(pattern: str) -> Parse:
    compiled = re.compile(pattern, re.ASCII)

    def parse(text: str) -> str:
        if not compiled.fullmatch(text):
            raise ValueError(f"{text[:100]!r} is not")
        return text

    return parse


def _port(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text[:6]) <= 65_535:
        raise ValueError(f"{text[:100]!r} is not")
    return int(text)


def _certificates(text: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(cadata=text)
    except ssl.SSLError as exc:
        raise ValueError(exc.reason or "it cannot be parsed") from None
    return context


def parse_sender(text: str) -> str:
    """The sender of an SMS: a phone number (E.164), a short code, or a name of up to 11 letters and digits."""
    if _SHORT_CODE.fullmatch(text) or _SENDER_ID.fullmatch(text):
        return text
    try:
        return read_phone(text)
    except ValueError:
        raise ValueError(f"{text[:100]!r} is not") from None


def smtp_port(fields: Fields) -> int:
    """The port of an SMTP integration: its own, or the default of its security."""
    return int(fields["port"]) if "port" in fields else _PORTS[fields.get("security", "starttls")]


def _one_sender(fields: Fields) -> str | None:
    if "from" in fields and "messaging_service_sid" in fields:
        return "from and messaging_service_sid cannot be combined"
    return None


def _safe_login(fields: Fields) -> str | None:
    if ("username" in fields) != ("password" in fields):
        return "username and password are required together"
    if "username" in fields and fields.get("security") == "none":
        return "with security none the password would be sent unencrypted; use starttls or tls"
    return None


_TOKEN = _matching(r"[\x21-\x7e]{1,4000}")
_NAME = _matching(r"[^\x00-\x1f\x7f]{1,200}")

KINDS: Mapping[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind(
            "whatsapp",
            ("whatsapp",),
            (
                Field("access_token", "the token of a system user of your Meta business", _TOKEN, True, True),
                Field("phone_number_id", "the id (digits) of the number to send from", _matching(r"\d{5,30}"), True),
                Field("api_version", "a version of the Graph API such as v23.0", _matching(r"v\d{1,3}\.\d{1,2}")),
            ),
        ),
        Kind(
            "twilio",
            ("sms", "call"),
            (
                Field("account_sid", "AC and 32 hexadecimal digits", _matching(r"AC[0-9a-fA-F]{32}"), True),
                Field("auth_token", "the auth token of that account", _TOKEN, True, True),
                Field("from", "a phone number, a short code or a sender name of up to 11 letters", parse_sender),
                Field("messaging_service_sid", "MG and 32 hexadecimal digits", _matching(r"MG[0-9a-fA-F]{32}")),
            ),
            _one_sender,
        ),
        Kind(
            "sendgrid",
            ("sendgrid",),
            (
                Field("api_key", "an API key (SG.…) that may send mail", _TOKEN, True, True),
                Field("from", "the address of a verified sender", read_email),
                Field("account", "the name of the account, for information only", _NAME),
                Field("region", "global (the default) or eu", _matching("|".join(REGIONS))),
            ),
        ),
        Kind(
            "smtp",
            ("email",),
            (
                Field(
                    "host",
                    "the name of the mail server",
                    _matching(r"[A-Za-z0-9][A-Za-z0-9.:-]{0,252}"),
                    True,
                    False,
                    True,
                ),
                Field("port", "a number from 1 to 65535", _port, is_address=True),
                Field(
                    "security", "starttls (the default), tls or none", _matching("|".join(SECURITIES)), is_address=True
                ),
                Field("username", "the name to log in with", _matching(r"[\x21-\x7e][\x20-\x7e]{0,500}")),
                Field("password", "the password to log in with", _matching(r"[^\x00-\x1f\x7f]{1,1000}"), secret=True),
                Field("from", "the address of the sender", read_email, True),
                Field("ca", "certificates (PEM) to trust in addition to the system's", _certificates),
            ),
            _safe_login,
        ),
    )
}
