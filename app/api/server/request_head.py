"""Strict checks of a request's first line and header fields, in front of gevent's parser, which is lax.

What two HTTP implementations could understand differently is refused (RFC 9112): the end of a request is then the
same for us and for any proxy in front.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedReader
from typing import Any

from app.core.errors import Problem, ProblemType

_REQUEST_LINE = re.compile(r"([A-Z-]{3,20}) (\S+) (.*)\r\n")
# In absolute form the path may be missing.
_TARGET = re.compile(r"(?:https?://[!-.0-~]+)?(/[!-\"$-~]*)|https?://[!-\"$-.0->@-~]+", re.ASCII)
_FIELD = re.compile(
    rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*((?:[!-~\x80-\xff](?:[\t -~\x80-\xff]*[!-~\x80-\xff])?)?)[ \t]*\r\n"
)
# A repetition would leave open which of them counts.
_ONCE = frozenset({"content-length", "content-type", "host", "transfer-encoding"})


@dataclass(frozen=True, slots=True)
class Limits:
    """How large a request's head may be: bytes of its first line, number of fields, bytes of a field."""

    line: int
    fields: int
    field_size: int


def check_request_line(line: str, limits: Limits) -> str:
    """The path and query that a request line asks for; raises Problem unless it is `METHOD target HTTP/1.1`."""
    if len(line) > limits.line + 2:
        raise Problem(ProblemType.URI_TOO_LONG, f"The request line is longer than {limits.line} bytes.")
    parts = _REQUEST_LINE.fullmatch(line)
    target = _TARGET.fullmatch(parts[2]) if parts else None
    if not parts or not target:
        raise Problem(ProblemType.MALFORMED_REQUEST, "The request line must be `METHOD target HTTP/1.1`.")
    if parts[3] not in ("HTTP/1.1", "HTTP/1.0"):
        raise Problem(ProblemType.HTTP_VERSION_NOT_SUPPORTED, "The version must be HTTP/1.0 or HTTP/1.1.")
    return target[1] or "/"


class HeaderFields(dict[str, str]):
    """The header fields of a request by their names in lower case, as `pywsgi.WSGIHandler` reads them.

    Transfer-Encoding is not among them: `chunked` tells whether it was there.
    """

    # What WSGIHandler reads besides: no error, since an error raises Problem.
    status = ""

    def __init__(self) -> None:
        super().__init__()
        self.chunked = False

    def get(self, name: str, default: Any = None) -> Any:
        """The value of a field; WSGIHandler asks for some in capitals."""
        return dict.get(self, name.lower(), default)

    getheader = get

    @property
    def typeheader(self) -> Any:
        """The Content-Type, or None."""
        return self.get("content-type")

    @property
    def headers(self) -> Iterator[str]:
        """Each field as a line."""
        return (f"{name}: {value}" for name, value in self.items())


def read_header_fields(rfile: BufferedReader[Any], limits: Limits, version: str) -> HeaderFields:
    """Read a head up to its empty line; raises Problem for what is malformed, ambiguous or too large."""
    fields, count = HeaderFields(), 0
    while (line := rfile.readline(limits.field_size + 2)) != b"\r\n":
        count += 1
        match = _FIELD.fullmatch(line)
        if count > limits.fields or (match is None and len(line) == limits.field_size + 2):
            raise Problem(
                ProblemType.HEADERS_TOO_LARGE,
                f"At most {limits.fields} header fields of {limits.field_size} bytes are allowed.",
            )
        if match is None:
            raise Problem(ProblemType.MALFORMED_REQUEST, "A header field is not `Name: value`.")
        name, value = match[1].decode("ascii").lower(), match[2].decode("latin-1")
        if name not in fields:
            fields[name] = value
        elif name in _ONCE:
            raise Problem(ProblemType.MALFORMED_REQUEST, "A header field is repeated that can be there only once.")
        else:
            fields[name] += f"{'; ' if name == 'cookie' else ','}{value}"
    _check_framing(fields, version)
    return fields


def _check_framing(fields: HeaderFields, version: str) -> None:
    length, encoding = fields.get("content-length"), fields.pop("transfer-encoding", None)
    if encoding is not None:
        if length is not None or version == "HTTP/1.0":
            raise Problem(ProblemType.MALFORMED_REQUEST, "Transfer-Encoding contradicts Content-Length or HTTP/1.0.")
        if encoding.lower() != "chunked":
            raise Problem(ProblemType.NOT_IMPLEMENTED, "Transfer-Encoding can only be chunked.")
        fields.chunked = True
    if length is not None and not (length.isascii() and length.isdecimal() and len(length) <= 1_000):
        raise Problem(ProblemType.MALFORMED_REQUEST, "Content-Length is not a number.")
    expected = fields.get("expect", "100-continue").lower()
    if expected != "100-continue":
        raise Problem(ProblemType.EXPECTATION_FAILED, "Expect can only be 100-continue.")
    if version == "HTTP/1.0":
        # Such a client does not know 100 Continue (RFC 9110, 10.1.1).
        fields.pop("expect", None)
