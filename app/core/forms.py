"""Reads the fields of forms, urlencoded or `multipart/form-data`; of files only their names, types and sizes. In pieces, between
which other requests run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote_to_bytes

from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.http import parse_options_header
from werkzeug.sansio.multipart import Data, Field, File, MultipartDecoder, NeedData, State

from app.core.pacing import pause_if_due

URLENCODED, MULTIPART = "application/x-www-form-urlencoded", "multipart/form-data"
FORMS = (URLENCODED, MULTIPART)
MAX_FIELDS = 10_000
# Bytes that are decoded in one piece.
_PIECE = 4 * 1024
_CHUNK = 64 * 1024
# Of the headers of a part.
_MAX_HEADERS = 4 * _CHUNK


class UnreadableForm(ValueError):
    """A form that cannot be read; the message says why."""


@dataclass(frozen=True, slots=True)
class FormFile:
    """A file in a form, without its contents; `size` in bytes."""

    filename: str
    content_type: str
    size: int


def read_form(body: bytes, content_type: str, *, errors: str = "replace") -> list[tuple[str, str | FormFile]]:
    """Names and values of the fields of a form, in their order. Raises UnreadableForm: more than MAX_FIELDS fields, or parts that
    cannot be read. `errors`: what happens to an urlencoded form that is not UTF-8, as in `bytes.decode`. In parts, what is not
    UTF-8 becomes U+FFFD."""
    media_type, options = parse_options_header(content_type)
    return _read_multipart(body, options) if media_type.lower() == MULTIPART else [*read_urlencoded(body, errors)]


def read_urlencoded(body: bytes, errors: str = "replace") -> list[tuple[str, str]]:
    """The same for an urlencoded form."""
    if body.count(b"&") >= MAX_FIELDS:
        raise UnreadableForm(f"it has more than {MAX_FIELDS:,} fields")
    pairs = (part.partition(b"=") for part in body.split(b"&") if part)
    return [(_decode(name, errors), _decode(value, errors)) for name, _, value in pairs]


def _decode(text: bytes, errors: str) -> str:
    """A name or value without its escapes."""
    pause_if_due()
    if b"+" in text:
        text = text.replace(b"+", b" ")
    if b"%" not in text:
        return text.decode(errors=errors)
    if len(text) <= _PIECE:
        return unquote_to_bytes(text).decode(errors=errors)
    parts, position = [], 0
    while position < len(text):
        pause_if_due()
        end = position + _PIECE
        # An escape has three characters and is not cut.
        escape = text.rfind(b"%", end - 2, end)
        end = end if escape < 0 else escape
        parts.append(unquote_to_bytes(text[position:end]))
        position = end
    return b"".join(parts).decode(errors=errors)


@dataclass(slots=True)
class _Part:
    """A field or a file of a form, while it is read."""

    event: Field | File
    size: int = 0
    pieces: list[bytes] = field(default_factory=list)

    def add(self, data: bytes) -> None:
        self.size += len(data)
        if isinstance(self.event, Field):
            self.pieces.append(data)

    def value(self) -> str | FormFile:
        if isinstance(self.event, File):
            return FormFile(self.event.filename, self.event.headers.get("content-type", ""), self.size)
        return b"".join(self.pieces).decode(errors="replace")


def _read_multipart(body: bytes, options: Mapping[str, str]) -> list[tuple[str, str | FormFile]]:
    boundary = options.get("boundary", "").encode("latin-1", "replace")
    if not boundary:
        raise UnreadableForm("its media type has no boundary")
    decoder = MultipartDecoder(boundary, _MAX_HEADERS, max_parts=MAX_FIELDS)
    found: list[tuple[str, str | FormFile]] = []
    part: _Part | None = None
    position = 0
    try:
        while decoder.state is not State.EPILOGUE:
            pause_if_due()
            event = decoder.next_event()
            if isinstance(event, NeedData):
                if position >= len(body):
                    raise UnreadableForm("it ends before its last boundary")
                decoder.receive_data(body[position : position + _CHUNK])
                position += _CHUNK
            elif isinstance(event, (Field, File)):
                part = _Part(event)
            elif isinstance(event, Data) and part is not None:
                part.add(event.data)
                if not event.more_data:
                    found.append((part.event.name or "", part.value()))
    except RequestEntityTooLarge:
        raise UnreadableForm(
            f"it has more than {MAX_FIELDS:,} fields, or headers of more than {_MAX_HEADERS} bytes"
        ) from None
    except ValueError as exc:
        raise exc if isinstance(exc, UnreadableForm) else UnreadableForm(f"its parts cannot be read: {exc}") from None
    return found
