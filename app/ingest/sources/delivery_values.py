"""Finds the values that verification and handshakes need in a request: headers, query parameters, parts of the body."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, TypeVar
from urllib.parse import parse_qsl

import msgspec

from app.core.errors import Problem, ProblemType
from app.core.exact_json import ExactTexts
from app.core.forms import FORMS, MAX_FIELDS, URLENCODED, UnreadableForm, read_form
from app.core.gzip_body import BYTE_ORDER_MARK, unpack
from app.core.pacing import pause_if_due
from app.workflows.sources.mapping import DeliveryView
from app.workflows.sources.schemes import Location

_text_or_number = msgspec.json.Decoder(str | int)
# Bytes that are hashed in one piece.
PIECE = 256 * 1024


class _Digest(Protocol):
    def update(self, data: bytes, /) -> None:
        """Read a part of what is digested."""


Digest = TypeVar("Digest", bound=_Digest)


@dataclass(frozen=True, slots=True)
class DeliveryRequest:
    """A delivery as it was received.

    `url`: as the sender called it, with scheme, host, path and query. `headers`: names in lower case, values decoded as
    latin-1. `raw_body`: the bytes on the wire; `body`: without Content-Encoding. Both keep a byte order mark. `fault`: why the
    raw body cannot be unpacked; `body` is empty then.
    """

    method: str
    url: str
    headers: Mapping[str, str]
    raw_body: bytes
    body: bytes
    fault: str = ""

    @property
    def media_type(self) -> str:
        """The media type in lower case, without parameters."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    def view(self, hidden: Sequence[Location] = ()) -> DeliveryView:
        """What a mapping sees of it: all but the headers and parameters at `hidden`, which have a secret."""
        query_text, headers = self.url.partition("?")[2], self.headers
        query = dict(parse_qsl(query_text, keep_blank_values=True)) if query_text else {}
        if hidden:
            names = {(location.kind, location.name) for location in hidden}
            headers = {name: value for name, value in headers.items() if ("header", name) not in names}
            query = {name: value for name, value in query.items() if ("query", name) not in names}
        return DeliveryView(
            method=self.method,
            query=query,
            headers=headers,
            body=self.body,
            media_type=self.media_type,
            fault=self.fault,
        )


def unpack_body(
    raw: bytes, encoding: str, limit: int, check: Callable[[int], None] = lambda size: None
) -> tuple[bytes, str]:
    """The raw body of a delivery without its content encoding, or why it cannot be unpacked to at most `limit` bytes: it may
    be verified all the same, and is not lost. Raises what `check` raises."""
    if not encoding:
        return raw, ""
    if encoding != "gzip":
        return b"", f"Content-Encoding is {encoding[:40]!r}; it must be gzip or absent."
    try:
        return unpack(raw, limit, check), ""
    except Problem as exc:
        if exc.type not in (ProblemType.MALFORMED_BODY, ProblemType.BODY_TOO_LARGE):
            raise
        return b"", exc.detail


class NotVerified(Exception):
    """The delivery is not verified; the message says why, without secrets."""


def without_prefix(value: bytes, prefix: str) -> bytes | None:
    """The value after its prefix, which may be in upper or lower case; None if it does not begin with it."""
    start = prefix.encode()
    return value[len(start) :] if value[: len(start)].lower() == start.lower() else None


class DeliveryValues:
    """The values of one request. Query and body are parsed at most once, and only if they are needed."""

    def __init__(self, request: DeliveryRequest) -> None:
        self.request = request

    @property
    def body(self) -> bytes:
        """The unpacked body. Raises NotVerified when it cannot be unpacked."""
        if self.request.fault:
            raise NotVerified(f"the body cannot be unpacked ({self.request.fault.rstrip('.')})")
        return self.request.body

    def find(self, location: Location) -> bytes | None:
        """The value there, without its prefix; None if it is missing or empty."""
        if location.kind == "header":
            found = self.request.headers.get(location.name, "").strip().encode("latin-1", "replace")
        else:
            text = self._query.get(location.name) if location.kind == "query" else self._find_in_body(location.name)
            found = (text or "").encode("utf-8", "replace")
        return without_prefix(found, location.prefix) or None

    def find_first(self, locations: Sequence[Location]) -> bytes:
        """The first value that is there. Raises NotVerified if none is."""
        for location in locations:
            if (found := self.find(location)) is not None:
                return found
        raise NotVerified(f"{' or '.join(map(str, locations))} is missing")

    def sign_form(self, body_hash: str | None) -> bytes:
        """The fields of a form as Twilio signs them: sorted, each name with its value behind it, equal ones once.

        For a body that is not a form, the query parameter `body_hash` has to be its SHA-256 in hex. Raises NotVerified for a body
        that neither covers.
        """
        sent = self._query.get(body_hash) if body_hash else None
        if sent is not None:
            digest = in_pieces(hashlib.sha256(), self.request.raw_body).hexdigest()
            if not hmac.compare_digest(sent.lower().encode("utf-8", "replace"), digest.encode()):
                raise NotVerified(f"the query parameter {body_hash} is not the SHA-256 of the body")
        if self.request.media_type == URLENCODED:
            return "".join(name + value for name, value in sorted(set(self._form))).encode("utf-8", "replace")
        if self.request.raw_body and sent is None:
            raise NotVerified("the body is not a form, and the URL does not contain its SHA-256")
        return b""

    @cached_property
    def _query(self) -> Mapping[str, str]:
        _, _, query = self.request.url.partition("?")
        return _first_values(_read_pairs(query))

    @cached_property
    def _form(self) -> list[tuple[str, str]]:
        try:
            pairs = read_form(self.body, self.request.headers.get("content-type", ""))
        except UnreadableForm as exc:
            raise NotVerified(f"the body is a form, and {exc}") from None
        return [(name, value) for name, value in pairs if isinstance(value, str)]

    @cached_property
    def _texts(self) -> ExactTexts:
        return ExactTexts(self.body.removeprefix(BYTE_ORDER_MARK))

    def _find_in_body(self, path: str) -> str | None:
        if self.request.media_type in FORMS:
            return _first_values(self._form).get(path)
        # Only the needed member is read: the sender is not verified yet, and the body may be large.
        try:
            return str(_text_or_number.decode(self._texts.at(tuple(path.split(".")))))
        except (LookupError, msgspec.ValidationError):
            return None
        except (ValueError, RecursionError):
            raise NotVerified("the body is neither JSON nor a form") from None


def in_pieces(digest: Digest, text: bytes) -> Digest:
    """The digest, after it has read a text; other requests run in between."""
    for start in range(0, len(text), PIECE):
        pause_if_due()
        digest.update(text[start : start + PIECE])
    return digest


def _read_pairs(text: str) -> list[tuple[str, str]]:
    try:
        return parse_qsl(text, keep_blank_values=True, max_num_fields=MAX_FIELDS)
    except ValueError:
        raise NotVerified(f"the URL has more than {MAX_FIELDS} parameters") from None


def _first_values(pairs: list[tuple[str, str]]) -> dict[str, str]:
    return dict(reversed(pairs))
