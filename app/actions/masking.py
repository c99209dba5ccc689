"""Masks the secrets of an attempt wherever they would be stored or logged: requests, responses, outputs and errors.

Secrets are the secret fields of integrations, what a request carries under a name such as Authorization, `api_key` or `password`
(headers, query parameters, members of a JSON or form body), tokens in the paths of webhooks, and values that templates read under
such a name. In answers of servers, secrets are found as they are, percent-encoded, escaped for JSON or HTML, and in Base64.
"""

from __future__ import annotations

import base64
import binascii
import html
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from decimal import Decimal
from itertools import chain
from typing import Any
from urllib.parse import parse_qsl, quote, quote_plus

from app.actions.integration_kinds import MASK
from app.core.models import Outcome

# Of members, and of names in templates.
_SECRET_MEMBER = re.compile(
    r"token|secret(?!ar)|passw|passphrase|passcode|pwd|auth(?!or(?!i[sz]))|signature|credential|cookie|jwt"
    r"|(api|access|private|account|licen[cs]e|encryption|subscription|functions)[-_]?key",
    re.IGNORECASE,
)
# More names for headers and query parameters: in data they usually mean something else.
_SECRET_NAME = re.compile(rf"{_SECRET_MEMBER.pattern}|session|^(key|sig|code)$|(?<!idempotency)[-_]key$", re.IGNORECASE)
# The signature is no secret for the server that receives it. All attempts have one: their answers would all be searched for it.
_PUBLIC_HEADERS = ("webhook-signature",)
_ABOUT_A_SECRET = re.compile(r"(type|name|expir\w*|count|limit|length|method|mode|status)$", re.IGNORECASE)
# Webhooks of Slack (also of its workflows), Discord, Telegram, Zapier and Teams.
_SECRET_PATHS = (
    re.compile(r"/(?:services|workflows|triggers)/(T\w+/\w+/\w+(?:/\w+)?)"),
    re.compile(r"/webhooks/\d+/([\w-]{20,})"),
    re.compile(r"/bot(\d+:[\w-]{20,})"),
    re.compile(r"/hooks/catch/\d+/(\w+)"),
    re.compile(r"/webhookb2/[\w@-]+/IncomingWebhook/([\w/-]+)"),
)
_MAX_SECRETS, _MAX_SECRET_CHARACTERS = 200, 16_384
_MIN_LENGTH = 4
# A shorter secret is masked only as a word of its own, since it may be a part of anything.
_MIN_LENGTH_INSIDE = 8
_MIN_CUT, _MAX_CUT = 6, 500
_WRITTEN_MEMBER = re.compile(r'"(?P<name>[^"\\]{1,100})"\s{0,100}:\s{0,100}"(?P<value>(?:[^"\\]|\\.)*)"')


def is_secret_name(name: str) -> bool:
    """Whether a header or query parameter of this name has a secret value."""
    return _SECRET_NAME.search(name) is not None


def is_secret_member(name: str) -> bool:
    """Whether a member of this name has a secret value."""
    return _SECRET_MEMBER.search(name) is not None and _ABOUT_A_SECRET.search(name) is None


class Secrets:
    """The secrets of one attempt."""

    def __init__(self) -> None:
        self._texts: set[str] = set()
        self._characters = 0
        self._is_full = False
        # The forms by their first _MIN_LENGTH_INSIDE characters; and shorter ones, which are masked as words.
        self._forms: dict[str, set[str]] = {}
        self._words: set[str] = set()

    def add(self, *texts: str) -> None:
        """Mask these texts from now on, except those that are too short to be recognised. With more than _MAX_SECRETS, or more
        than _MAX_SECRET_CHARACTERS in them together, whole texts are masked. Takes up to 0.1 s."""
        for text in map(str.strip, texts):
            is_usable = len(text) >= (_MIN_LENGTH_INSIDE if text.isdigit() else _MIN_LENGTH) and text != MASK
            if is_usable and text not in self._texts:
                self._characters += len(text)
                if len(self._texts) == _MAX_SECRETS or self._characters > _MAX_SECRET_CHARACTERS:
                    self._is_full = True
                    return
                self._texts.add(text)
                for form in set(_forms(text)):
                    if len(form) < _MIN_LENGTH_INSIDE:
                        self._words.add(form)
                    else:
                        self._forms.setdefault(form[:_MIN_LENGTH_INSIDE], set()).add(form)

    def add_value(self, value: Any) -> None:
        """Mask all texts in a value, and its numbers."""
        if isinstance(value, Mapping):
            for member in value.values():
                self.add_value(member)
        elif isinstance(value, list | tuple):
            for member in value:
                self.add_value(member)
        elif value is not None and not isinstance(value, bool):
            self.add(str(value))

    def add_header(self, name: str, value: str) -> None:
        """Mask the value of a header with a secret name: all of it, and its parts."""
        if not is_secret_name(name) or name in _PUBLIC_HEADERS:
            return
        scheme, _, credentials = value.strip().partition(" ")
        self.add(value, credentials)
        if scheme.lower() == "basic":
            user_and_password = _decoded(credentials)
            user, _, password = user_and_password.partition(":")
            # Some services take the key as the name, without a password.
            self.add(user_and_password, password or user)
        if "cookie" in name.lower():
            self.add(*(pair.partition("=")[2] for pair in value.split(";")))

    def add_path(self, path: str) -> None:
        """Mask what is secret in the path of a URL."""
        self.add(*(match[1] for pattern in _SECRET_PATHS for match in pattern.finditer(path)))

    def mask(self, text: str, *, is_cut: bool = False) -> str:
        """The text without the secrets, in any of their forms. With `is_cut` it may end within one."""
        if self._is_full and len(text) >= _MIN_LENGTH:
            return MASK
        if not self._texts or len(text) < _MIN_LENGTH:
            return text
        for form in self._forms_in(text):
            text = text.replace(form, MASK)
        if words := sorted((word for word in self._words if word in text), key=len, reverse=True):
            text = re.sub(rf"(?<![A-Za-z0-9])(?:{'|'.join(map(re.escape, words))})(?![A-Za-z0-9])", MASK, text)
        return self._without_cut_secret(text) if is_cut else text

    def mask_value(self, value: Any) -> Any:
        """A value with all its texts masked."""
        if isinstance(value, str):
            return self.mask(value)
        if isinstance(value, Mapping):
            return {name: self.mask_value(member) for name, member in value.items()}
        return [self.mask_value(member) for member in value] if isinstance(value, list | tuple) else value

    def mask_outcome(self, outcome: Outcome) -> Outcome:
        """The outcome with everything masked that is stored of it."""
        if not self._texts and not self._is_full:
            return outcome
        return replace(
            outcome,
            error=outcome.error and self.mask(outcome.error),
            target=outcome.target and self.mask(outcome.target),
            output=self.mask_value(outcome.output),
            request=self.mask_value(outcome.request),
            response=self.mask_value(outcome.response),
        )

    def _forms_in(self, text: str) -> list[str]:
        """The forms that may be in a text, the longest first. Looking for each of thousands would take long."""
        parts = {text[index : index + _MIN_LENGTH_INSIDE] for index in range(len(text) - _MIN_LENGTH_INSIDE + 1)}
        found = [form for part in self._forms.keys() & parts for form in self._forms[part]]
        return sorted(found, key=len, reverse=True)

    def _without_cut_secret(self, text: str) -> str:
        end = text[-_MAX_CUT:]
        forms = [form for form in chain.from_iterable(self._forms.values()) if form[:_MIN_CUT] in end]
        for form in sorted(forms, key=len, reverse=True):
            for length in range(min(len(form) - 1, _MAX_CUT), _MIN_CUT - 1, -1):
                if text.endswith(form[:length]):
                    return text[:-length] + MASK
        return text


def _forms(text: str) -> Iterator[str]:
    """The forms in which a server may send a text back."""
    raw = text.encode("utf-8", "replace")
    yield text
    for encoded in (quote(raw, safe=""), quote(raw), quote_plus(raw)):
        yield encoded
        first, *others = encoded.split("%")
        yield "%".join([first, *(part[:2].lower() + part[2:] for part in others)])
    for escaped in (json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1]):
        yield escaped
        yield escaped.replace("/", "\\/")
        # In JSON that is a text in JSON.
        yield json.dumps(escaped, ensure_ascii=False)[1:-1]
        yield json.dumps(escaped)[1:-1]
    yield html.escape(text)
    yield html.escape(text, quote=False)
    if len(raw) >= _MIN_LENGTH_INSIDE:
        yield from _base64_forms(raw)


def _base64_forms(raw: bytes) -> Iterator[str]:
    """What Base64 makes of bytes wherever they stand in a larger text: it depends on their position modulo three."""
    for before in range(3):
        encoded = base64.b64encode(bytes(before) + raw).decode()
        # Only the characters that the bytes around do not change.
        part = encoded[-(-8 * before // 6) : 8 * (before + len(raw)) // 6]
        yield part
        yield part.translate(str.maketrans("+/", "-_"))


def _decoded(credentials: str) -> str:
    try:
        return base64.b64decode(credentials.strip()).decode("utf-8", "replace")
    except (binascii.Error, ValueError):
        return ""


# Bodies


def mask_members(value: Any, secrets: Secrets) -> tuple[Any, bool]:
    """A JSON value with the texts and numbers of secret names masked, which `secrets` keeps; and whether there are any."""
    if isinstance(value, dict):
        masked, is_changed = {}, False
        for name, member in value.items():
            if is_secret_member(name) and _has_secret(name, member):
                secrets.add_value(member)
                masked[name], is_changed = MASK, True
            else:
                masked[name], inner = mask_members(member, secrets)
                is_changed |= inner
        return masked, is_changed
    if isinstance(value, list):
        members = [mask_members(member, secrets) for member in value]
        return [member for member, _ in members], any(inner for _, inner in members)
    return value, False


def mask_written_members(text: str, secrets: Secrets) -> str:
    """`mask_members` for a text that looks like JSON but cannot be parsed: it is cut, or nested too deep."""

    def masked(match: re.Match[str]) -> str:
        if not is_secret_member(match["name"]):
            return match[0]
        secrets.add(match["value"])
        return f'"{match["name"]}":"{MASK}"'

    return _WRITTEN_MEMBER.sub(masked, text)


def _has_secret(name: str, value: Any) -> bool:
    """Whether there is a text or a number in a member of a secret name. A number of tokens (`max_tokens`) is no secret."""
    if isinstance(value, dict | list):
        return any(_has_secret(name, member) for member in (value.values() if isinstance(value, dict) else value))
    if isinstance(value, str):
        return value != ""
    return isinstance(value, int | Decimal) and not isinstance(value, bool) and not name.lower().endswith("tokens")


def add_form(body: str, secrets: Secrets) -> None:
    """Keep the values of a form body that have a secret name."""
    secrets.add(*(value for name, value in parse_qsl(body) if is_secret_member(name)))
